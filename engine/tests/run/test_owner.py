"""Whose run it is: of a run that is not signed with the user's key, nothing is composed, imported, executed or written."""

import json
import multiprocessing
import os
import shutil
import stat
import sys
from types import SimpleNamespace

import pytest
import torch

import leyden
from leyden.base.errors import UserError
from leyden.run import owner
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.record import read_record
from tests import records
from tests.conftest import QUICK
from tests.run.conftest import use


@pytest.fixture
def touched(monkeypatch):
    """What a module that only a stranger's settings name has done."""
    calls = []
    monkeypatch.setitem(
        sys.modules, "stranger", SimpleNamespace(Bomb=lambda **given: calls.append(given))
    )
    return calls


def poisoned(run):
    """A run whose record names a stranger's code in each part, and is not signed."""
    config = records.config(run)
    bomb = {"_target_": "stranger.Bomb"}
    for part in ("model", "task", "optimizer"):
        config[part] |= bomb
    config["data"]["dataset"] = config["callbacks"]["x"] = bomb
    records.put(run, config=config, is_own=False)
    return run


def forged(run, text):
    """The signature replaced by another text."""
    content = records.content(run)
    (run / "run.json").write_text(json.dumps({**content, "signature": text}))
    return run


def assert_refused(ended, words):
    """A command has ended with a line that has these words."""
    code, _, err = ended
    assert code == 2, err
    assert err.count("\n") == 1, err
    assert words in err


def test_a_record_is_own_by_its_signature_alone(own, monkeypatch):
    path = own / "run.json"
    signed = records.content(own)["signature"]
    assert read_record(own).is_own
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1', 1))
    assert not read_record(own).is_own
    for text in ("0" * 64, "", signed):  # the last one of what the record was before
        assert not read_record(forged(poisoned(own), text)).is_own
    # A result that is added by the run itself does not make a stranger's settings the user's.
    run = Run(own)
    run.end(run.result)
    run.set_overrides(["a=1"], {})
    assert not run.record.is_own
    with monkeypatch.context() as patch:
        patch.setattr(owner, "key", lambda: "x" * 64)
        records.put(own)
        assert read_record(own).is_own
    assert not read_record(own).is_own


def test_nothing_of_a_strangers_run_is_used(own, cli, tmp_path, touched):
    run = poisoned(own)
    before = records.files(tmp_path)
    longer = "trainer.max_epochs=2"
    commands = [
        *(use(verb, run) for verb in ("evaluate", "predict", "export", "note", "train")),
        use("train", run, longer),
        ("train", f"run_dir={tmp_path / 'fork'}", f"fork={run}", longer),
        ("train", "-m", "sweep_name=s", f"fork={run}", "optimizer.lr=0.1,0.2", longer),
    ]
    for command in commands:
        assert_refused(cli(*command), "is not a run of yours (recorded on ")
    for part in ("module", "network", "data"):
        with pytest.raises(UserError, match="is not a run of yours"):
            getattr(leyden.load(run), part)
    assert not touched
    assert records.files(tmp_path) == before
    assert leyden.load(run).metrics


def test_what_the_user_trusts_is_used(own, cli, command, touched):
    run = forged(own, "")
    command("evaluate", f"run={run}", "trust=true")
    assert leyden.load(run, trust=True).network
    command(*use("train", run, "trainer.max_epochs=2", "trust=true"))
    assert Run(run).record.is_own  # from then on it is the user's
    command("evaluate", f"run={run}")
    cli("evaluate", f"run={poisoned(run)}", "trust=true")
    assert touched


def test_a_record_that_is_replaced_after_the_check_is_not_used(own):
    """Whoever can write to the folder could swap records between the two."""
    record = own / "run.json"
    before = read_record(own)
    good = record.read_bytes()
    evil = (poisoned(shutil.copytree(own, own.with_name("evil"))) / "run.json").read_bytes()
    run = Run(own)
    run.check_owner()
    record.write_bytes(evil)
    assert run.config == before.config
    assert run.overrides == json.loads(good)["overrides"]
    record.write_bytes(good)
    identity = RunIdentity({**before.config, "run_dir": "a", "resume": "auto"})
    run = Run(own)
    with run.locked(identity, resume="auto"):
        record.write_bytes(evil)
        with pytest.raises(UserError, match="is not a run of yours"):
            run.begin(identity, [])


def test_another_checkpoint_than_the_run_has_saved_is_not_used(own, cli, command, tmp_path):
    best = own / "checkpoints" / "best.ckpt"
    last = own / "checkpoints" / "last.ckpt"
    content = torch.load(best, weights_only=True)
    for weight in content["state_dict"].values():
        weight += 1
    for path in (best, last):
        torch.save(content, path)
    longer = "trainer.max_epochs=2"
    fork = f"run_dir={tmp_path / 'fork'}"
    commands = [use(verb, own) for verb in ("evaluate", "predict", "export")]
    commands += [use("train", own, longer), ("train", fork, f"fork={own}", longer)]
    before = records.files(tmp_path)
    for words in commands:
        assert_refused(cli(*words), "not the checkpoint that this run has saved")
    assert records.files(tmp_path) == before
    _, err = command(
        "train", f"run_dir={tmp_path / 'new'}", f"init_from={own}", *QUICK, "trainer.max_epochs=1"
    )
    assert err.count("best.ckpt: is not the checkpoint that this run has saved") == 1
    command("evaluate", f"run={own}", "trust=true")


def test_checkpoints_elsewhere_are_used_but_nothing_is_written_there(own, cli, command, tmp_path):
    folder = own / "checkpoints"
    folder.rename(tmp_path / "scratch").joinpath("x").touch()
    folder.symlink_to(tmp_path / "scratch")
    before = records.files(tmp_path / "scratch")
    command("evaluate", f"run={own}")
    command(*use("train", own))  # which has finished
    longer = use("train", own, "trainer.max_epochs=2")
    assert_refused(cli(*longer), "through which nothing is written")
    assert records.files(tmp_path / "scratch") == before


def test_a_run_that_a_signal_stops_records_its_checkpoints_and_a_killed_one_resumes(own, command):
    saved = read_record(own).checkpoints
    assert sorted(saved) == ["best", "last"]
    records.forget_result(own)
    run = Run(own)
    assert not run.record.checkpoints
    assert run.newest_checkpoint()
    run.stop()
    assert run.record.checkpoints == saved
    with (own / "checkpoints" / "last.ckpt").open("ab") as last:
        last.write(b" ")
    run.begin(RunIdentity({**run.config, "run_dir": "a", "resume": "auto"}), [])
    assert not run.record.checkpoints  # from now on others are saved


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.delenv(owner.KEY)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    owner.key.cache_clear()
    yield tmp_path / "config" / "leyden"
    owner.key.cache_clear()


def _key(_):
    return owner.key()


def test_processes_that_begin_together_make_one_key_for_this_user_alone(home, capsys):
    with multiprocessing.get_context("fork").Pool(8) as pool:
        (first,) = {*pool.map(_key, range(8), chunksize=1)}
    assert len(first) == 64
    assert owner.key() == first
    assert stat.S_IMODE((home / "key").stat().st_mode) == 0o600
    assert [path.name for path in home.iterdir()] == ["key"]
    (home / "key").rename(home / "real")
    (home / "key").symlink_to("real")  # as who keeps such files in a repository has it
    owner.key.cache_clear()
    assert owner.key() == first
    assert capsys.readouterr().err == ""


KINDS = [
    "a file in place of the folder",
    "short",
    "open to others",
    "pipe",
    "short variable",
    "no UTF-8",
]


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_key_nothing_is_signed_and_the_reason_is_one_line(
    home, capsys, monkeypatch, kind
):
    if kind.startswith("a file"):
        home.parent.write_text("")
    elif kind == "short":
        home.mkdir(parents=True)
        (home / "key").write_text("x")
        (home / "key").chmod(0o600)
    elif kind == "pipe":
        home.mkdir(parents=True)
        os.mkfifo(home / "key", 0o600)
    elif kind == "open to others":
        owner._make_key(home / "key")
        (home / "key").chmod(0o640)
    else:
        key = "x" if kind == "short variable" else "\udcff" * 40
        monkeypatch.setattr("os.environ", {owner.KEY: key})
    assert owner.signature("x") == ""
    assert not owner.is_own("x", "")
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "runs are not signed" in err
    assert (f"chmod 600 {home / 'key'}" in err) == (kind == "open to others")
    assert err.startswith(f"leyden: {owner.KEY}: ") == (kind in ("short variable", "no UTF-8"))

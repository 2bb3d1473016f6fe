"""The run directory: what is continued, used or refused, and which process records an error or requeues the job."""

import importlib.metadata
import re
import shutil
import subprocess
from unittest.mock import Mock

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from leyden.base.errors import Exit, UserError
from leyden.run import directory
from leyden.run.directory import Position, Run, ThisJob
from leyden.run.identity import RunIdentity
from leyden.run.result import Failure, Result
from tests import ROOT, records
from tests.queues.test_requeue import BY_A_PEER
from tests.records import files

CONFIG = {
    "name": "x",
    "optimizer": {"lr": 0.1},
    "trainer": {"max_epochs": 5},
    "run_dir": "a",
    "resume": "auto",
}
LONGER = CONFIG | {"trainer": {"max_epochs": 10}}
FINISHED = Result(
    "finished", None, {}, epochs=5, optimizer_steps=10, seconds=1.0, samples_per_second=1.0
)
IDENTITY = RunIdentity({**CONFIG, "objective": {"metric": "val/acc", "mode": "max"}})
LOST = RuntimeError(BY_A_PEER)
OWN = KeyError("of this process")
OTHER = Result.failed(None, Failure("ValueError", "of another process"))


def reopen(run, config, resume="auto", overrides=()):
    identity = RunIdentity(config)
    with run.locked(identity, resume=resume):
        run.begin(identity, [*overrides])
    return run


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted."""
    return reopen(Run(tmp_path / "run"), CONFIG, overrides=["optimizer.lr=0.1"])


def refuse(run, config, message, resume="auto"):
    before = files(run.directory)
    with pytest.raises(UserError, match=message):
        reopen(run, config, resume)
    assert files(run.directory) == before


def test_a_new_run_holds_its_config_and_where_it_comes_from(run, monkeypatch):
    assert run.config == {"name": "x", "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 5}}
    (start,) = run.starts
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert start["git"]["sha"] == (git.stdout.strip() or None)
    assert start["overrides"] == ["optimizer.lr=0.1"]
    assert start["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"time", "command", "directory", "host", "pid", "python"} <= {*start}
    assert run.submission == {}
    assert run.result is None
    run.submission = {"job_id": "7"}
    assert Run(run.directory).submission == {"job_id": "7"}
    code = {"a.py": "1"}
    monkeypatch.setattr(directory, "code_of", lambda: code)
    reopen(run, CONFIG)
    assert run.starts[-1]["code"] == {"a.py": "1"}
    code = {"b.py": "2"}  # imported while it trains
    run.end(FINISHED)
    assert run.starts[-1]["code"] == {"a.py": "1", "b.py": "2"}


def test_a_run_keeps_its_name_and_its_note_until_others_are_typed(run):
    reopen(run, CONFIG | {"note": "n"}, overrides=["note=n"])
    reopen(run, CONFIG | {"name": "renamed_class", "note": None})
    assert run.config["name"] == "x"
    assert run.config["note"] == "n"
    reopen(run, CONFIG | {"name": "y", "note": None}, overrides=["name=y", "note=null"])
    assert run.config["name"] == "y"
    assert run.config["note"] is None


def test_resume_says_whether_there_may_be_a_run(run, tmp_path):
    refuse(run, CONFIG, "resume=never", resume="never")
    reopen(Run(tmp_path / "new"), CONFIG, resume="never")
    reopen(run, CONFIG, resume="must")
    with pytest.raises(UserError, match="nothing to resume"):
        reopen(Run(tmp_path / "other"), CONFIG, resume="must")
    assert not (tmp_path / "other").exists()


def test_code_that_has_changed_counts_once_there_is_a_checkpoint(run, monkeypatch):
    monkeypatch.setattr(directory, "changed_code", lambda starts: ["a.py"])
    reopen(run, CONFIG)
    last = run.directory / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.touch()
    for resume in ("auto", "must"):
        refuse(run, CONFIG, "a.py changed since the run's last start", resume)
    reopen(run, CONFIG, "changed")
    reopen(run, CONFIG | {"resume": "changed"})
    run.end(FINISHED)
    run.accept(RunIdentity(CONFIG), "auto")  # it is only used
    refuse(run, LONGER, "a.py changed since the run's last start")


def test_what_is_no_run_is_refused_and_stays_as_it_is(run, tmp_path):
    run.end(FINISHED)
    (run.directory / "starts.json").write_text('{"format": 1, "starts": [{"overrides": [1]}]}')
    refuse(run, LONGER, "it has no valid list of starts")
    other = reopen(Run(tmp_path / "other"), CONFIG)
    (tmp_path / "other" / "checkpoints").touch()
    refuse(other, CONFIG, "checkpoints: must be a folder")
    (tmp_path / "thesis.tex").write_text("mine")
    refuse(Run(tmp_path), CONFIG, r"not a run directory, it has no run\.json")
    (tmp_path / "run.json").write_text("[1]")
    refuse(Run(tmp_path), CONFIG, "not a run directory")


def test_the_newest_whole_checkpoint_is_taken(run, capsys):
    assert run.newest_checkpoint() is None
    best = run.directory / "checkpoints" / "best.ckpt"
    last = best.with_name("last.ckpt")
    best.parent.mkdir()
    torch.save({"w": torch.arange(1000)}, best)
    assert run.newest_checkpoint() == best
    shutil.copy(best, last)
    assert run.newest_checkpoint() == last
    assert not capsys.readouterr().err
    whole = last.read_bytes()
    half = whole[: len(whole) // 2]
    altered = whole.replace(b"\5\0\0\0\0", b"\6\0\0\0\0", 1)
    for damaged in (whole[:-100], half, b"", altered):
        last.write_bytes(damaged)
        assert run.newest_checkpoint() == best
        assert str(last) in capsys.readouterr().err
    with pytest.raises(UserError, match=r"last\.ckpt.*checkpoints there: best, last"):
        run.checkpoint("last")
    best.write_bytes(b"")
    with pytest.raises(UserError, match="no intact checkpoint is left"):
        run.newest_checkpoint()


WHOLE = {
    "name": "x",
    "seed": 0,
    "run_dir": "r",
    "callbacks": {
        "checkpoint": {"_target_": "leyden.callbacks.RunCheckpoint", "every_n_steps": None},
        "stop": {"_target_": "lightning.pytorch.callbacks.EarlyStopping", "patience": 3},
    },
    "logger": {"csv": {"_target_": "x"}},
    "data": {"_target_": "d", "root": "/a", "batch_size": 1},
    "trainer": {"max_epochs": 2, "log_every_n_steps": 50},
}
SHOWN = """name=y; data.root=/b; trainer.log_every_n_steps=1; callbacks.checkpoint.every_n_steps=7
cluster={num_jobs: 3}; callbacks.errors={_target_: leyden.pictures.Errors, num_images: 3}
callbacks.bar={_target_: lightning.pytorch.callbacks.RichProgressBar}"""
CHANGING = """seed=1; data.batch_size=2; trainer.max_epochs=1; callbacks.stop.patience=4
callbacks.mine={_target_: mine.Callback}; callbacks.ema={_target_: leyden.callbacks.EMA}
callbacks.pruning={_target_: leyden.sweep.Pruning, metric: val/acc}"""


def changed(setting):
    """The configuration with another value."""
    config = OmegaConf.create(WHOLE)
    key, _, value = setting.partition("=")
    OmegaConf.update(config, key, yaml.safe_load(value))
    return OmegaConf.to_container(config)


def differences(there, here, typed=(), started_by=()):
    return RunIdentity(here, typed).differences(there, started_by)


def test_what_is_shown_and_where_it_lies_may_differ_and_what_can_change_a_bit_may_not():
    for change in re.split("; |\n", SHOWN):
        other = changed(change)
        assert differences(WHOLE, other) == [], change
        assert differences(other, WHOLE) == [], change
    for change in re.split("; |\n", CHANGING):
        assert differences(WHOLE, changed(change), ["callbacks=mine"]), change
    longer = changed("trainer.max_epochs=3")
    assert differences(WHOLE, longer) == []
    scheduled = longer | {"scheduler": {"_target_": "s"}}
    assert differences(WHOLE, scheduled, ["scheduler=cosine"])


@pytest.mark.parametrize(
    ("typed", "started_by", "counts"),
    [
        ("", "", False),  # conf/ has got the key since
        ("data=mine", "data=mine", False),
        ("~data.shuffle", "~data.shuffle", False),
        ("data.shuffle=true", "", True),
        ("data=mine", "seed=1", True),
        ("seed=1", "~data.shuffle", True),
        ("+data.shuffle=true", "data=mine", True),
    ],
)
def test_a_key_that_an_older_run_lacks_counts_if_it_is_typed(typed, started_by, counts):
    here = changed("data.shuffle=true")
    found = differences(WHOLE, here, typed.split(), started_by.split())
    assert found == (["data.shuffle: absent there, True here"] if counts else [])


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """Ends a run's process with an error; returns the run, what was raised, and the requests to requeue."""
    monkeypatch.setattr(directory, "PEER_S", 0.3)

    def end(rank, error, recorded=None, num=2, has_trained=True, has_job=True):
        position = Position(1, 10, has_trained, num)
        requeue = Mock(return_value=True)
        job = ThisJob("7", 3, requeue) if has_job else ThisJob()
        progress = {"position": lambda: position, "before_end": lambda *_: None}
        run = Run(tmp_path / "run")
        monkeypatch.setenv("RANK", "0")
        with run.locked(IDENTITY, resume="auto"):
            run.begin(IDENTITY, [])
        monkeypatch.setenv("RANK", str(rank))

        def fail():
            with directory.session(run, IDENTITY, [], job=job, **progress):
                if recorded:
                    records.put(run.directory, result=recorded)
                raise error

        with pytest.raises((KeyError, RuntimeError, UserError, SystemExit)) as raised:
            fail()
        return run, raised.value, requeue.call_count

    return end


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_connection_requeues_the_job_unless_another_process_has_recorded_its_error(
    ended, rank
):
    run, raised, num_requests = ended(rank, LOST)
    assert raised.code == Exit.REQUEUED
    assert num_requests == 1
    assert run.result is None
    for has_job in (True, False):
        run, raised, num_requests = ended(rank, LOST, OTHER, has_job=has_job)
        assert isinstance(raised, UserError)
        reason = "/run failed in another process: ValueError: of another process"
        assert str(raised).endswith(reason)
        assert num_requests == 0
        assert run.result == OTHER


FIRST = [
    (1, OWN, {}, "KeyError"),  # the main process may be killed before it records anything
    (0, OWN, {"recorded": OTHER}, "KeyError"),
    (1, OWN, {"recorded": OTHER}, "ValueError"),
    (0, LOST, {"num": 1, "has_job": True}, "RuntimeError"),  # no connection of a run of one process
]


@pytest.mark.parametrize(("rank", "error", "given", "kind"), FIRST)
def test_the_first_error_is_recorded(ended, rank, error, given, kind):
    run, raised, num_requests = ended(rank, error, **{"has_job": False} | given)
    assert raised == error
    assert num_requests == 0
    assert run.result.error.type == kind


def test_a_result_stays_and_one_that_the_main_process_knows_of_before_is_its_own(ended):
    run, raised, _ = ended(1, OWN, FINISHED, has_job=False)
    assert raised == OWN
    assert run.result == FINISHED
    run, raised, num_requests = ended(1, OWN, has_trained=False)
    assert raised == OWN
    assert num_requests == 0
    assert run.result is None


@pytest.mark.parametrize("rank", [0, 1])
def test_a_connection_that_is_lost_outside_of_a_job_can_be_resumed(ended, capsys, rank):
    run, raised, _ = ended(rank, LOST, has_job=False)
    assert raised.code == Exit.DIED
    assert run.result is None
    line = f"{run.directory}: another process has died; .*run_dir={run.directory} starts over"
    is_said = re.search(line, capsys.readouterr().err) is not None
    assert is_said == (rank == 0)


@pytest.mark.parametrize(
    ("code", "ends"),
    [(1, Exit.INTERRUPTED), (0, Exit.TERMINATED), (138, 138), (138, Exit.REQUEUED)],
)
def test_told_to_stop_it_says_what_the_same_command_does(ended, capsys, code, ends):
    run, raised, _ = ended(0, SystemExit(code), has_job=ends == Exit.REQUEUED)
    assert raised.code == ends
    assert run.result is None
    assert f"run_dir={run.directory} starts over, nothing was saved yet." in capsys.readouterr().err

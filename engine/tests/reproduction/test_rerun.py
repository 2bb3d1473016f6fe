"""A run is made anew from its directory, and what is not the same any more is found."""

import itertools
import os
import shlex
import signal

import pytest
from omegaconf import OmegaConf

from leyden.config.errors import UserError
from leyden.config.paths import ROOT, environment_of
from leyden.reproduction import recipe, rerun
from leyden.reproduction.recipe import keep_overrides
from leyden.run.directory import Run
from tests import records
from tests.conftest import SMALL
from tests.data import folders
from tests.reproduction.conftest import git, start

SHORT = ("model.dropout=0.2", "trainer.max_epochs=1", "callbacks=bare", "callbacks.fingerprint.every_n_steps=5")


@pytest.fixture
def trained(cli, tmp_path, repository, commit):
    """A small run, as if it had been made by the commit of the repository and a new file."""
    code, _, err = cli("train", f"run_dir={tmp_path / 'run'}", *SMALL, *SHORT)
    assert code == 0, err
    (repository / "new file.py").write_text("a = 1\n")
    git(repository, "add", "--intent-to-add", "new file.py")
    diff = git(repository, "diff", "--binary", "HEAD") + "\n"
    git(repository, "rm", "-q", "--cached", "new file.py")
    (repository / "new file.py").unlink()
    run = Run(tmp_path / "run")
    set_code(run, {"sha": commit[1], "dirty": True, "diff": diff, "left_out": []})
    return run


def set_code(run, told):
    starts = run.starts
    starts[-1]["git"] = told
    records.put(run.directory, starts=starts)


@pytest.mark.slow(minutes=0.1)
def test_a_run_is_made_anew_and_a_change_of_its_code_is_found(call, trained, repository, tmp_path):
    recorded = tmp_path / "outputs" / "test_evaluations.csv"
    assert len(recorded.read_text().splitlines()) == 2
    data = f"data_root={ROOT / 'data'}"
    code, told = call(f"run={trained.directory}", f"output={tmp_path / 'again'}", data)
    assert code == 0, told
    assert "equal, bit for bit, over all 2 fingerprints, up to step 10" in told
    again = Run(tmp_path / "again")
    assert again.recorded == trained.recorded
    assert again.starts[-1]["git"]["sha"] == trained.starts[-1]["git"]["sha"]
    assert again.starts[-1]["git"]["dirty"] is True
    assert again.starts[-1]["machine"]["threads"] == trained.starts[-1]["machine"]["threads"]
    assert len(recorded.read_text().splitlines()) == 3, "it was evaluated on the test set, which must be recorded"

    # The same by a commit whose network starts with other weights.
    path = next(repository.glob("src/*/models/mlp.py"))
    before = path.read_text()
    path.write_text(before.replace("xavier_uniform_", "xavier_normal_"))
    assert path.read_text() != before
    git(repository, "commit", "-q", "-a", "-m", "second")
    set_code(trained, {"sha": git(repository, "rev-parse", "HEAD"), "dirty": False, "diff": "", "left_out": []})
    code, told = call(f"run={trained.directory}", "threads=1", data)
    assert code == 1, told
    assert "diverged: step 5 is the first fingerprint that differs, in weights, optimizer" in told
    assert "val/loss: " in told
    assert " apart" in told


@pytest.mark.slow
def test_each_command_after_it_holds(call, cli, repository, commit, tmp_path):
    pictures = folders.write(tmp_path / "pictures")
    other = (
        "data=folder",
        f"data.root={pictures}",
        "data.image_size=[28,28]",
        "data.num_workers=0",
        "data.batch_size=4",
    )
    code, _, err = cli(
        "train", f"run_dir={tmp_path / 'other'}", *other, *SHORT, "model.hidden_sizes=[4]", "test=false"
    )
    assert code == 0, err
    set_code(Run(tmp_path / "other"), {"sha": commit[1], "dirty": False, "diff": "", "left_out": []})
    code, told = call(f"run={tmp_path / 'other'}", f"output={tmp_path / 'again'}", f"data_root={pictures}")
    assert code == 0, told
    assert told.count("next steps:") == 1
    after = told.partition("next steps:\n")[2].splitlines()
    lines = [line.strip() for line in itertools.takewhile(lambda line: line.startswith("  "), after)]
    steps = {purpose: shlex.split(command) for purpose, command in zip(lines[::2], lines[1::2], strict=True)}
    assert "train on:" in steps
    for purpose, words in steps.items():
        if "tensorboard" in " ".join(words[:3]):
            continue
        code, out, err = cli(words[1], *words[2:], *(("dry_run=true",) if "-m" in words[2:] else ()))
        assert code == 0, (purpose, words, err)
        assert purpose != "train on:" or "epoch 2/2" in out


def test_a_run_of_which_no_overrides_are_known_is_told_by_its_values(cli, trained, tmp_path):
    starts = trained.starts
    starts[0]["overrides"] = []
    records.put(trained.directory, starts=starts)
    arguments = (f"run_dir={trained.directory}", *(each for each in (*SMALL, *SHORT) if "dropout" not in each))
    code, _, err = cli("train", *arguments, "+model.bias=false", "trainer.max_epochs=2")
    assert code == 2
    told = shlex.split(err.partition("use that run's settings: ")[2])
    assert told == ["model.dropout=0.2", "~model.bias"]
    code, _, err = cli("train", *arguments, "trainer.max_epochs=2", told[0])
    assert code == 0, err


@pytest.mark.parametrize("override", ["optimizer.lr=0.5", "nothing.of=this", "++"])
def test_overrides_are_repeated_only_where_they_lead_to_what_was_trained(trained, override):
    there = Run(trained.directory)
    assert keep_overrides(there, trained)
    assert "model.dropout=0.2" in trained.starts[-1]["overrides"]
    starts = trained.starts
    starts[0]["overrides"].append(override)
    records.put(trained.directory, starts=starts)
    assert not keep_overrides(there, trained)


@pytest.mark.slow
def test_a_fork_is_made_anew_from_the_checkpoint_that_it_started_from(call, cli, trained, tmp_path):
    changed = (f"fork={trained.directory}@1", "optimizer.lr=0.01", "trainer.max_epochs=2", "test=false")
    code, _, err = cli("train", f"run_dir={tmp_path / 'fork'}", *changed, "callbacks.fingerprint.every_n_steps=5")
    assert code == 0, err
    fork = Run(tmp_path / "fork")
    set_code(fork, trained.starts[-1]["git"])
    code, told = call(
        f"run={fork.directory}",
        f"output={tmp_path / 'again'}",
        f"data_root={ROOT / 'data'}",
    )
    assert code == 0, told
    assert "equal, bit for bit, over all 4 fingerprints, up to step 20" in told
    (trained.directory / "checkpoints" / "last.ckpt").write_bytes(b"another one")
    code, told = call(f"run={fork.directory}")
    assert code == 2
    assert "last.ckpt is not the checkpoint from which the run started" in told


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ([], "no record of a start"),
        ([start("a" * 40), start("b" * 40)], "start 2 used different code than start 1"),
        ([start(None)], "records no commit"),
        ([start("--help")], "records no commit"),
        ([start("a" * 40, git=3)], "records no commit"),
        ([start("a" * 40)], "commit aaaaaaaaaaaa of the run is not in this repository; git fetch may get it"),
        (
            [start("", git={"sha": "a" * 40, "diff": "", "left_out": ["big.bin"]})],
            "these changes of the code were not saved: big.bin",
        ),
        ([start("", git={"sha": "a" * 40, "diff": None})], "changes of the code were not saved"),
    ],
)
def test_code_that_can_not_be_had_is_refused_in_a_line(call, make, repository, told, message):
    refused(call, message, f"run={make(starts=told)}")


def refused(call, message, *arguments):
    code, told = call(*arguments)
    assert code == 2
    assert message in told
    assert len([line for line in told.splitlines() if line.startswith("leyden: ")]) == 1, told


@pytest.mark.parametrize(
    ("diff", "message"),
    [
        ("x", "can't be read by git apply"),
        (
            "--- a/pyproject.toml\n+++ b/pyproject.toml\n@@ -1 +1 @@\n-no\n+yes\n",
            "don't apply to its commit: pyproject.toml",
        ),
        ("--- /dev/null\n+++ b/../../evil\n@@ -0,0 +1 @@\n+x\n", "don't apply to its commit: ../../evil"),
    ],
)
def test_a_diff_that_does_not_fit_is_refused(call, make, repository, commit, diff, message):
    run = make(starts=[start("", git={"sha": commit[1], "diff": diff, "left_out": []})])
    refused(call, message, f"run={run}")


def test_without_a_repository_there_is_no_code(call, make, repository, monkeypatch, tmp_path):
    run = make()
    monkeypatch.setattr("leyden.reproduction.sources.ROOT", tmp_path)
    refused(call, "is not a git repository", f"run={run}")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hydra": {}}, "hydra is not a key of a run"),
        ({"defaults": []}, "defaults is not a key of a run"),
        ({"trainer": None}, "trainer is missing"),
        ({"trainer": {"accelerator": "gpu"}}, "the run was trained by a GPU, and there is no GPU here"),
        ({"trainer": {"accelerator": "cpu", "num_nodes": 2}}, "trainer.num_nodes=2"),
        ({"init_from": "x"}, "does not record the checkpoint from which the run started (init_from)"),
    ],
)
def test_a_configuration_that_is_refused(call, make, repository, monkeypatch, config, message):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(call, message, f"run={make(config=config)}")


def test_the_checkpoint_that_a_run_started_from_must_be_the_same(call, make, repository, commit, tmp_path):
    parent = {"checkpoint": str(tmp_path / "best.ckpt"), "sha256": "0" * 64}
    run = make(config={"init_from": "x"}, starts=[start(commit[1], parent=parent)])
    refused(call, "best.ckpt, from which the run started, does not exist", f"run={run}")
    (tmp_path / "best.ckpt").write_bytes(b"x")
    refused(call, "best.ckpt is not the checkpoint", f"run={run}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run=DIR: is missing; name a run directory"),
        (["run=nowhere"], "not a run directory"),
        (["somewhere"], "somewhere: must be one of run=, "),
        (["run=RUN", "threads=0"], "threads=0: must be a positive whole number"),
        (["run=RUN", "trust=yes"], "trust=yes: must be one of true, false"),
        (["run=RUN", "output=RUN"], "is not empty"),
        (["run=RUN", "against=RUN", "threads=2"], "threads: has no effect with against="),
        (["run=RUN", "against=nowhere"], "not a run directory"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(call, make, repository, arguments, message):
    run = make()
    refused(call, message, *(argument.replace("RUN", str(run)) for argument in arguments))


def test_a_run_without_fingerprints_is_not_trained(call, make, repository):
    refused(call, "has no fingerprint.csv", f"run={make(fingerprints='')}")


@pytest.fixture
def given(make, repository, monkeypatch):
    """What is given to the training of a run that is written by hand: the root of the configuration, the environment."""
    found = {}

    def take(python, tree, folder, environment):
        found.update(python=python, environment=environment)

    monkeypatch.setattr(rerun, "write_config", lambda root, path: found.update(root=root))
    monkeypatch.setattr(rerun, "_train", take)
    return found


def reproduce(run, **how):
    return rerun.reproduce(Run(run), rerun.ReproduceOptions(**how))


def test_the_test_set_is_looked_at_only_if_the_run_did(make, given, tmp_path):
    for name, metrics in {"none": None, "no": {"val/acc": 1.0}, "yes": {"test/acc": 1.0}}.items():
        reproduce(make(name, metrics=metrics))
        assert given["root"]["test"] is (name == "yes")
        assert given["root"]["run_dir"].startswith(f"{tmp_path}/outputs/reproduced/{name}/")


def test_the_data_are_those_of_the_run_or_those_of_the_user(make, given):
    reproduce(run := make(config={"data": {"root": "/nowhere"}}))
    assert given["root"]["data"]["root"] == "/nowhere"
    reproduce(run, data_root="there")
    assert given["root"]["data"]["root"].endswith("/there")


@pytest.mark.parametrize(
    ("machine", "devices", "threads"),
    [
        ({"cores": 8, "threads": 4, "threads_are_set": False}, 1, "4"),
        ({"cores": 8, "threads": 4, "threads_are_set": False}, 4, "2"),  # Lightning divides the cores
        ({"cores": 8, "threads": 4, "threads_are_set": True}, 4, "4"),
        (None, 1, None),
    ],
)
def test_threads_are_those_of_the_run(make, given, commit, monkeypatch, machine, devices, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    trainer = {"accelerator": "cpu", "devices": devices}
    reproduce(run := make(config={"trainer": trainer}, starts=[start(commit[1], machine=machine)]))
    assert given["environment"].get("OMP_NUM_THREADS") == threads
    reproduce(run, threads=3)
    assert given["environment"]["OMP_NUM_THREADS"] == "3"


def test_what_the_processor_has_computed_is_not_given_to_a_gpu(make, given, monkeypatch):
    here = {"gpus": ["a", "b"]}
    monkeypatch.setattr("leyden.reproduction.environment.machine", lambda: here)
    reproduce(make(config={"trainer": {"accelerator": "auto", "devices": 1}}))
    assert given["root"]["trainer"]["accelerator"] == "cpu"


def test_what_is_written_is_what_is_read(tmp_path):
    """A key that is a number is not the text of the same digits, and a text that looks like a number is none."""
    odd = ["1e5", "1e-3", "on", "???", "", "a\nb", " x", "0x1f", "1_000", "12:30:45", "~", "é", "\x1b"]
    for tree in ({"a": odd, "1e5": 1, 1: odd, "b": [1e5, 1, True, None, 1e-7, {"c": [[]]}]},):
        recipe.write_config(tree, path := tmp_path / "config.yaml")
        assert repr(OmegaConf.to_container(OmegaConf.load(path))) == repr(tree)


@pytest.mark.parametrize("key", ["hydra", "defaults", "hydra/launcher", "../conf", "/etc", "a\nleyden: b", "a b"])
def test_root_keys_that_are_none_of_a_run_are_refused(make, given, key):
    with pytest.raises(UserError, match="is not a key of a run"):
        reproduce(make(config={key: {}}))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_work_tree_is_removed_whatever_ends_it(make, repository, monkeypatch, number):
    monkeypatch.setattr(rerun, "_train", lambda *arguments: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        reproduce(make())
    assert stop.value.code == 128 + number
    assert signal.getsignal(number) == before


def test_other_code_is_never_taken_for_that_of_the_run(make, repository, tmp_path, monkeypatch):
    """As where `leyden` is found elsewhere first."""
    monkeypatch.setattr(rerun, "_environment", lambda tree, number: {**os.environ, **environment_of(ROOT)})
    with pytest.raises(rerun.UserError, match=r"imports .*, not the code of the run"):
        reproduce(make())

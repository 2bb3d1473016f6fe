"""The run directory rule: continue, finished, refused."""

import importlib.metadata
import shutil
import subprocess

import pytest
import torch

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.run.directory import Run
from leyden.run.identity import RunIdentity
from leyden.run.result import Result
from tests.records import files

CONFIG = {"name": "x", "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 5}, "run_dir": "a", "resume": "auto"}
FINISHED = Result("finished", None, {}, epochs=5, optimizer_steps=10, seconds=1.0, samples_per_second=1.0)


def of(config, *overrides):
    return RunIdentity(config, overrides)


@pytest.fixture
def run(tmp_path):
    """A run that was interrupted."""
    run = Run(tmp_path / "run")
    with run.locked(of(CONFIG), resume="auto"):
        run.begin(of(CONFIG), ["optimizer.lr=0.1"])
    return run


def reopen(run, config, resume="auto"):
    with run.locked(of(config), resume=resume):
        run.begin(of(config), [])


def refuse(run, config, message, resume="auto"):
    before = files(run.directory)
    with pytest.raises(UserError, match=message):
        reopen(run, config, resume)
    assert files(run.directory) == before


def test_a_new_run_holds_its_config_and_where_it_comes_from(run):
    assert run.config == {"name": "x", "optimizer": {"lr": 0.1}, "trainer": {"max_epochs": 5}}
    (start,) = run.starts
    sha = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert start["git"]["sha"] == (sha or None)
    assert start["overrides"] == ["optimizer.lr=0.1"]
    assert start["versions"]["torch"] == importlib.metadata.version("torch")
    assert {"time", "command", "directory", "host", "pid", "python"} <= set(start)
    assert run.submission == {}
    run.submission = {"job_id": "7"}
    assert Run(run.directory).submission == {"job_id": "7"}
    assert run.result is None


def test_a_file_in_place_of_the_checkpoints_is_refused(run):
    (run.directory / "checkpoints").touch()
    refuse(run, CONFIG, "checkpoints: must be a folder")


def test_resume_never_and_must(run, tmp_path):
    refuse(run, CONFIG, "resume=never", resume="never")
    reopen(Run(tmp_path / "new"), CONFIG, resume="never")
    reopen(run, CONFIG, resume="must")
    with pytest.raises(UserError, match="nothing to resume"):
        reopen(Run(tmp_path / "other"), CONFIG, resume="must")
    assert not (tmp_path / "other").exists()


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    refuse(Run(tmp_path), CONFIG, r"not a run directory, it has no run\.json")
    (tmp_path / "run.json").write_text("[1]")
    refuse(Run(tmp_path), CONFIG, "not a run directory")


def test_starts_of_another_shape_are_refused_before_the_result_is_replaced(run):
    run.end(FINISHED)
    path = run.directory / "run.json"
    path.write_text(path.read_text().partition('"starts": ')[0] + '"starts": [{"overrides": [1]}]}')
    refuse(run, {**CONFIG, "trainer": {"max_epochs": 10}}, "it has no valid list of starts")


def test_the_newest_whole_checkpoint_is_taken(run, capsys):
    assert run.newest_checkpoint() is None
    (run.directory / "checkpoints").mkdir()
    best, last = (run.directory / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    torch.save({"w": torch.arange(1000)}, best)
    assert run.newest_checkpoint() == best
    shutil.copy(best, last)
    assert run.newest_checkpoint() == last
    assert not capsys.readouterr().err
    whole = last.read_bytes()
    for damaged in (whole[:-100], whole[: len(whole) // 2], b"", whole.replace(b"\5\0\0\0\0", b"\6\0\0\0\0", 1)):
        last.write_bytes(damaged)
        assert run.newest_checkpoint() == best
        assert str(last) in capsys.readouterr().err
    with pytest.raises(UserError, match=r"last\.ckpt.*checkpoints there: best, last"):
        run.checkpoint("last")
    best.write_bytes(b"")
    with pytest.raises(UserError, match="no intact checkpoint is left"):
        run.newest_checkpoint()

"""What is printed after a run are commands that hold."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import QUICK, here


@pytest.fixture
def after(cli, tmp_path):
    """Trains; returns the printed commands by what they are for, and all that was printed."""

    def after(name, *arguments):
        code, out, err = cli("train", f"run_dir={tmp_path / name}", *QUICK, "trainer.max_epochs=1", *arguments)
        assert code == 0, err
        lines = [line.strip() for line in out.partition("next steps:\n")[2].splitlines()]
        return dict(zip([each.removesuffix(":") for each in lines[::2]], lines[1::2], strict=True)), out

    return after


def typed(command):
    program, verb, *arguments = shlex.split(command)
    assert program.rpartition("/")[2] == "leyden"
    return verb, arguments


def test_they_can_be_pasted_and_a_try_has_none(cli, after):
    assert after("try", "+trainer.fast_dev_run=true")[0] == {}
    steps, out = after("run", "test=false", "logger=csv", "trainer.max_epochs=2", "objective.metric=train/acc")
    assert "2, by train/acc" in out
    assert list(steps) == ["evaluate it on the test set", "all runs so far"]
    verb, arguments = typed(steps["evaluate it on the test set"])
    code, out, err = cli(verb, *arguments)
    assert code == 0, err
    assert "test/acc" in out


def test_what_is_viewed_is_there_and_all_runs_are_listed_with_this_one(after, tmp_path, capfd):
    steps, _ = after("run", "scheduler=onecycle", "test=auto")
    folder = shlex.split(steps["view it"])[-1].partition("=")[2]
    assert {path.parent.name for path in Path(folder).rglob("*tfevents*")} == {"train", "val", "test", "best"}
    verb, arguments = typed(steps["all runs so far"])
    assert here(verb, *arguments) == 0
    assert str(tmp_path / "run") in capfd.readouterr().out

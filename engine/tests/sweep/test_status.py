"""The lines that show how far a sweep is."""

from types import SimpleNamespace

import pytest

from leyden.config.checks import Objective
from leyden.run.result import Result
from leyden.sweep.launcher import StatusLine

OVERRIDES = [
    "optimizer.lr=0.0016571640914381709",
    "model.hidden_sizes=[256,256,128]",
    "data.batch_size=64",
    "seed=0",
]


def ended(value, mode="max", overrides=OVERRIDES):
    """A job of a search that has ended with this objective."""
    result = Result("finished", Objective("val/acc", mode, value), {"val/acc": value}, 1, 1, 1.0, None)
    return SimpleNamespace(run=SimpleNamespace(result=result), overrides=list(overrides))


@pytest.mark.parametrize(("mode", "best"), [("max", 0.9), ("min", 0.1)])
def test_the_best_is_that_of_the_objectives_mode(mode, best):
    status = StatusLine(20, set())
    for value in (0.5, 0.9, 0.1, 0.3):
        status.add(ended(value, mode), None)
    assert status.best[0] == best


@pytest.mark.parametrize(
    ("override", "is_named"),
    [
        ("data=mnist", False),
        ("data.root=a", False),
        ("+data.noise=1", False),
        ("data.fold=1", True),
        ("data.batch_size=1", True),
    ],
)
def test_no_job_is_the_best_among_several_data_sets(override, is_named):
    status = StatusLine(20, {"seed=0"})
    status.add(ended(0.9, overrides=["seed=0", override]), None)
    assert (status.best is not None) == is_named


def test_a_line_is_printed_when_a_job_has_ended_or_the_reason_of_waiting_is_another_one(capsys):
    status = StatusLine(20, {"seed=0"})
    status.add(ended(0.9558), None)
    for note in ("", "", "2 wait (Limit)"):
        status.show(1, note)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("1/20 jobs, 0 failed, 0 pruned, 1 running, 0:00:0")
    assert " left; best val/acc 0.9558: optimizer.lr=0.001657 " in first
    assert " left; 2 wait (Limit); best val/acc " in second

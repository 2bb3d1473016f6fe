"""What a job failed by, from the process that it ran in to the list that a person reads."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.cluster import submit
from leyden.config.errors import UserError
from leyden.run.result import Failure
from leyden.scheduler.slurm import Slurm
from leyden.sweep import jobs


def raised(function):
    try:
        function()
    except Exception as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    "bug",
    [
        lambda: torch.zeros(2) @ torch.zeros(3),
        lambda: torch.nn.Linear(2, 3)(torch.zeros(2, 4)),
        lambda: {}["hidden"],
        lambda: [][:].pop(),
    ],
)
def test_the_place_of_a_bug_is_in_code_that_is_no_librarys(bug):
    found = jobs.parse_failure(jobs.failure_text(raised(bug)))
    assert found.type in ("RuntimeError", "KeyError", "IndexError")
    assert found.where == f"engine/tests/config/test_errors_failure.py:{bug.__code__.co_firstlineno} in <lambda>"


def test_a_mistake_has_none():
    def refuse():
        raise UserError("optimizer.lr=0: must be a positive number")

    assert jobs.failure_text(raised(refuse)) == "UserError: optimizer.lr=0: must be a positive number"


@given(st.sampled_from(["KeyError", "Killed"]), st.text(), st.sampled_from(["", "mlp.py:12 in forward"]))
def test_the_text_can_be_taken_apart(kind, message, place):
    found = Failure(kind, message, place)
    assert jobs.parse_failure(jobs.failure_as_text(found)) == found


@pytest.mark.parametrize("place", ["", "mlp.py:12 in forward"])
def test_a_job_on_a_cluster_tells_it_by_its_result(monkeypatch, tmp_path, place):
    failed = Failure("KeyError", "'hidden'", place)
    jobs = [
        SimpleNamespace(
            run=SimpleNamespace(directory=job, submission={"job_id": job}, result=SimpleNamespace(error=error))
        )
        for job, error in (("1_0", failed), ("1_1", None))
    ]
    runner = submit.ClusterRunner(Slurm(), tmp_path, SimpleNamespace(num_jobs=None), "leyden.train")
    monkeypatch.setattr(runner, "submit", lambda jobs: [])
    monkeypatch.setattr(Slurm, "states", lambda self, ids: {})
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    told = "KeyError: 'hidden'" + (f"\n    at {place}" if place else "")
    runner.start(jobs)
    assert runner.wait() == ([(jobs[0], told), (jobs[1], "")], 0)

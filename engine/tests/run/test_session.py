"""The error that ends a run of several processes: which of them records it, and when the job is requeued instead."""

import pytest

from leyden.config.errors import Exit, UserError
from leyden.run import directory
from leyden.run.directory import Position, Run, ThisJob
from leyden.run.result import Failure, Result
from tests import records
from tests.run.test_directory import CONFIG, FINISHED, of
from tests.scheduler.test_requeue import BY_A_PEER

IDENTITY = of({**CONFIG, "objective": {"metric": "val/acc", "mode": "max"}})
LOST = RuntimeError(BY_A_PEER)
OWN = KeyError("of this process")
OTHER = Result.failed(None, Failure("ValueError", "of another process"))


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A function that ends a run's process with an error; returns the run, what was raised, and the requests to requeue."""
    monkeypatch.setattr(directory, "PEER_S", 0.3)

    def end(rank, error, recorded=None, num=2, has_trained=True, has_job=True):
        requests = []
        job = ThisJob("7", 3, lambda error: not requests.append(error)) if has_job else ThisJob()
        run = Run(tmp_path / "run")
        monkeypatch.setenv("RANK", "0")
        with run.locked(IDENTITY, resume="auto"):
            run.begin(IDENTITY, [])
        monkeypatch.setenv("RANK", str(rank))

        def fail():
            position = Position(1, 10, has_trained, num)
            progress = {"position": lambda: position, "before_end": lambda *_: None}
            with directory.session(run, IDENTITY, [], job=job, **progress):
                if recorded:
                    records.put(run.directory, result=recorded)
                raise error

        with pytest.raises((KeyError, RuntimeError, UserError, SystemExit)) as raised:
            fail()
        return run, raised.value, len(requests)

    return end


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lost_connection_requeues_the_job(ended, rank):
    run, raised, requests = ended(rank, LOST)
    assert (raised.code, requests, run.result) == (Exit.REQUEUED, 1, None)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("has_job", [True, False])
def test_the_error_of_another_process_wins_over_a_lost_connection(ended, rank, has_job):
    run, raised, requests = ended(rank, LOST, OTHER, has_job=has_job)
    assert isinstance(raised, UserError)
    assert str(raised).endswith("/run failed in another process: ValueError: of another process")
    assert (requests, run.result) == (0, OTHER)


@pytest.mark.parametrize(
    ("rank", "error", "recorded", "kind"),
    [
        (1, OWN, None, "KeyError"),  # the main process may be killed before it records anything
        (0, OWN, OTHER, "KeyError"),
        (1, OWN, OTHER, "ValueError"),
        (1, OWN, FINISHED, None),
        (0, LOST, None, "RuntimeError"),
        (1, LOST, None, "nothing"),
    ],
)
def test_without_a_job_the_first_error_is_recorded(ended, rank, error, recorded, kind):
    run, raised, _ = ended(rank, error, recorded, has_job=False)
    assert raised is error
    found = (run.result.error and run.result.error.type) if run.result else "nothing"
    assert found == kind


@pytest.mark.parametrize(
    ("code", "ends_with"), [(1, Exit.INTERRUPTED), (0, Exit.TERMINATED), (138, 138), (138, Exit.REQUEUED)]
)
def test_told_to_stop_it_says_what_the_same_command_does(ended, capsys, code, ends_with):
    run, raised, _ = ended(0, SystemExit(code), has_job=ends_with == Exit.REQUEUED)
    assert (raised.code, run.result) == (ends_with, None)
    assert f"run_dir={run.directory} starts over, nothing was saved yet." in capsys.readouterr().err


def test_a_process_that_has_not_trained_leaves_the_record_to_the_main_one(ended):
    """Which knows whether there was a result before."""
    assert ended(1, OWN, has_trained=False)[0].result is None


def test_an_error_like_that_of_a_lost_connection_in_one_process_is_recorded(ended):
    run, raised, requests = ended(0, LOST, num=1)
    assert raised is LOST
    assert (run.result.error.type, requests) == ("RuntimeError", 0)

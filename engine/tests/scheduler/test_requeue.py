"""The signal to requeue, outside of training steps."""

import os
import signal
import threading
import time
from unittest.mock import Mock

import pytest
from torch.distributed import DistNetworkError

from leyden import scheduler
from leyden.run.directory import is_communication_error
from leyden.scheduler import RequeueSignal, slurm


@pytest.fixture
def job(monkeypatch):
    submitted = Mock(**{"requeue.return_value": True})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(slurm, "requeue", submitted.requeue)
    monkeypatch.setattr(scheduler, "WATCH_S", 0.02)
    monkeypatch.setattr(scheduler, "end_process", submitted.end)
    return submitted


@pytest.mark.parametrize("patience_s", [0.1, 60])
def test_without_a_step_the_job_is_requeued_once(job, patience_s, capfd):
    num_threads = threading.active_count()
    with RequeueSignal(patience_s) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        end = time.monotonic() + (10 if patience_s < 1 else 0.3)
        while not job.requeue.called and time.monotonic() < end:
            time.sleep(0.01)
        received.requeue() if job.requeue.called else None
    assert job.requeue.call_count == (patience_s < 1)
    assert ("no training step came" in capfd.readouterr().err) == (patience_s < 1)
    end = time.monotonic() + 10
    while threading.active_count() > num_threads and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == num_threads
    assert job.end.called == (patience_s < 1)


BY_A_PEER = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:21937: Connection reset by peer"


@pytest.mark.parametrize(
    ("error", "num", "is_lost"),
    [
        (RuntimeError(BY_A_PEER), 2, True),
        (RuntimeError("Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error"), 2, True),
        (RuntimeError(BY_A_PEER), 1, False),  # of the user's own groups
        (RuntimeError("Connection reset by peer"), 2, False),
        (RuntimeError(f"my server said: {BY_A_PEER}"), 2, False),
        (ValueError(BY_A_PEER), 2, False),
        (DistNetworkError("lost"), 1, True),
    ],
)
def test_an_error_of_communication_is_known_by_where_it_arises(error, num, is_lost):
    assert is_communication_error(error, num) == is_lost
    outer = KeyError("x")
    outer.__cause__ = error
    error.__cause__ = outer  # a circle
    assert is_communication_error(outer, num) == is_lost


def test_outside_of_a_job_the_signal_is_recorded_alone(monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    num_threads = threading.active_count()
    with RequeueSignal(0.0) as received:
        assert threading.active_count() == num_threads
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        assert received.received == signal.SIGUSR1
        received.requeue()
        assert not received.is_requested

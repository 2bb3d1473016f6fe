"""The signal to requeue, outside of training steps."""

import os
import signal
import threading
import time

import pytest

from leyden.run import requeue
from leyden.run.requeue import RequeueSignal


class Job:
    """A scheduler that counts requests."""

    requests = 0

    def job_id(self):
        return "7"

    def requeue(self):
        self.requests += 1
        return ""


@pytest.fixture
def job(monkeypatch):
    submitted = Job()
    monkeypatch.setattr(requeue, "current", lambda: submitted)
    monkeypatch.setattr(requeue, "WATCH_S", 0.02)
    return submitted


@pytest.mark.parametrize("patience_s", [0.1, 60])
def test_without_a_step_the_job_is_requeued_once(job, patience_s, capfd):
    num_threads = threading.active_count()
    with RequeueSignal(patience_s) as received:
        os.kill(os.getpid(), signal.SIGUSR1)
        end = time.monotonic() + (10 if patience_s < 1 else 0.3)
        while not job.requests and time.monotonic() < end:
            time.sleep(0.01)
        received.requeue() if job.requests else None
    assert job.requests == (patience_s < 1)
    assert ("no training step came" in capfd.readouterr().err) == (patience_s < 1)
    end = time.monotonic() + 10
    while threading.active_count() > num_threads and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() == num_threads


def test_outside_of_a_job_the_signal_is_recorded_alone(monkeypatch):
    monkeypatch.setattr(requeue, "current", lambda: None)
    num_threads = threading.active_count()
    with RequeueSignal(0.0) as received:
        assert threading.active_count() == num_threads
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.05)
        assert received.received == signal.SIGUSR1
        received.requeue()
        assert not received.is_requested

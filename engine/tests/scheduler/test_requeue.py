"""The signal to requeue, outside of training steps."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import distributed
from torch.distributed import DistNetworkError

from leyden.run.directory import is_communication_error
from leyden.scheduler import requeue
from leyden.scheduler.requeue import RequeueSignal


class Job:
    """A job that counts requests."""

    requests, is_ended = 0, False

    def requeue(self):
        self.requests += 1
        return True


@pytest.fixture
def job(monkeypatch):
    submitted = Job()
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(requeue.slurm, "requeue", submitted.requeue)
    monkeypatch.setattr(requeue, "WATCH_S", 0.02)
    monkeypatch.setattr(requeue, "end_process", lambda: setattr(submitted, "is_ended", True))
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
    assert job.is_ended == (patience_s < 1)


BY_A_PEER = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:21937: Connection reset by peer"


@pytest.mark.parametrize(
    ("error", "num", "is_lost"),
    [
        (RuntimeError(BY_A_PEER), 2, True),
        (RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:525] Connection closed by peer"), 2, True),
        (RuntimeError("Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error"), 2, True),
        (RuntimeError("[enforce fail at /x/gloo/transport/tcp/pair.cc:9] . Broken pipe"), 2, True),
        (RuntimeError(BY_A_PEER), 1, False),  # of the user's own groups
        (RuntimeError("Connection reset by peer"), 2, False),
        (RuntimeError(f"my server said: {BY_A_PEER}"), 2, False),
        (ValueError(BY_A_PEER), 2, False),
        (DistNetworkError("lost"), 1, True),
    ],
)
@pytest.mark.parametrize("is_cause", [False, True])
def test_an_error_of_communication_is_known_by_where_it_arises(error, num, is_lost, is_cause):
    if is_cause:
        outer = KeyError("x")
        outer.__cause__ = error
        error.__cause__ = outer  # a circle
        error = outer
    assert is_communication_error(error, num) == is_lost


def test_a_real_error_of_gloo_is_one_of_communication(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    store, groups = distributed.HashStore(), {}
    threads = [
        threading.Thread(
            target=lambda rank=rank: groups.update({rank: distributed.ProcessGroupGloo(store, rank, 2)})
        )
        for rank in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    del groups[1]
    with pytest.raises(RuntimeError) as raised:
        groups[0].allreduce([torch.zeros(3)]).wait()
    assert is_communication_error(raised.value, 2)


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

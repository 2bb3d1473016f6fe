"""The signal to requeue, outside of training steps."""

import contextlib
import os
import signal
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf
from torch.distributed import DistNetworkError

from leyden import queue
from leyden.base.errors import UserError
from leyden.exact.processes import is_communication_error
from leyden.queue import RequeueSignal
from leyden.training.start import _check_restarts


@pytest.fixture
def job(monkeypatch):
    submitted = Mock(**{"requeue.return_value": True})
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(queue, "requeue", submitted.requeue)
    monkeypatch.setattr(queue, "POLL_S", 0.02)
    monkeypatch.setattr(queue, "end_process", submitted.end)
    return submitted


def wait_until(predicate, seconds=10.0):
    end = time.monotonic() + seconds
    while not predicate() and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize(("patience", "job_id"), [(0.1, "7"), (60, "7"), (0, None)])
def test_without_a_step_a_job_is_requeued_once_and_outside_nothing_is(
    job, monkeypatch, capfd, patience, job_id
):
    if not job_id:
        monkeypatch.delenv("SLURM_JOB_ID")
    num_threads = threading.active_count()
    is_short = patience == 0.1
    with RequeueSignal(patience) as received:
        assert threading.active_count() == num_threads + bool(job_id)
        os.kill(os.getpid(), signal.SIGUSR1)
        wait_until(lambda: job.requeue.called, 10 if is_short else 0.3)
        received.requeue() if job.requeue.called or not job_id else None
        assert received.received == signal.SIGUSR1
        assert received.is_requested == is_short
    assert job.requeue.call_count == is_short
    assert ("no training step came" in capfd.readouterr().err) == is_short
    wait_until(lambda: threading.active_count() == num_threads)
    assert threading.active_count() == num_threads
    assert job.end.called == is_short


def test_in_a_thread_where_no_signal_can_be_received_a_training_runs_without(job):
    entered = []

    def work():
        with RequeueSignal(60) as received:
            entered.append(received.received)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [0]


BY_A_PEER = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:21937: Connection reset by peer"
ERRORS = [
    (RuntimeError(BY_A_PEER), 2, True),
    (
        RuntimeError(
            "Gloo connectFullMesh failed with [../gloo/transport/tcp/pair.cc:144] no error"
        ),
        2,
        True,
    ),
    (RuntimeError(BY_A_PEER), 1, False),  # of the user's own groups
    (RuntimeError("Connection reset by peer"), 2, False),
    (RuntimeError(f"my server said: {BY_A_PEER}"), 2, False),
    (ValueError(BY_A_PEER), 2, False),
    (DistNetworkError("lost"), 1, True),
]


@pytest.mark.parametrize(("error", "num", "is_lost"), ERRORS)
def test_an_error_of_communication_is_known_by_where_it_arises(error, num, is_lost):
    assert is_communication_error(error, num) == is_lost
    outer = KeyError("x")
    outer.__cause__ = error
    error.__cause__ = outer  # a circle
    assert is_communication_error(outer, num) == is_lost


def test_requeues_have_a_limit_and_need_progress(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    cfg = OmegaConf.create({"cluster": {"max_requeues": 4}})
    cases = [
        (restarts, steps, "")
        for restarts, steps in ((1, [10, 10, 10]), (4, [10, 10, 20]), (4, [10, 10]))
    ]
    cases += [(5, [10, 20, 30], "requeued 5 times, more than cluster.max_requeues=4")]
    cases += [(2, [0, 10, 10, 10], "requeued twice without a checkpoint after step 10;")]
    for restarts, steps, why in cases:
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restarts))
        starts = [
            {"job": "6", "step": 10},
            {"job": "7"},
            *({"job": "7", "step": step} for step in steps),
        ]
        with pytest.raises(UserError, match=why) if why else contextlib.nullcontext():
            _check_restarts(cfg, SimpleNamespace(starts=starts))

"""The batch system of a cluster, such as Slurm: of which other modules ask for jobs, their states and signals.

Each is a module of this package, with the functions of `slurm` that are not private.
"""

import importlib
import os
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from leyden.base.errors import Exit, UserError, leave_at_once
from leyden.base.terminal import one_line
from leyden.run.directory import ThisJob
from leyden.run.process import is_main_process

SCHEDULERS = [
    each.name for each in pkgutil.iter_modules(__path__)
]  # as in `conf/cluster/` and in `job.json`
POLL_S = 1.0
SIGNAL: int | None = getattr(
    signal, "SIGUSR1", None
)  # None on Windows, which can't block signals either
END_S = 10.0  # for a process to end after SIGTERM


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Args:
        phase: Phase that Leyden distinguishes.
        text: The scheduler's name, such as `TIMEOUT`; `GONE` for a job that it does not know any more.
        is_completed: True if the job may have ended without failure.
        reason: Why a queued job waits, unless it simply waits for its turn, for example `JobHeldUser`.
    """

    phase: Literal["queued", "running", "ended"]
    text: str
    is_completed: bool = False
    reason: str = ""


class RejectedError(UserError):
    """The scheduler does not accept a job, for now or for ever."""


class ArrayError(RejectedError):
    """The scheduler does not accept an array as large as this one."""


def named(name: str) -> Any:
    """Return the module of a scheduler."""
    return importlib.import_module(f"{__name__}.{name}")


def own() -> Any:
    """Return the scheduler whose job this process belongs to; outside of a job the first one, which says so."""
    every = [named(name) for name in SCHEDULERS]
    return next((each for each in every if each.job_id()), every[0])


def states(jobs: Sequence[Mapping[str, str]]) -> dict[str, JobState]:
    """Return the states of jobs by id; those of a scheduler that does not answer are left out.

    Args:
        jobs: Of each its `job.json`, which may be a stranger's.
    """
    found: dict[str, JobState] = {}
    for name in SCHEDULERS:
        if ids := [job["job_id"] for job in jobs if job.get("scheduler") == name]:
            found |= named(name).states(ids)
    return found


def this_job() -> ThisJob:
    """Return the cluster's job of this process."""
    here = own()
    return ThisJob(here.job_id(), here.num_restarts(), requeue_after)


def requeue_after(error: BaseException) -> bool:
    """Requeue this process's job, without its node if it has one, after a failure of communication between processes.

    Returns:
        Whether the job was requeued; false outside of a job.
    """
    here = own()
    if here.job_id() is None:
        return False
    print(f"{type(error).__name__}: {one_line(error)}", file=sys.stderr)
    return bool(here.requeue(elsewhere=True))


def end_process() -> None:
    """End this process from a thread, so that its job can be requeued; its main thread may be busy for long."""
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    leave_at_once(Exit.REQUEUED)


class RequeueSignal:
    """Context in which SIGUSR1 is received, also one that was blocked while Python was importing.

    The scheduler sends it some time before the time limit, or when another job needs the nodes. While a network trains,
    `exact.stop` saves at the next step and calls `requeue`. If no step comes within `patience_s`, for example
    while data are copied, or in a long validation or test evaluation, the job is requeued without saving: it resumes from
    its last checkpoint.

    Args:
        patience_s: Seconds to wait for a step; less than between the signal and the end of the job.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.received = 0  # the signal's number
        self.is_requested = False
        self._ended = threading.Event()

    def __enter__(self) -> "RequeueSignal":
        self._is_active = (
            SIGNAL is not None and threading.current_thread() is threading.main_thread()
        )
        if SIGNAL is not None and self._is_active:
            self._handler = signal.signal(SIGNAL, self._receive)
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
            if own().job_id() and is_main_process():
                threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if SIGNAL is not None and self._is_active:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
            signal.signal(SIGNAL, self._handler)

    def requeue(self) -> bool:
        """Put this process's job back into the queue, once; without effect outside of a job.

        Returns:
            Whether this call has done so.
        """
        if self.is_requested or own().job_id() is None:
            return False
        self.is_requested = True
        return bool(own().requeue())

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number

    def _watch(self) -> None:
        """Requeue the job when the signal came and no step; in a thread, as the main one may be busy for long."""
        while not self.received:
            if self._ended.wait(POLL_S):
                return
        if self._ended.wait(self.patience_s):
            return
        print(
            f"no training step came within {self.patience_s:.0f} s after the signal to requeue: "
            "the run will resume from its last checkpoint",
            file=sys.stderr,
        )
        if self.requeue():
            end_process()

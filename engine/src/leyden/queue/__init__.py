"""Places where jobs run: this machine, Slurm, or a queue of a site's own commands.

Each place is a `Queue`: it takes jobs, and says how they are. `loop` asks, waits and submits again.
The functions here are about the job that this process belongs to.
"""

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import DictConfig

from leyden.base.errors import Exit, UserError, leave_at_once
from leyden.base.terminal import one_line
from leyden.exact import job as of_slurm
from leyden.run.directory import ThisJob
from leyden.run.identity import RunIdentity
from leyden.run.process import JOB, is_main_process

LASTING = (
    "slurm",
    "commands",
)  # modules of queues that outlive a command, as `job.json` names them
# Variables of a job's script: a file by which a process asks for a requeue; the number of restarts,
# where the queue does not count them.
REQUEUE_VARIABLE = "LEYDEN_REQUEUE"
RESTARTS_VARIABLE = "LEYDEN_RESTARTS"
OWN_VARIABLES = (JOB, REQUEUE_VARIABLE, RESTARTS_VARIABLE)
POLL_S = 1.0
# None on Windows, which can't block signals either.
SIGNAL: int | None = getattr(signal, "SIGUSR1", None)
END_S = 10.0  # for a process to end after SIGTERM


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Args:
        phase: Phase that Leyden distinguishes.
        text: The queue's name, such as `TIMEOUT`; `GONE` for a job that it does not know any more.
        is_completed: True if the job may have ended without failure.
        reason: Why a queued job waits, unless it simply waits for its turn, for example
            `JobHeldUser`.
        is_lost: True if the job has ended with its node, and nobody starts it again.
    """

    phase: Literal["queued", "running", "ended"]
    text: str
    is_completed: bool = False
    reason: str = ""
    is_lost: bool = False


NOT_NAMED = JobState("ended", "GONE")


# `leyden.sweep.jobs.Job`, which is above: its run, log, overrides, `compose`, `identity`, `work`
JobLike = Any


class RejectedError(UserError):
    """The queue does not accept a job, for now or for ever."""


class ArrayError(RejectedError):
    """The queue does not accept as many jobs at once."""


class Work(NamedTuple):
    """The call of a job's process.

    Args:
        function: Function that can be pickled, defined in a module.
        arguments: Its positional arguments.
        identity: The settings that identify the job's run.
        log: The file for the output of a job on this machine.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    identity: RunIdentity
    log: Path


class Queue:
    """A place where jobs run.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        folder: Folder of scripts and logs.

    Attributes:
        outlives: Whether jobs outlive this command and are found again by their ids. Other jobs end
            with it; the same sweep may run on other machines, and a lock says who runs a job.
        several: Largest number of jobs that `submit` takes at once.
        is_each_started: Whether the queue starts each process of a job, not only the first one.
        can_follow: Whether a job can wait for the end of others.
        num_at_once: Number of jobs at once; None for any number.
    """

    outlives = True
    several = 1
    is_each_started = False
    can_follow = False

    def __init__(self, config: DictConfig, folder: Path) -> None:
        self.config, self.cluster, self.folder = config, config.cluster, folder
        self.num_at_once: int | None = self.cluster.num_jobs

    @property
    def num_threads(self) -> int | None:
        """Number of threads of a job's process, known after `check`."""
        num: int = self.cluster.get("cpus_per_task") or self.cluster.cpus
        return num

    def check(self, jobs: Sequence[JobLike], num: int, python: str) -> bool:
        """Check that these of `num` jobs can run here.

        Return False if the user asked for the check only.
        """
        raise NotImplementedError

    def submit(
        self, works: Sequence[Work], name: str, python: str, *, after: Sequence[str] = ()
    ) -> list[dict[str, str]]:
        """Submit jobs, up to `several`.

        Args:
            works: What they call.
            name: Name of the first one.
            python: Shell command that starts Python on a node.
            after: Ids of jobs that have to end before.

        Returns:
            The content of each job's `job.json`.

        Raises:
            ArrayError: These are too many at once.
            RejectedError: The queue does not accept them.
            UserError: The queue can't be called.
        """
        raise NotImplementedError

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if the queue does not answer."""
        raise NotImplementedError

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs."""
        raise NotImplementedError

    def has_asked(self, submission: Mapping[str, str]) -> bool:
        """Return, once, whether an ended job asked for a requeue that its script could not get."""
        return False

    def pause(self, seconds: float) -> None:
        """Wait; shorter if a job has ended."""
        time.sleep(seconds)


def module_of(name: str) -> Any:
    """Return the module of a queue."""
    return importlib.import_module(f"{__name__}.{name}")


def states(jobs: Sequence[Mapping[str, str]]) -> dict[str, JobState]:
    """Return the states of jobs by id; those of a queue that does not answer are left out.

    Args:
        jobs: Of each its `job.json`, which may be a stranger's.
    """
    found: dict[str, JobState] = {}
    for name in LASTING:
        if mine := [job for job in jobs if job.get("scheduler") == name]:
            found |= module_of(name).states(mine)
    return found


def current_job() -> str | None:
    """Return the id of this process's job; None outside of a job."""
    if RESTARTS_VARIABLE in os.environ:
        return os.environ.get(JOB)
    return of_slurm.job_id()


def num_restarts() -> int:
    """Return how often this process's job was restarted; 0 outside of a job."""
    of_site = os.environ.get("SLURM_RESTART_COUNT", "0")
    return int(os.environ.get(RESTARTS_VARIABLE, of_site))


def leave_job() -> None:
    """Remove the variables of this process's job from its environment.

    Jobs that it submits would inherit them.
    """
    for name in list(os.environ):
        is_of_slurm = name.startswith("SLURM_") and name != "SLURM_CONF"  # SBATCH_* are the user's
        if is_of_slurm or name in OWN_VARIABLES:
            del os.environ[name]


def requeue(*, elsewhere: bool = False) -> bool:
    """Requeue this process's job once its processes have ended, and print how that went.

    The job's script does so, since a container has no `scontrol`; a script of the user's own does
    not, so that Slurm does it at once, and ends the job.

    Args:
        elsewhere: True to avoid this node if the job has no other. Which of several nodes has
            failed is not known.

    Returns:
        Whether it was requeued; false outside of a job.
    """
    job = current_job()
    if job is None or os.environ.get(JOB) != job:
        return of_slurm.requeue_job()
    file = Path(os.environ[REQUEUE_VARIABLE])
    is_alone = os.environ.get("SLURM_JOB_NUM_NODES") == "1"
    avoided = os.environ.get("SLURMD_NODENAME", "") if elsewhere and is_alone else ""
    problem = ""
    try:
        file.write_text(avoided)
    except OSError as error:
        problem = f"{file} can't be written ({error.strerror})"
    where = " on other nodes" if elsewhere else ""
    print(f"requeue of job {job}{where}: {problem or 'requested'}", file=sys.stderr)
    return not problem


def this_job() -> ThisJob:
    """Return the cluster's job of this process."""
    return ThisJob(current_job(), num_restarts(), requeue_after)


def requeue_after(error: BaseException) -> bool:
    """Requeue this process's job after a failure of communication between processes.

    Without its node, if it has one.

    Returns:
        Whether the job was requeued; false outside of a job.
    """
    if current_job() is None:
        return False
    print(f"{type(error).__name__}: {one_line(error)}", file=sys.stderr)
    return requeue(elsewhere=True)


def end_process() -> None:
    """End this process from a thread, so that its job can be requeued.

    Its main thread may be busy for long.
    """
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_S)
    leave_at_once(Exit.REQUEUED)


class RequeueSignal:
    """Context in which SIGUSR1 is received, also one that was blocked while Python was importing.

    The queue sends it some time before the time limit, or when another job needs the nodes. While a
    network trains, `exact.stop` saves at the next step and calls `requeue`. If no step comes within
    `patience_s`, for example while data are copied, or in a long validation or test evaluation, the
    job is requeued without saving: it resumes from its last checkpoint.

    Args:
        patience_s: Seconds to wait for a step; less than between the signal and the end of the job.
    """

    def __init__(self, patience_s: float) -> None:
        self.patience_s = patience_s
        self.received = 0  # the signal's number
        self.is_requested = False
        self._ended = threading.Event()

    def __enter__(self) -> "RequeueSignal":
        is_main = threading.current_thread() is threading.main_thread()
        self._is_active = SIGNAL is not None and is_main
        if SIGNAL is not None and self._is_active:
            self._handler = signal.signal(SIGNAL, self._receive)
            self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
            if current_job() and is_main_process():
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
        if self.is_requested or current_job() is None:
            return False
        self.is_requested = True
        return requeue()

    def _receive(self, number: int, frame: Any) -> None:
        self.received = number

    def _watch(self) -> None:
        """Requeue the job when the signal came and no step.

        In a thread, as the main one may be busy for long.
        """
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

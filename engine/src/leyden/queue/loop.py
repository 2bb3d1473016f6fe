"""The loop of all queues: it hands jobs to one, asks, waits, submits again what was lost."""

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.base.terminal import one_line, warn
from leyden.config.checks import check_num_jobs
from leyden.queue import (
    ArrayError,
    JobLike,
    JobState,
    Queue,
    RejectedError,
    Work,
    leave_job,
)
from leyden.queue.commands import Commands
from leyden.queue.here import Here
from leyden.queue.script import remove_call
from leyden.queue.slurm import Slurm
from leyden.queue.snapshot import python_on_node, snapshot
from leyden.run.directory import Run
from leyden.run.files import read_end
from leyden.run.lock import InUseError, is_held
from leyden.run.result import Failure

MAX_POLL_S = 15.0  # between looks at the runs' results
# Between queries. Many sites allow one a minute; a sweep asks that often in the mean, some at once.
MIN_QUERY_S = 5.0
MEAN_QUERY_S = 60.0
AT_ONCE = 5
AGAIN_S = 60.0  # after which a queue is tried again that has not accepted a job
# Seconds to wait for the result of a job that has ended; the key is whether it has completed
# without failure.
GRACE_S = {True: 90.0, False: 5.0}
LOG_BYTES = 4096  # at the end of a log, in which a cause is looked for
# To wait for another command that submits the same jobs, if this one does not wait for jobs.
IN_USE_S = 60.0
LAUNCHERS: dict[str, type[Queue]] = {"local": Here, "slurm": Slurm, "queue": Commands}


@dataclass
class _Submitted:
    """A job of a queue.

    Args:
        jobs: Jobs of the sweep; those with the same run directory share one.
        num_starts: Number of starts that the run had before.
    """

    jobs: list[JobLike]
    num_starts: int


class Launcher:
    """Launcher of a sweep's jobs in a queue; the failure of one does not stop the others.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.
        queue: Where the jobs run.
        directory: The sweep's directory.

    Attributes:
        waits: False if jobs are started, and their end is not waited for.
        has_jobs: Whether this command has jobs in the queue, or had some.
    """

    def __init__(
        self, config: DictConfig, module: str, queue: type[Queue], directory: Path
    ) -> None:
        # Here, since it is used before the jobs are checked.
        check_num_jobs(config.cluster.num_jobs)
        self.cluster, self.module, self.directory = config.cluster, module, directory
        self.queue = queue(config, directory / config.cluster.launcher)
        self.waits: bool = config.cluster.get("wait", True)
        self.code: Path | None = None  # the snapshot that jobs run from
        self.running: dict[str, _Submitted] = {}  # by job id
        self.waiting: list[JobLike] = []  # not accepted yet
        # Those of them that another process uses, by run directory.
        self.in_use: dict[Path, InUseError] = {}
        self.states: dict[str, JobState] = {}  # the last answer of the queue, by job id
        # When jobs were seen to have ended without a result, by job id.
        self.ended: dict[str, float] = {}
        self.queried_at = 0.0
        self.queries = float(AT_ONCE)  # that may be made now, at `counted_at`
        self.counted_at = time.monotonic()
        self.try_at = 0.0  # when waiting jobs are submitted again
        self.has_jobs = False
        self.several = self.queue.several
        # Jobs submitted in place of a requeue, by run directory.
        self.num_again: Counter[Path] = Counter()
        self.pause_s = 1.0
        if self.queue.outlives:
            leave_job()  # if this process is in one itself

    @property
    def outlives(self) -> bool:
        """True if jobs outlive this command."""
        return self.queue.outlives

    @property
    def num_at_once(self) -> int | None:
        """Number of jobs at once.

        None for any number, as where nobody waits, and the queue limits an array.
        """
        return self.queue.num_at_once if self.waits else None

    @property
    def threads(self) -> int | None:
        """Number of threads of a job's process, known after `check`; None if it is unknown."""
        return self.queue.num_threads

    @property
    def note(self) -> str:
        """Why jobs wait, except for their turn in the queue; empty if none does."""
        reasons: Counter[str] = Counter()
        for job in self.running:
            if job in self.states:
                reasons[self.states[job].reason] += 1
        parts = []
        for reason, num in reasons.items():
            if reason:
                parts.append(f"{num} wait ({reason})")
        num_rejected = len(self.waiting) - len(self.in_use)
        if num_rejected:
            parts.append(f"{num_rejected} not accepted yet")
        if self.in_use:
            parts.append(f"{len(self.in_use)} in use by other processes")
        return ", ".join(parts)

    def check(self, jobs: Sequence[JobLike], num: int) -> bool:
        """Check that these of `num` jobs can run.

        Return False if the user asked for the check only.
        """
        return self.queue.check(jobs, num, self.python)

    @property
    def python(self) -> str:
        """Shell command that starts Python on a node, from the snapshot if there is one."""
        return python_on_node(self.cluster.get("python"), self.code)

    def start(self, jobs: Sequence[JobLike]) -> None:
        """Start jobs that are not queued or running already.

        One that is not accepted yet is submitted later.

        At most `num_at_once` are started with those that run.
        """
        self.waiting += jobs
        self.pause_s = 1.0  # as most mistakes end a job at once
        if not self.outlives:
            self._submit(self.waiting, {})
            self.waiting = []
            return
        self._submit_waiting()
        if not self.waits:
            for number, submitted in self.running.items():
                print(f"job {number}: {submitted.jobs[0].run.directory.name}")

    def _submit_waiting(self) -> None:
        """Submit the waiting jobs; those that another process uses are left for the next time.

        Raises:
            InUseError: Another process uses them, and this launcher doesn't wait for jobs.
            UserError: The queue does not answer, or rejects the first jobs.
        """
        end = time.monotonic() + IN_USE_S
        self._submit_once()
        while self.in_use and not self.waits:
            if time.monotonic() > end:
                raise next(iter(self.in_use.values()))
            time.sleep(1)
            self._submit_once()

    def _submit_once(self) -> None:
        # Those of one directory are submitted once.
        by_directory = {job.run.directory: job for job in self.waiting}
        known = {}
        for path, job in by_directory.items():
            known[path] = job.run.submission.get("job_id", "")
        alive = self._alive({*known.values()} - {""})
        if alive:
            self.has_jobs = True
        todo = []
        for path, number in known.items():
            if number not in alive:
                todo.append(by_directory[path])
        self.in_use = {}
        several = self.several
        while todo:
            batch = todo[: self.several]
            try:
                self._submit(batch, known)
            except ArrayError:
                if len(batch) == 1:
                    raise
                self.several = len(batch) // 2
                continue
            except RejectedError as error:
                if not self.waits or not self.has_jobs:
                    raise
                self._report_rejection(error)
                break  # sites limit the number of jobs in the queue
            todo = todo[len(batch) :]
            self.has_jobs = True
        if self.several < several:
            self._report_smaller_arrays()
        self.try_at = time.monotonic() + AGAIN_S
        left = {*self.in_use}
        left.update(job.run.directory for job in todo)
        jobs = self.waiting
        self.waiting = []
        for job in jobs:
            if job.run.directory in left:
                self.waiting.append(job)
            else:
                self._follow(job)

    def _follow(self, job: JobLike) -> None:
        """Wait for the end of a job that is in the queue."""
        submission = job.run.submission
        job.log = Path(submission["log"])
        number = submission["job_id"]
        if number not in self.running:
            num_starts = len(job.run.starts)
            self.running[number] = _Submitted([], num_starts)
        self.running[number].jobs.append(job)

    def _report_rejection(self, error: RejectedError) -> None:
        """Print why the queue does not accept a job, once for each reason."""
        if str(error) != getattr(self, "_rejection", ""):
            self._rejection = str(error)
            warn(f"{error}; it is submitted later")

    def _report_smaller_arrays(self) -> None:
        limit = self.cluster.num_jobs
        effect = ""
        if limit and not self.waits:
            effect = f"; cluster.num_jobs={limit} limits each array by itself"
        warn(
            f"the scheduler takes no larger arrays (MaxArraySize): {self.several} jobs in "
            f"each{effect}"
        )

    def _alive(self, ids: Collection[str]) -> set[str]:
        """Return the ids of jobs that are queued or running.

        Raises:
            UserError: The queue does not answer.
        """
        if not ids:
            return set()
        states = self.queue.states(sorted(ids))
        if not states:
            raise UserError(
                "cluster: its scheduler does not answer, and some of the jobs may be in its "
                "queue; try again"
            )
        self._cancel_stuck(states)
        return {job for job, state in states.items() if state.phase != "ended"}

    def _cancel_stuck(self, states: Mapping[str, JobState]) -> None:
        """Cancel those of some jobs that will never start; they would stay in the queue."""
        stuck = []
        for job, state in states.items():
            if state.phase == "ended" and state.reason:
                stuck.append(job)
        if stuck:
            self.queue.cancel(stuck)

    def _submit(self, jobs: Sequence[JobLike], ended: Mapping[Path, str]) -> None:
        """Submit jobs at once; each run is locked until its job is recorded.

        Args:
            jobs: The jobs; those that another process uses, or has submitted, are left out.
            ended: Id of each run's job that has ended, by the run directory; empty for none.
        """
        queue = self.queue
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits for its lock
            free = []
            for job in jobs:
                before = ended.get(job.run.directory, "")
                if not self.outlives or self._lock(job, before, locks):
                    free.append(job)
            if not free:
                return
            if self.outlives and self.cluster.snapshot and self.code is None:
                self.code = snapshot(self.directory / "code")
            works = []
            for job in free:
                each = queue.is_each_started
                work = job.work(self.module, on_node=self.outlives, is_each_started=each)
                works.append(work)
            name = free[0].run.directory.name
            accepted = queue.submit(works, name, self.python)
            for job, work, submission in zip(free, works, accepted, strict=True):
                if self.outlives:
                    remove_call(queue.folder, job.run.submission)
                    job.run.begin(work.identity, job.overrides)
                    job.run.submission = submission
                else:
                    number = submission["job_id"]
                    num_starts = len(job.run.starts)
                    self.running[number] = _Submitted([job], num_starts)

    def _lock(self, job: JobLike, ended: str, locks: contextlib.ExitStack) -> bool:
        """Lock a run, and return whether it is to be submitted.

        The same sweep may be typed on two machines at once.
        """
        if job.run.submission.get("job_id", "") != ended:
            return False
        try:
            locked = job.run.locked(job.identity(), resume="auto", ended_job=ended)
            locks.enter_context(locked)
        except InUseError as error:
            self.in_use[job.run.directory] = error
            return False
        is_still: bool = job.run.submission.get("job_id", "") == ended
        return is_still

    def wait(self) -> tuple[list[tuple[JobLike, Failure | None]], int]:
        """Wait for a job to end, but only for a short time.

        Returns:
            The jobs that have ended, each with its failure, None on success; and the number of
            running jobs.
        """
        self.queue.pause(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        self._query()
        over: list[tuple[JobLike, Failure | None]] = []
        for number, submitted in list(self.running.items()):
            failure, is_over = self._end_of(number, submitted)
            if not is_over:
                continue
            del self.running[number]
            self.ended.pop(number, None)
            if failure and self._is_submitted_again(number, submitted.jobs[0].run):
                self.waiting += submitted.jobs
                self.try_at = 0.0
                continue
            run = submitted.jobs[0].run
            # Otherwise another command has submitted it again.
            if self.outlives and run.submission.get("job_id") == number:
                remove_call(self.queue.folder, run.submission)
            over += [(job, failure) for job in submitted.jobs]
        is_time = time.monotonic() >= self.try_at
        if self.waiting and (over or self.in_use or is_time):
            is_asked = any(job.run.submission for job in self.waiting)
            if not is_asked or self._may_ask():
                self._submit_waiting()
        num_running = 0
        for number in self.running:
            state = self.states.get(number)
            if state is not None and state.phase == "running":
                num_running += 1
        return over, num_running

    def _end_of(self, number: str, submitted: _Submitted) -> tuple[Failure | None, bool]:
        """Return the failure of a job, None on success, and whether the job has ended."""
        run = submitted.jobs[0].run
        state = self.states.get(number)
        if not self.outlives:
            if state is None or state.phase != "ended":
                return None, False
            return _failure_here(run, state, submitted.num_starts), True
        result = run.result
        if result:
            return result.error, True
        if state is None or not self._has_no_result(number, state, run):
            return None, False
        self._cancel_stuck({number: state})
        return self._failure(number, state.text, submitted.jobs[0].log), True

    def _failure(self, number: str, state: str, log: Path) -> Failure:
        """Return the failure of a job without a result, with the last error in its logs."""
        what = f"job {number} is {state} without a result"
        lines: list[str] = []
        for path in {log.with_suffix(".out"): None, log: None}:  # of the queue, and of the job
            with contextlib.suppress(OSError):
                lines += read_end(path, LOG_BYTES).splitlines()
        cause = ""
        for line in lines:
            is_error = "error: " in line.lower() or line.startswith("leyden: ")
            # The scheduler's program that starts processes says last that one of them has ended.
            is_last = line.startswith("srun: ") and bool(cause)
            if is_error and not is_last:
                cause = line
        if not cause:
            return Failure("Scheduler", what)
        return Failure("Scheduler", f"{what}: {one_line(cause)}")

    def _is_submitted_again(self, number: str, run: Run) -> bool:
        """Return whether an ended job is submitted anew in place of a requeue it could not get."""
        state = self.states.get(number)
        why = ""
        if state is not None and state.is_lost:
            why = "is lost with its machine"
        if self.queue.has_asked(run.submission):
            why = "has saved, and its node could not requeue it (see its log)"
        if not why:
            return False
        self.num_again[run.directory] += 1
        num = self.num_again[run.directory]
        most = self.cluster.max_requeues
        what = f"{run.directory.name}: job {number} {why}"
        if num > most:
            warn(f"{what}; cluster.max_requeues={most} is reached")
            return False
        warn(f"{what}: submitted again, {num} of {most} times")
        return True

    def _has_no_result(self, number: str, state: JobState, run: Run) -> bool:
        """Return whether a job has ended and will have no result."""
        if state.phase != "ended":
            self.ended.pop(number, None)
            return False
        # On a network file system, the result may become visible after the state; and a requeued
        # job ends, too.
        since = self.ended.setdefault(number, self.queried_at)
        if self.queried_at - since < GRACE_S[state.is_completed]:
            return False
        # A job that a queue does not name runs nevertheless, if it says so itself.
        return not (state.text == "GONE" and is_held(run.directory))

    def _query(self) -> None:
        """Ask the queue for the states, if the last answer is old or a job may have failed."""
        now = time.monotonic()
        if self.outlives:
            pause_s = MIN_QUERY_S if self.ended else max(MIN_QUERY_S, 5 * self.pause_s)
            if now < self.queried_at + pause_s or not self._may_ask():
                return
        states = self.queue.states(list(self.running))
        if states:
            self.states = states
            self.queried_at = now

    def _may_ask(self) -> bool:
        """Return whether the queue may be asked now, and count that it is."""
        now = time.monotonic()
        refilled = self.queries + (now - self.counted_at) / MEAN_QUERY_S
        self.queries = min(AT_ONCE, refilled)
        self.counted_at = now
        if self.queries < 1:
            return False
        self.queries -= 1
        return True

    def tidy(self, job: JobLike) -> None:
        """Remove the file with the user's key of a job that has ended while nobody waited."""
        if self.outlives:
            remove_call(self.queue.folder, job.run.submission)

    def tidy_up(self) -> None:
        """Remove files with the user's key that a command wrote which was killed.

        Another command that is submitting holds the lock of a run until the run knows its file.
        Nothing is removed where a summary may still wait, which belongs to no run.
        """
        if not self.outlives or self.queue.can_follow:
            return
        left = {path.name: path for path in self.queue.folder.glob("*.call")}
        if not left:
            return
        for path in self.directory.glob("*/config.yaml"):
            if is_held(path.parent):
                return
            known = Run(path.parent).submission.get("call", "")
            left.pop(known, None)
        for name in left:
            remove_call(self.queue.folder, {"call": name})

    def stop(self) -> None:
        """End the running jobs, unless they outlive this command."""
        if not self.outlives:
            self.queue.cancel([*self.running])

    def follow(self, function: Callable[..., None], *arguments: Any) -> str:
        """Submit a job of one process that calls a function once all jobs have ended.

        Return its id, empty without one.

        Raises:
            UserError: It is not accepted.
        """
        if not self.queue.can_follow or not self.running:
            return ""
        config = OmegaConf.create({"cluster": {**self.cluster, **ALONE}})
        after = [*self.running]
        work = Work(function, arguments, None, self.directory)  # type: ignore[arg-type]
        queue = type(self.queue)(config, self.queue.folder)
        (accepted,) = queue.submit([work], "summary", self.python, after=after)
        return accepted["job_id"]


# Of a job that writes a summary, beside the settings of the others.
ALONE: dict[str, Any] = {
    "nodes": 1,
    "tasks_per_node": 1,
    "cpus_per_task": 1,
    "gpus_per_task": 0,
    "gpus_per_node": None,
    "options": {},
}


def _failure_here(run: Run, state: JobState, num_starts: int) -> Failure | None:
    """Return the failure of a job whose process on this machine has ended, None on success."""
    if state.is_completed:
        return None
    # Otherwise the result is one of an earlier start.
    result = run.result if len(run.starts) > num_starts else None
    if result and result.error:
        return result.error
    return Failure("Killed" if state.text.startswith("by ") else "SystemExit", state.text)


def launcher(config: DictConfig, module: str, directory: Path) -> Launcher:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.
        directory: The sweep's directory.

    Raises:
        UserError: There is no such launcher, or one of Hydra's plugins is chosen.
    """
    chosen = config.hydra.runtime.choices["hydra/launcher"]
    if chosen != "basic":  # Hydra's default, which is not used
        raise UserError(
            f"hydra/launcher={chosen}: has no effect; cluster=NAME chooses where jobs run"
        )
    name = config.cluster.get("launcher")
    if name not in LAUNCHERS:
        raise UserError(f"cluster.launcher={name}: must be one of {', '.join(LAUNCHERS)}")
    return Launcher(config, module, LAUNCHERS[name], directory)

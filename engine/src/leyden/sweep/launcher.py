"""The loop that runs the jobs of a sweep, with its status line, and jobs in parallel on this machine.

Each is a fork of a process that imported PyTorch and read the data.
"""

import contextlib
import gc
import json
import os
import pkgutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError, leave_at_once
from leyden.config.paths import prepare_process
from leyden.config.terminal import printable, short_override
from leyden.config.values import targets
from leyden.run import lock
from leyden.run.identity import is_data_key, key_of
from leyden.run.process import importing, num_cores, num_threads
from leyden.run.result import Failure
from leyden.sweep.jobs import Job, record_failure
from leyden.sweep.worker import USES_CUDA, call, run_as_command, try_job, visible_devices
from leyden.verdict.numbers import metric_text


class StatusLine:
    """Lines that show the number of jobs by status, the best objective so far, and the time left, as jobs end.

    Args:
        total: Number of jobs, including those that ended in earlier starts.
        shared: Overrides common to all jobs, which are not shown.
        num_before: Number of jobs that ended in earlier starts, without those that `count_skipped` will count.
    """

    def __init__(self, total: int, shared: Collection[str], num_before: int = 0) -> None:
        self.total, self.shared = total, shared
        self.started = time.monotonic()
        self.num_before = num_before
        self.num_run = self.num_failed = self.num_pruned = 0
        self.shown: tuple[int, str] = (0, "")  # value of num_run, and the note, when the last line was printed
        self.best: tuple[float, str] | None = None

    def count_skipped(self) -> None:
        """Count a job that ended in an earlier start."""
        self.num_before += 1

    def add(self, job: Job, failure: Failure | None) -> None:
        """Count a job that has ended, with its failure, None on success."""
        result = job.run.result
        self.num_run += 1
        self.num_failed += failure is not None
        self.num_pruned += result is not None and result.status == "pruned"
        objective = result and result.objective
        if objective and objective.value is not None:
            self.metric = objective.metric
            own = {key_of(each): each for each in job.overrides if each not in self.shared}
            # Values on different data can't be compared; each fold is a part of the same data.
            if any(key in ("data", "data.root") or is_data_key(key, own) for key in {*own} - {"data.fold"}):
                return
            name = " ".join(map(short_override, own.values()))
            candidates = [*([self.best] if self.best else []), (objective.value, name)]
            self.best = (max if objective.mode == "max" else min)(candidates)

    def show(self, num_running: int, note: str = "") -> None:
        """Print a line if jobs have ended, or the note, which says why jobs wait, is another one."""
        if (self.num_run, note) == self.shown:
            return
        self.shown = (self.num_run, note)
        parts = [f"{self.num_before + self.num_run}/{self.total} jobs", f"{self.num_failed} failed"]
        parts += [f"{self.num_pruned} pruned", f"{num_running} running"]
        num_left = self.total - self.num_before - self.num_run
        if self.num_run and num_left > 0:
            left = timedelta(seconds=round((time.monotonic() - self.started) / self.num_run * num_left))
            parts.append(f"{left} left")
        best = f"best {self.metric} {metric_text(self.best[0])}: {self.best[1]}" if self.best else ""
        print(printable("; ".join(filter(None, [", ".join(parts), note, best]))), flush=True)


class Launcher(Protocol):
    """Protocol of a place where jobs run, such as this machine; the failure of a job must not stop the others.

    Attributes:
        is_queue: Whether jobs wait in a queue that outlives this command, where they are found again by their ids. Other
            jobs end with this command; the same sweep may run on other machines, and a lock says who runs a job.
        waits: False if jobs are started, and their end is not waited for.
    """

    is_queue: bool
    waits: bool

    @property
    def num_at_once(self) -> int:
        """Number of trials of a search at once."""

    @property
    def num_free(self) -> int | None:
        """Number of jobs that can be started now; None for any number."""

    @property
    def note(self) -> str:
        """Why jobs wait that could have started, for the status line; empty if none do."""

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that these of `num` jobs can run here; return False if the user asked for the check only."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start at most `num_free` jobs."""

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait for a job to end, but only for a short time.

        Returns:
            The jobs that have ended, each with its failure, None on success; and the number of running jobs.
        """

    def stop(self) -> None:
        """End the running jobs."""


NOT_COMPOSED = (UserError, HydraException, OmegaConfBaseException)


def run_jobs(
    ask: Callable[[], Job | None],
    launcher: Launcher,
    status: StatusLine,
    *,
    at_once: int | None,
    ended: Callable[[Job, Failure | None], None],
) -> None:
    """Run jobs, as many at once as possible, and skip those that have ended before.

    Jobs that run elsewhere, in a folder that several machines share, come last: each waits for the lock of its directory,
    then for nothing if its run has finished, or else resumes it.

    Args:
        ask: Returns the next job; None if there is none now. It is called when a slot is free, or one job ahead if there
            is no `at_once`; after a None, it is called again when a job has ended.
        launcher: Runs the jobs.
        status: Shows the progress.
        at_once: Largest number of jobs at once; None for the launcher's own limit.
        ended: Called with each job that has ended and its failure, None on success.
    """
    num_started = 0
    elsewhere: deque[Job] = deque()
    ahead: list[Job] = []  # at most one, composed while others run

    def next_jobs() -> list[Job]:
        limits = [limit for limit in (launcher.num_free, at_once and at_once - num_started) if limit is not None]
        found: list[Job] = []
        while not limits or len(found) < min(limits):
            job = ahead.pop() if ahead else ask()
            is_last = job is None
            if job is None:
                if not elsewhere:
                    break
                job = elsewhere.popleft()
            try:
                is_finished = job.run.is_finished(job.identity)
            except NOT_COMPOSED as error:
                failure = Failure.of(error)
                status.add(job, failure)
                ended(job, failure)
                continue
            if is_finished:
                status.count_skipped()
                ended(job, None)
            elif (
                not is_last
                and not launcher.is_queue
                and lock.Watch(job.run.directory / lock.LOCK).state() != "free"
            ):
                elsewhere.append(job)
            else:
                found.append(job)
        return found

    while True:
        if jobs := next_jobs():
            launcher.start(jobs)
            num_started += len(jobs)
        if not launcher.waits or not num_started:
            return
        if at_once is None and not ahead and (job := ask()):
            ahead.append(job)
            with contextlib.suppress(*NOT_COMPOSED):
                _ = job.resolved_config
        over, num_running = launcher.wait()
        num_started -= len(over)
        for job, failure in over:
            if failure:
                record_failure(job.identity, job.overrides, failure)
            status.add(job, failure)
            ended(job, failure)
        status.show(num_running, launcher.note)


# Forking a process that has imported PyTorch is safe on Linux only; elsewhere each process imports it.
CONTEXT: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
IN_MEMORY = "leyden.data.in_memory.InMemoryDataModule"
WARM = "LEYDEN_SWEEP_WARM"  # environment variable of the fork server: what it imports, and the data that it reads


def warm_up(config: DictConfig) -> None:
    """Start the fork server in the background, which imports what jobs need and reads the data; Linux only.

    Args:
        config: The sweep's configuration; nothing is downloaded.
    """
    if sys.platform != "linux":
        return
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(["leyden.sweep.launcher"])
    parts: dict[str, Any] = {**OmegaConf.to_container(config), "hydra": None}  # type: ignore[dict-item]
    # The user's own files are imported by each job: what they draw meanwhile follows from the job's seed.
    wanted: dict[str, Any] = {"names": [name for name in targets(parts) if name.startswith("leyden.")]}
    if config.data.get("_target_") == IN_MEMORY:
        with contextlib.suppress(OmegaConfBaseException):
            node: Any = OmegaConf.to_container(config.data, resolve=True)
            wanted["data"] = {**node, "download": False}
    os.environ[WARM] = json.dumps(wanted)
    forkserver.ensure_running()
    del os.environ[WARM]


END_S = 5.0  # a process that has returned its value has this long to end, then `stop` kills it


class Call:
    """A function that is called in a process of its own, a fork of the warm one.

    Args:
        environment: Environment variables for threads and devices.
        function: The function.
        arguments: Its positional arguments.
        log: File for its output; None for the output of this process.

    Raises:
        UserError: The process that others are forked from was killed.
    """

    def __init__(
        self, environment: dict[str, str], function: Callable[..., Any], *arguments: Any, log: Path | None = None
    ) -> None:
        self.connection, other_end = CONTEXT.Pipe(duplex=False)
        # Not a daemon: a job may start processes of its own.
        given = (other_end, environment, sys.orig_argv, function, arguments, log)
        self.process: BaseProcess = CONTEXT.Process(target=call, args=given)
        try:
            self.process.start()
        except (EOFError, OSError) as error:
            raise UserError(
                f"no process could be started for a job ({error}): the one that starts them was killed, perhaps out of "
                "memory, or a limit is reached; the same command resumes"
            ) from error
        other_end.close()

    def is_done(self) -> bool:
        """Return whether the function has returned or the process has died."""
        return self.connection.poll() or not self.process.is_alive()

    def result(self) -> Any:
        """Wait for the function's return value, and for its process to end; return the value.

        Raises:
            EOFError: The process has died; the message says how.
        """
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise EOFError(_how_it_ended(self.process.exitcode)) from None
        self.process.join(END_S)  # its memory and its GPU are free for the next one
        return result

    def stop(self) -> None:
        """Kill the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def call_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that needs PyTorch in a new process, and return its value.

    Raises:
        UserError: The process was killed.
    """
    made = Call({"OMP_NUM_THREADS": str(num_threads(num_cores()))}, function, *arguments)
    try:
        return made.result()
    except EOFError as error:
        raise UserError(f"{function.__name__}: the process was killed: {error}") from None
    finally:
        made.stop()


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"its process ended with {exit_code}"


def worker_environments(num_jobs: int | None, devices: Sequence[str], num_cores: int) -> list[dict[str, str]]:
    """Return the environment variables of each slot: its device, and its number of threads.

    The threads are the slot's share of the cores, unless the user has set OMP_NUM_THREADS.

    Args:
        num_jobs: Number of slots, in which jobs run; None for one per device or, if there are no devices, one per core.
        devices: CUDA's names of the devices; slots take them in turn.
        num_cores: Number of cores of this machine.

    Example:
        >>> [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_environments(3, ["0", "1"], 8)]
        ['0', '1', '0']
    """
    if num_jobs is None:
        num_jobs = len(devices) or num_cores
    threads = {"OMP_NUM_THREADS": str(num_threads(num_cores // num_jobs))}
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} if devices else dict(threads)
        for n in range(num_jobs)
    ]


def num_devices(requested: Any, devices: Sequence[str]) -> int:
    """Return the number of devices that `trainer.devices` asks for, given the available ones.

    Example:
        >>> [num_devices(requested, ["0", "1"]) for requested in (2, [0, 3, 5], "2", "auto")]
        [2, 3, 2, 2]
    """
    if isinstance(requested, int | str) and str(requested).isdecimal():
        return int(requested)
    return max(1, len(devices) if isinstance(requested, int | str) else len(requested))


class LocalLauncher:
    """Launcher of parallel jobs on this machine, each in a process of its own; those of several processes run one by one.

    It starts the fork server, which imports PyTorch while the jobs are checked.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.
    """

    is_queue, waits, note = False, True, ""

    def __init__(self, config: DictConfig, module: str) -> None:
        check_num_jobs(config.cluster.num_jobs)  # here, since it is used before the jobs are checked
        self.config, self.module, self.run = config, module, try_job
        self.slots: list[dict[str, str]] = []  # the environment variables of each
        self.running: dict[int, tuple[Job, Call]] = {}  # by slot
        if not config.dry_run:
            warm_up(config)

    @property
    def num_at_once(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that the jobs can run on this machine, and divide its devices and cores among them."""
        devices = call_in_process(visible_devices) if self.config.trainer.accelerator in USES_CUDA else []
        self.slots = worker_environments(self.config.cluster.num_jobs, devices, num_cores())
        used, is_one_process = [], True
        for job in jobs:
            trainer = job.config.trainer
            if trainer.num_nodes != 1:
                raise UserError(
                    f"trainer.num_nodes={trainer.num_nodes}: a sweep on this machine has no other nodes"
                )
            used.append(num_devices(trainer.devices, devices))
            is_one_process &= (trainer.devices, trainer.strategy) == (1, "auto")
            job.release()
        if not is_one_process:  # one job at a time, with all its devices; its processes share the cores
            environment = {"OMP_NUM_THREADS": str(num_threads(num_cores() // max(used)))}
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices)
            self.slots, self.run = [environment], run_as_command
        return True

    @property
    def num_free(self) -> int:
        """Number of slots in which no job runs."""
        return len(self.slots) - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs in free slots."""
        free = [slot for slot in range(len(self.slots)) if slot not in self.running]
        for job, slot in zip(jobs, free, strict=False):
            given = (self.module, job.resolved_config, job.identity, job.overrides)
            made = Call(self.slots[slot], self.run, *given, log=job.log)
            self.running[slot] = job, made

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait up to a second for jobs to end, as `Launcher.wait`; the death of a process is a failure of its job."""
        calls = [made for _, made in self.running.values()]
        connection.wait([each.connection for each in calls] + [each.process.sentinel for each in calls], timeout=1)
        ended = []
        for slot, (job, made) in list(self.running.items()):
            if not made.is_done():
                continue
            try:
                failure = made.result()
            except EOFError as gone:
                failure = Failure("Killed", str(gone))
            made.stop()
            ended.append((job, failure))
            del self.running[slot]
        return ended, len(self.running)

    def stop(self) -> None:
        """Kill the processes."""
        for _, made in self.running.values():
            made.stop()
        self.running = {}


def _warm_up(names: list[str], data: dict[str, Any] | None = None) -> None:
    """Import in the fork server what jobs need, and read the data of this node.

    It must start no threads and no GPU, which forks could not use.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # a thread pool is lost by forking; each job sets its own number
    prepare_process()
    with importing():
        from leyden.data.in_memory import keep_tensors
        from leyden.report import outcome  # noqa: F401 - for jobs
        from leyden.run import provenance
        from leyden.training import start  # noqa: F401 - for jobs

        for name in names:
            with contextlib.suppress(Exception):
                pkgutil.resolve_name(name)
    provenance.installed_versions()  # each job records them
    provenance.skip_preloaded()
    keep_tensors()
    if data and _starts_nothing(data):
        _read(data)
        provenance.code_of()  # a file counts as it was imported here, also if it changes later
        gc.freeze()  # jobs share these objects' memory


def _read(data: dict[str, Any]) -> None:
    from leyden import assembly

    assembly.silence_lightning()
    with contextlib.suppress(Exception):  # the checks that follow report mistakes in the data
        assembly.datamodule(OmegaConf.create({"data": data, "seed": 0}))


def _num_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def _starts_nothing(data: dict[str, Any]) -> bool:
    """Return whether reading the data starts no threads and no GPU; a forked child process tries it."""
    import torch

    if not (pid := os.fork()):
        before, code = _num_threads(), 1
        try:
            _read(data)
            code = int(torch.cuda.is_initialized() or _num_threads() > before)  # type: ignore[no-untyped-call]
        finally:
            leave_at_once(code)
    return os.waitpid(pid, 0)[1] == 0


if wanted := os.environ.pop(WARM, ""):  # this is the fork server
    _warm_up(**json.loads(wanted))

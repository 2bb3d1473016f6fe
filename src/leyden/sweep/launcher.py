"""Jobs in parallel on this machine, in processes that start warm: copies of one that has imported all and read the data."""

import contextlib
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.config.errors import UserError
from leyden.run.process import num_cores, num_threads
from leyden.sweep import worker
from leyden.sweep.jobs import Job
from leyden.sweep.worker import serve

# A copy of a process that has imported PyTorch is safe on Linux alone: elsewhere each one imports it for itself.
CONTEXT: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
IN_MEMORY = "leyden.data.in_memory.InMemoryDataModule"
DATA = "LEYDEN_SWEEP_DATA"  # tells `leyden.sweep.warm` what to read


def warm_up(data: DictConfig) -> None:
    """Let the imports of the jobs begin in the background, and the reading of the data that most of them need.

    Args:
        data: The node of the configuration; nothing is fetched.
    """
    if sys.platform != "linux":
        return
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(["leyden.sweep.warm"])
    if data.get("_target_") == IN_MEMORY:
        with contextlib.suppress(OmegaConfBaseException):
            node: Any = OmegaConf.to_container(data, resolve=True)
            os.environ[DATA] = json.dumps({**node, "download": False})
    try:
        forkserver.ensure_running()
    except OSError as error:  # its socket lies there, whose path has at most about a hundred bytes
        raise UserError(
            f"TMPDIR={tempfile.gettempdir()}: no process can be started from there ({error})"
        ) from error
    finally:
        os.environ.pop(DATA, None)


class Process:
    """A process that does one thing after another.

    Args:
        environment: Threads and devices.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        # Not a daemon: a job may start processes of its own.
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=(theirs, environment, sys.orig_argv))
        self.process.start()
        theirs.close()
        self.is_spent = (
            False  # what it did has changed variables of classes and files: it is no new process any more
        )

    def give(self, function: Callable[..., Any], *arguments: Any, log: Path | None = None) -> None:
        """Let it call a function, whose output goes to a log, or to where that of this process goes."""
        self.connection.send((function, arguments, log))

    def has_answered(self) -> bool:
        """Whether the function has returned, or the process is gone."""
        return self.connection.poll() or not self.process.is_alive()

    def answer(self) -> Any:
        """What the function returns.

        Raises:
            EOFError: The process is gone; the message says how.
        """
        try:
            result, self.is_spent = self.connection.recv()
            return result
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise EOFError(_how_it_ended(self.process.exitcode)) from None

    def stop(self) -> None:
        """End it, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def call_in_copy(function: Callable[..., Any], *arguments: Any, log: Path | None = None) -> Any:
    """What a function returns that needs PyTorch: here, if this process has imported that, else in a copy of one that has.

    Args:
        function: What is called.
        arguments: With what.
        log: Where its output goes; None: where that of this process goes.

    Raises:
        UserError: The process that did it is gone.
    """
    if "torch" in sys.modules:  # on a node, where this process trains
        with (
            log.open("a", encoding="utf-8") if log else contextlib.nullcontext(sys.stdout) as file,
            contextlib.redirect_stdout(file),
        ):
            return function(*arguments)
    process = Process({"OMP_NUM_THREADS": str(num_threads(num_cores()))})
    try:
        process.give(function, *arguments, log=log)
        return process.answer()
    except EOFError as error:
        raise UserError(f"{function.__name__}: the process was killed: {error}") from None
    finally:
        process.stop()


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"its process ended with {exit_code}"


def worker_environments(num_jobs: int | None, devices: Sequence[str], num_cores: int) -> list[dict[str, str]]:
    """The environment of each worker: its device, and its share of the cores, or the threads that the user has exported.

    Args:
        num_jobs: Number of workers; None for one per device, or one per core where there is no device.
        devices: As CUDA names them; workers take them in turn.
        num_cores: Of this machine.

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


def num_devices(asked: Any, devices: Sequence[str]) -> int:
    """How many devices a trainer takes, of those that there are.

    Example:
        >>> [num_devices(asked, ["0", "1"]) for asked in (2, [0, 3, 5], "2", "auto")]
        [2, 3, 2, 2]
    """
    if isinstance(asked, int | str) and str(asked).isdecimal():
        return int(asked)
    return max(1, len(devices) if isinstance(asked, int | str) else len(asked))


class Pool:
    """Processes, which are started when they are needed and live until `stop`.

    Args:
        environments: One per process.
        module: Whose `main.task` a job is.
        run: Runs a job in one of them.
    """

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        module: str,
        run: Callable[[str, DictConfig], str] = worker.try_job,
    ) -> None:
        self.environments, self.module, self.run = environments, module, run
        self.processes: dict[int, Process] = {}  # by place
        self.running: dict[int, Job] = {}

    @property
    def room(self) -> int:
        """Places where no job runs."""
        return len(self.environments) - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Give jobs to the processes that have none."""
        free = [place for place in range(len(self.environments)) if place not in self.running]
        for job, place in zip(jobs, free, strict=False):
            there = self.processes.get(place)
            if there and (there.is_spent or not there.process.is_alive()):  # it has died since
                self.processes.pop(place).stop()
            if place not in self.processes:
                self.processes[place] = Process(self.environments[place])
            self.processes[place].give(self.run, self.module, job.resolved_config, log=job.log)
            self.running[place] = job

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """As `batch.Runner` says; that a process died is an error of its job, too."""
        at_work = [self.processes[place] for place in self.running]
        connection.wait([p.connection for p in at_work] + [p.process.sentinel for p in at_work], timeout=1)
        ended = []
        for place, job in list(self.running.items()):
            process = self.processes[place]
            if not process.has_answered():
                continue
            try:
                error = process.answer()
            except EOFError as gone:
                error = f"Killed: {gone}"
                self.processes.pop(place).stop()
            ended.append((job, error))
            del self.running[place]
        return ended, len(self.running)

    def stop(self) -> None:
        """End the processes, whatever they do."""
        for process in self.processes.values():
            process.stop()
        self.processes, self.running = {}, {}

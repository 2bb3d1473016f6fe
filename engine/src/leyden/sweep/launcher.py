"""Jobs in parallel on this machine, in workers forked from a process that imported PyTorch and read the data."""

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
from leyden.sweep.jobs import Job
from leyden.sweep.worker import serve, try_job

# Forking a process that has imported PyTorch is safe on Linux only; elsewhere each worker imports it.
CONTEXT: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
IN_MEMORY = "leyden.data.in_memory.InMemoryDataModule"
DATA = "LEYDEN_SWEEP_DATA"  # environment variable with the data node that `leyden.sweep.warm` reads; may be empty


def warm_up(data: DictConfig) -> None:
    """Start the fork server in the background, which imports PyTorch and reads the data; Linux only.

    Args:
        data: The data node of the sweep's configuration; nothing is downloaded.
    """
    if sys.platform != "linux":
        return
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload(["leyden.sweep.warm"])
    os.environ[DATA] = ""
    if data.get("_target_") == IN_MEMORY:
        with contextlib.suppress(OmegaConfBaseException):
            node: Any = OmegaConf.to_container(data, resolve=True)
            os.environ[DATA] = json.dumps({**node, "download": False})
    try:
        forkserver.ensure_running()
    except OSError as error:  # its socket is in TMPDIR, and a socket's path has at most about 100 bytes
        raise UserError(
            f"TMPDIR={tempfile.gettempdir()}: no process can be started from there ({error})"
        ) from error
    finally:
        os.environ.pop(DATA, None)


class Worker:
    """A worker process that calls one function after another.

    Args:
        environment: Environment variables for threads and devices.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.connection, worker_end = CONTEXT.Pipe()
        # Not a daemon: a job may start processes of its own.
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=(worker_end, environment, sys.orig_argv))
        self.process.start()
        worker_end.close()
        self.is_spent = False  # True once another process must run the next job

    def submit(self, function: Callable[..., Any], *arguments: Any, log: Path | None = None) -> None:
        """Let the worker call a function; its output goes to `log`, or to the output of this process."""
        self.connection.send((function, arguments, log))

    def is_done(self) -> bool:
        """Return whether the function has returned or the worker has died."""
        return self.connection.poll() or not self.process.is_alive()

    def result(self) -> Any:
        """Wait for the function's return value and return it.

        Raises:
            EOFError: The worker has died; the message says how.
        """
        try:
            result, self.is_spent = self.connection.recv()
            return result
        except (EOFError, ConnectionResetError):
            self.process.join()
            raise EOFError(_how_it_ended(self.process.exitcode)) from None

    def stop(self) -> None:
        """Kill the worker."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def call_in_worker(function: Callable[..., Any], *arguments: Any, log: Path | None = None) -> Any:
    """Call a function that needs PyTorch, in this process if it has imported PyTorch, else in a new worker.

    Args:
        function: The function.
        arguments: Its positional arguments.
        log: File for its output; None for the output of this process.

    Raises:
        UserError: The worker was killed.
    """
    if "torch" in sys.modules:  # on a node of a cluster, where this process trains
        with (
            log.open("a", encoding="utf-8") if log else contextlib.nullcontext(sys.stdout) as file,
            contextlib.redirect_stdout(file),
        ):
            return function(*arguments)
    process = Worker({"OMP_NUM_THREADS": str(num_threads(num_cores()))})
    try:
        process.submit(function, *arguments, log=log)
        return process.result()
    except EOFError as error:
        raise UserError(f"{function.__name__}: the process was killed: {error}") from None
    finally:
        process.stop()


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    return f"its process ended with {exit_code}"


def worker_environments(num_jobs: int | None, devices: Sequence[str], num_cores: int) -> list[dict[str, str]]:
    """Return the environment variables of each worker: its device, and its number of threads.

    The threads are the worker's share of the cores, unless the user has set OMP_NUM_THREADS.

    Args:
        num_jobs: Number of workers; None for one per device or, if there are no devices, one per core.
        devices: CUDA's names of the devices; workers take them in turn.
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


class Pool:
    """Worker processes, each started for its first job and kept until `stop`; a `leyden.sweep.status.Runner`.

    Args:
        environments: Environment variables of each worker.
        module: Name of the module whose `main.task` runs a job.
        run: Function that a worker calls for a job; returns the text of an error, empty on success.
    """

    note = ""

    def __init__(
        self,
        environments: Sequence[dict[str, str]],
        module: str,
        run: Callable[[str, DictConfig], str] = try_job,
    ) -> None:
        self.environments, self.module, self.run = environments, module, run
        self.workers: dict[int, Worker] = {}  # by slot, the index of an environment
        self.running: dict[int, Job] = {}  # by slot

    @property
    def num_free(self) -> int:
        """Number of slots in which no job runs."""
        return len(self.environments) - len(self.running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs in free slots."""
        free = [slot for slot in range(len(self.environments)) if slot not in self.running]
        for job, slot in zip(jobs, free, strict=False):
            worker = self.workers.get(slot)
            if worker and (worker.is_spent or not worker.process.is_alive()):
                self.workers.pop(slot).stop()
            if slot not in self.workers:
                self.workers[slot] = Worker(self.environments[slot])
            self.workers[slot].submit(self.run, self.module, job.resolved_config, log=job.log)
            self.running[slot] = job

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Wait up to a second for jobs to end, as `Runner.wait`; the death of a worker is an error of its job."""
        busy = [self.workers[slot] for slot in self.running]
        connection.wait([each.connection for each in busy] + [each.process.sentinel for each in busy], timeout=1)
        ended = []
        for slot, job in list(self.running.items()):
            if not self.workers[slot].is_done():
                continue
            try:
                error = self.workers[slot].result()
            except EOFError as gone:
                error = f"Killed: {gone}"
                self.workers.pop(slot).stop()
            ended.append((job, error))
            del self.running[slot]
        return ended, len(self.running)

    def stop(self) -> None:
        """Kill the workers."""
        for each in self.workers.values():
            each.stop()
        self.workers, self.running = {}, {}

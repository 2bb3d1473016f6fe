"""Jobs in parallel on this machine: one per process, the processes reused, one that is killed replaced."""

import os
import re
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing import connection, forkserver, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

from leyden.config.mistakes import UserError
from leyden.sweep.jobs import Job

# New processes are copies of one that has imported everything, and that has started nothing.
CONTEXT = get_context("forkserver")


def warm_up() -> None:
    """Let the imports of the jobs begin in the background."""
    CONTEXT.set_forkserver_preload(["leyden.sweep.worker", "leyden.training.start"])
    try:
        forkserver.ensure_running()
    except OSError as error:  # its socket lies there, whose path has at most about a hundred bytes
        raise UserError(
            f"TMPDIR={tempfile.gettempdir()}: no process can be started from there ({error})"
        ) from error


def slots(num_jobs: int | None, devices: Sequence[str], num_cores: int) -> list[dict[str, str]]:
    """The environment of each worker: its device, and its share of the cores.

    Args:
        num_jobs: Number of workers; None for one per device, or one per core where there is no device.
        devices: As CUDA names them; workers take them in turn.
        num_cores: Of this machine.

    Example:
        >>> slots(None, [], 2)
        [{'OMP_NUM_THREADS': '1'}, {'OMP_NUM_THREADS': '1'}]
    """
    if num_jobs is None:
        num_jobs = len(devices) or num_cores
    threads = {"OMP_NUM_THREADS": str(max(1, num_cores // num_jobs))}
    return [
        {**threads, "CUDA_VISIBLE_DEVICES": devices[n % len(devices)]} if devices else dict(threads)
        for n in range(num_jobs)
    ]


def visible_devices() -> list[str]:
    """The CUDA devices of this machine that this process may use; none where there is no driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [device for device in chosen.split(",") if device]
    nodes = Path("/dev").glob("nvidia*")
    return sorted(found[1] for node in nodes if (found := re.fullmatch(r"nvidia(\d+)", node.name)))


class Worker:
    """A process of `serve` and the job that it runs, if it runs one."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        from leyden.sweep.worker import (
            serve,  # it imports what takes seconds: by now the jobs were checked with that
        )

        self.connection, theirs = CONTEXT.Pipe()
        # Not a daemon: a job may start processes of its own.
        self.process: BaseProcess = CONTEXT.Process(target=serve, args=(theirs, module, environment))
        self.process.start()
        theirs.close()
        self.job: Job | None = None

    def give(self, job: Job) -> None:
        """Start a job."""
        self.job = job
        self.connection.send((job.resolved_config, job.log))

    def take(self) -> str | None:
        """The error of its job, empty for none; None while it runs. That a process died is an error, too."""
        if self.connection.poll():
            try:
                return str(self.connection.recv())
            except (EOFError, ConnectionResetError):
                self.process.join()
        if self.process.is_alive():
            return None
        return f"Killed: {_how_it_ended(self.process.exitcode)}"

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self.process.kill()
        self.process.join()


class Pool:
    """Workers, which are started when they are needed and live until `stop`.

    Args:
        environments: One per worker.
        module: Whose `main.task` a job is.
    """

    def __init__(self, environments: Sequence[dict[str, str]], module: str) -> None:
        self.environments, self.module = environments, module
        self.workers: list[Worker | None] = [None] * len(environments)

    @property
    def room(self) -> int:
        """Places where no job runs."""
        return len(self.workers) - len(self._running)

    def start(self, jobs: Sequence[Job]) -> None:
        """Give jobs to the workers that have none."""
        free = (place for place, worker in enumerate(self.workers) if worker is None or worker.job is None)
        for job, place in zip(jobs, list(free), strict=False):
            worker = self.workers[place]
            if worker and not worker.process.is_alive():  # it has died since
                worker.stop()
                worker = None
            worker = self.workers[place] = worker or Worker(self.module, self.environments[place])
            worker.give(job)

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """As `batch.Runner` says."""
        running = self._running
        connection.wait([w.connection for w in running] + [w.process.sentinel for w in running], timeout=1)
        ended = []
        for place, worker in enumerate(self.workers):
            if worker is None or worker.job is None or (error := worker.take()) is None:
                continue
            ended.append((worker.job, error))
            worker.job = None
            if not worker.process.is_alive():
                worker.stop()
                self.workers[place] = None
        return ended, len(self._running)

    @property
    def _running(self) -> list[Worker]:
        return [worker for worker in self.workers if worker and worker.job is not None]

    def stop(self) -> None:
        """End the workers, whatever they do."""
        for worker in self.workers:
            if worker:
                worker.stop()
        self.workers = [None] * len(self.environments)


def _how_it_ended(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"by {name}" + (", perhaps for want of memory" if name == "SIGKILL" else "")
    return f"its process ended with {exit_code}"

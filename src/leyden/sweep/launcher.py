"""Jobs in parallel on this machine: one per process, the processes reused, one that is killed replaced."""

from collections.abc import Callable, Sequence
from multiprocessing import connection
from typing import Any

from omegaconf import DictConfig

from leyden.run.process import num_threads
from leyden.sweep import worker
from leyden.sweep.jobs import Job
from leyden.sweep.processes import Process


def slots(num_jobs: int | None, devices: Sequence[str], num_cores: int) -> list[dict[str, str]]:
    """The environment of each worker: its device, and its share of the cores, or the threads that the user has exported.

    Args:
        num_jobs: Number of workers; None for one per device, or one per core where there is no device.
        devices: As CUDA names them; workers take them in turn.
        num_cores: Of this machine.

    Example:
        >>> [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3, ["0", "1"], 8)]
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
        run: Callable[[str, DictConfig], str] = worker.run,
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
            if place in self.processes and not self.processes[place].process.is_alive():  # it has died since
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

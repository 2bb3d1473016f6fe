"""This machine: jobs in parallel, each in a process of its own.

Those of several processes run one by one.

On Linux each job is a fork of a process that imported PyTorch and read the data. PyTorch is
imported inside of functions only: the sweep's main process imports this module and must start
quickly.
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden.base.errors import Exit, UserError, leave_at_once
from leyden.config.checks import register_resolvers
from leyden.exact.files import opened
from leyden.queue import JobLike, JobState, Queue, Work
from leyden.run.process import die_with_parent, importing, num_cores, num_threads

# Forking a process that has imported PyTorch is safe on Linux only; elsewhere each process imports
# it.
CONTEXT: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
USES_CUDA = ("auto", "gpu", "cuda")  # values of trainer.accelerator


def start_process(
    function: Callable[..., int | None],
    *arguments: Any,
    environment: dict[str, str],
    log: Path | None = None,
) -> BaseProcess:
    """Call a function in a fork of the warm process, which ends with its exit code.

    Args:
        function: Returns the exit code; None for 0.
        arguments: Its positional arguments.
        environment: Environment variables for threads and devices.
        log: File for its output; None for the output of this process.

    Raises:
        UserError: The process that others are forked from was killed.
    """
    # Not a daemon: a job may start processes of its own.
    process: BaseProcess = CONTEXT.Process(
        target=_call, args=(function, arguments, environment, log, sys.orig_argv)
    )
    try:
        process.start()
    except (EOFError, OSError) as error:
        raise UserError(
            f"no process could be started for a job ({error}): the one that starts them was "
            "killed, perhaps out of memory, or a limit is reached; the same command resumes"
        ) from error
    return process


def _call(
    function: Callable[..., int | None],
    arguments: Sequence[Any],
    environment: dict[str, str],
    log: Path | None,
    command: list[str],
) -> None:
    """Call a function in this new process, and end it whatever the function left running."""
    sys.orig_argv = command  # of the sweep, for the provenance of runs
    if log:
        with opened(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    with importing():
        import torch
    os.environ.update(environment)
    # The variable was read when torch was imported.
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    die_with_parent()  # otherwise a restarted sweep would find the job's directory in use
    register_resolvers()
    code: Any = 1
    try:
        code = function(*arguments) or 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.terminate()
    leave_at_once(code if isinstance(code, int) else 1)


def call_in_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that needs PyTorch in a new process, and return its value.

    Raises:
        UserError: The process was killed.
    """
    receiver, sender = CONTEXT.Pipe(duplex=False)
    environment = {"OMP_NUM_THREADS": str(num_threads(num_cores()))}
    process = start_process(_send, sender, function, arguments, environment=environment)
    sender.close()
    try:
        return receiver.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        why = how_it_ended(process.exitcode)
        raise UserError(f"{function.__name__}: the process was killed: {why}") from None
    finally:
        process.kill()
        process.join()


def _send(
    sender: connection.Connection, function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    # The other process handles Ctrl-C, and kills this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender.send(function(*arguments))


def visible_devices() -> list[str]:
    """Return the CUDA devices that this process may use, as values for CUDA_VISIBLE_DEVICES."""
    import torch

    num = torch.cuda.device_count()
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen:
        return [name.strip() for name in chosen.split(",")][:num]
    return [str(number) for number in range(num)]


def how_it_ended(exit_code: int | None) -> str:
    """Return in words how a process has ended, by its exit code."""
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return f"by {name}" + (", perhaps out of memory" if name == "SIGKILL" else "")
    if exit_code == Exit.DIED:
        return "one of its processes has died, perhaps out of memory"
    return f"its process ended with {exit_code}"


def worker_environments(
    num_jobs: int | None, devices: Sequence[str], num_cores: int
) -> list[dict[str, str]]:
    """Return the environment variables of each slot: its device, and its number of threads.

    The threads are the slot's share of the cores, unless the user has set OMP_NUM_THREADS.

    Args:
        num_jobs: Number of slots, in which jobs run; None for one per device or, if there are no
            devices, one per core.
        devices: CUDA's names of the devices; slots take them in turn.
        num_cores: Number of cores of this machine.

    Example:
        >>> [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_environments(3, ["0", "1"], 8)]
        ['0', '1', '0']
    """
    num = num_jobs or len(devices) or num_cores
    share = num_threads(num_cores // num)
    slots = []
    for number in range(num):
        slot = {"OMP_NUM_THREADS": str(share)}
        if devices:
            slot["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        slots.append(slot)
    return slots


def num_devices(requested: Any, devices: Sequence[str]) -> int:
    """Return the number of devices that `trainer.devices` asks for, given the available ones.

    Example:
        >>> [num_devices(requested, ["0", "1"]) for requested in (2, [0, 3, 5], "2", "auto")]
        [2, 3, 2, 2]
    """
    is_single = isinstance(requested, int | str)
    if is_single and str(requested).isdecimal():
        return int(requested)
    chosen = devices if is_single else requested
    return max(1, len(chosen))


def is_of_one_process(trainer: DictConfig) -> bool:
    """Return whether a trainer trains in one process.

    Lightning starts others by repeating the command line of the first.
    """
    return (trainer.devices, trainer.strategy) == (1, "auto")


class Here(Queue):
    """This machine, which has a slot for each job that runs at once.

    A job's id is its place in the order of starts.
    """

    outlives = False

    def __init__(self, config: DictConfig, folder: Path) -> None:
        super().__init__(config, folder)
        self.slots: list[dict[str, str]] = []  # the environment variables of each
        self.processes: dict[str, tuple[int, BaseProcess]] = {}  # with the slot, by id
        self.num_started = 0

    @property
    def num_threads(self) -> int | None:
        """Number of threads of a job's process."""
        return int(self.slots[0]["OMP_NUM_THREADS"])

    def check(self, jobs: Sequence[JobLike], num: int, python: str) -> bool:
        """Check that the jobs can run here, and divide devices and cores among them."""
        devices: list[str] = []
        if self.config.trainer.accelerator in USES_CUDA:
            devices = call_in_process(visible_devices)
        trainers = [job.compose().trainer for job in jobs]
        if all(map(is_of_one_process, trainers)):
            self.slots = worker_environments(self.num_at_once, devices, num_cores())
        else:  # one job at a time, with all its devices; its processes share the cores
            num = max(num_devices(trainer.devices, devices) for trainer in trainers)
            together = [",".join(devices)] if devices else []
            self.slots = worker_environments(1, together, num_cores() // num)
        self.num_at_once = len(self.slots)
        self.several = len(self.slots)
        return True

    def submit(
        self, works: Sequence[Work], name: str, python: str, *, after: Sequence[str] = ()
    ) -> list[dict[str, str]]:
        """Start jobs in free slots."""
        taken = {slot for slot, _ in self.processes.values()}
        free = sorted({*range(len(self.slots))} - taken)
        started = []
        for work, slot in zip(works, free, strict=False):
            process = start_process(
                work.function,
                *work.arguments,
                environment=self.slots[slot],
                log=work.log,
            )
            job = str(self.num_started)
            self.num_started += 1
            self.processes[job] = slot, process
            started.append({"job_id": job, "log": str(work.log)})
        return started

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; the slot of one that has ended is free."""
        found = {}
        for job in ids:
            _, process = self.processes[job]
            found[job] = JobState("running", "running")
            if not process.is_alive():
                del self.processes[job]
                code = process.exitcode
                found[job] = JobState("ended", how_it_ended(code), is_completed=code == 0)
        return found

    def cancel(self, ids: Sequence[str]) -> None:
        """Kill jobs."""
        for job in ids:
            _, process = self.processes[job]
            process.kill()
            process.join()

    def pause(self, seconds: float) -> None:
        """Wait up to a second for a job to end."""
        sentinels = [process.sentinel for _, process in self.processes.values()]
        connection.wait(sentinels, timeout=1)

"""The places where the jobs of a sweep run: the process of a job, and jobs in parallel on this machine.

On Linux each job is a fork of a process that imported PyTorch and read the data. PyTorch is imported inside of functions
only: the sweep's main process imports this module and must start quickly.
"""

import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.base.errors import (
    Exit,
    UserError,
    as_line,
    cause_of,
    ending,
    is_mistake,
    leave_at_once,
)
from leyden.base.paths import prepare_process
from leyden.base.terminal import printable
from leyden.config.checks import check_num_jobs, register_resolvers
from leyden.config.hydra import run_task, targets
from leyden.exact.files import opened
from leyden.exact.processes import is_communication_error
from leyden.run.directory import Run, wait_for_result
from leyden.run.identity import RunIdentity
from leyden.run.process import (
    COMMAND,
    die_with_parent,
    end_with_parent,
    importing,
    is_main_process,
    num_cores,
    num_processes,
    num_threads,
    write_call,
)
from leyden.run.result import Failure
from leyden.sweep.jobs import Job, record_failure


class Launcher:
    """Base of the places where jobs run, such as this machine; the failure of a job must not stop the others.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Attributes:
        is_queue: Whether jobs wait in a queue that outlives this command, where they are found again by their ids. Other
            jobs end with this command; the same sweep may run on other machines, and a lock says who runs a job.
        waits: False if jobs are started, and their end is not waited for.
        note: Why jobs wait that could have started, for the status line; empty if none do.
        num_at_once: Number of jobs at once; None for any number.
    """

    is_queue, waits, note = False, True, ""

    def __init__(self, config: DictConfig, module: str) -> None:
        check_num_jobs(
            config.cluster.num_jobs
        )  # here, since it is used before the jobs are checked
        self.config, self.module = config, module
        self.num_at_once: int | None = config.cluster.num_jobs

    @property
    def threads(self) -> int | None:
        """Number of threads of a job's process, known after `check`; None if it is unknown."""
        cluster = self.config.cluster
        of_ray = cluster.get("cpus")
        num: int | None = cluster.get("cpus_per_task", of_ray)
        return num

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that these of `num` jobs can run here; return False if the user asked for the check only."""
        raise NotImplementedError

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs, at most `num_at_once` with those that run."""
        raise NotImplementedError

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait for a job to end, but only for a short time.

        Returns:
            The jobs that have ended, each with its failure, None on success; and the number of running jobs.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End the running jobs, unless they are in a queue."""


# Forking a process that has imported PyTorch is safe on Linux only; elsewhere each process imports it.
CONTEXT: Any = get_context("forkserver" if sys.platform == "linux" else "spawn")
IN_MEMORY = "leyden.data.InMemoryDataModule"
WARM = "LEYDEN_SWEEP_WARM"  # environment variable of the fork server: what it imports, and the data that it reads
THREADS = Path("/proc/self/task")  # has a folder per thread
USES_CUDA = ("auto", "gpu", "cuda")  # values of trainer.accelerator


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
    wanted: dict[str, Any] = {
        "names": [name for name in targets(parts) if name.startswith("leyden.")]
    }
    if config.data.get("_target_") == IN_MEMORY:
        with contextlib.suppress(OmegaConfBaseException):
            node: Any = OmegaConf.to_container(config.data, resolve=True)
            wanted["data"] = {**node, "download": False}
    os.environ[WARM] = json.dumps(wanted)
    forkserver.ensure_running()
    del os.environ[WARM]


def start_process(
    function: Callable[..., int | None],
    *arguments: Any,
    environment: dict[str, str],
    log: Path | None = None,
) -> BaseProcess:
    """Call a function in a process of its own, a fork of the warm one, which ends with the function's exit code.

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
            f"no process could be started for a job ({error}): the one that starts them was killed, perhaps out of "
            "memory, or a limit is reached; the same command resumes"
        ) from error
    return process


def _call(
    function: Callable[..., int | None],
    arguments: Sequence[Any],
    environment: dict[str, str],
    log: Path | None,
    command: list[str],
) -> None:
    """Call a function in this new process, as in `start_process`, and end it, whatever the function has left running."""
    sys.orig_argv = command  # of the sweep, for the provenance of runs
    if log:
        with opened(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    with importing():
        import torch

        from leyden.assembly.trainer import silence_lightning
    os.environ.update(environment)
    torch.set_num_threads(
        int(environment["OMP_NUM_THREADS"])
    )  # the variable was read when torch was imported
    die_with_parent()  # otherwise a restarted sweep would find the job's directory in use
    register_resolvers()
    silence_lightning()
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
        raise UserError(
            f"{function.__name__}: the process was killed: {how_it_ended(process.exitcode)}"
        ) from None
    finally:
        process.kill()
        process.join()


def _send(
    sender: connection.Connection, function: Callable[..., Any], arguments: Sequence[Any]
) -> None:
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # the other process handles Ctrl-C, and kills this one
    sender.send(function(*arguments))


def visible_devices() -> list[str]:
    """Return the CUDA devices that this process may use, as values for CUDA_VISIBLE_DEVICES."""
    import torch

    num, chosen = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return (
        [name.strip() for name in chosen.split(",")][:num]
        if chosen
        else [str(n) for n in range(num)]
    )


def dry_build_jobs(configs: Sequence[tuple[str, DictConfig, list[str]]]) -> UserError | None:
    """Check several configurations by building the parts of their runs, without training; return a mistake, or None.

    The traceback of a bug is printed here, as it can't be sent to another process.

    Args:
        configs: Names, configurations, and the overrides that they were composed with.
    """
    with importing():
        from leyden.assembly.build import dry_build
        from leyden.assembly.trainer import silence_lightning
    silence_lightning()
    read: dict[str, Any] = {}
    for name, config, overrides in configs:
        try:
            dry_build(config, read, overrides=overrides)
        except UserError as error:
            return UserError(f"{name}: {error}")
        except Exception as error:
            if not is_mistake(error):
                print(
                    printable("".join(traceback.format_exception(cause_of(error)))),
                    file=sys.stderr,
                    end="",
                )
            return UserError(as_line(error))
    return None


def run_job(module: str, config: DictConfig, identity: RunIdentity, overrides: list[str]) -> None:
    """Run a job in this process; record an error, and end with the exit code of a command.

    Args:
        module: Name of the module whose `main.task` runs the job.
        config: The job's configuration, including the node `hydra`.
        identity: The settings that identify the job's run.
        overrides: The overrides that the job was composed with.
    """
    with ending():
        register_resolvers()
        run = Run(identity.config["run_dir"])
        num_starts = len(run.starts)
        try:
            _check_gpu(config)
            run_task(importlib.import_module(module).main.task, config)
        except Exception as error:
            if (
                not is_main_process()
            ):  # its end ends the main process, which may be about to record its own error
                wait_for_result(run)
            if is_main_process() or not is_communication_error(error, num_processes()):
                record_failure(identity, overrides, Failure.of(error), num_starts)
            raise


def _check_gpu(config: DictConfig) -> None:
    """Check that PyTorch can use the GPU of this process; `accelerator=auto` would silently use the CPU.

    Raises:
        UserError: PyTorch can't use it.
    """
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    is_asked_for = devices not in ("", "-1") and config.trainer.accelerator in USES_CUDA
    if is_asked_for and not torch.cuda.is_available():
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={devices}: PyTorch {torch.__version__} can't use it; set trainer.accelerator=cpu to train on the CPU"
        )


def command_of_job(*call: Any) -> int:
    """Call `run_job` in a command of its own, whose line Lightning repeats to start further processes; return the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job"
        write_call(path, run_job, call)
        command = [sys.executable, "-m", COMMAND, str(path)]
        # If this process is killed, the command gets a signal, and then ends its other processes.
        code = subprocess.run(command, preexec_fn=end_with_parent).returncode
    return code if code >= 0 else 128 - code  # of a signal, as a shell has it


def failure_of(run: Run, exit_code: int | None, num_starts: int) -> Failure | None:
    """Return the failure of a job whose process has ended, None on success.

    Args:
        run: The job's run.
        exit_code: Exit code of the process; negative for a signal.
        num_starts: Number of starts that the run had before.
    """
    if exit_code == 0:
        return None
    result = run.result if len(run.starts) > num_starts else None  # otherwise of an earlier start
    if result and result.error:
        return result.error
    return Failure("Killed" if (exit_code or 0) < 0 else "SystemExit", how_it_ended(exit_code))


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
        num_jobs: Number of slots, in which jobs run; None for one per device or, if there are no devices, one per core.
        devices: CUDA's names of the devices; slots take them in turn.
        num_cores: Number of cores of this machine.

    Example:
        >>> [slot["CUDA_VISIBLE_DEVICES"] for slot in worker_environments(3, ["0", "1"], 8)]
        ['0', '1', '0']
    """
    num = num_jobs or len(devices) or num_cores
    threads = {"OMP_NUM_THREADS": str(num_threads(num_cores // num))}
    device = [{"CUDA_VISIBLE_DEVICES": name} for name in devices] or [{}]
    return [{**threads, **device[n % len(device)]} for n in range(num)]


def num_devices(requested: Any, devices: Sequence[str]) -> int:
    """Return the number of devices that `trainer.devices` asks for, given the available ones.

    Example:
        >>> [num_devices(requested, ["0", "1"]) for requested in (2, [0, 3, 5], "2", "auto")]
        [2, 3, 2, 2]
    """
    if isinstance(requested, int | str) and str(requested).isdecimal():
        return int(requested)
    return max(1, len(devices) if isinstance(requested, int | str) else len(requested))


def is_of_one_process(trainer: DictConfig) -> bool:
    """Return whether a trainer trains in one process; Lightning starts others by repeating the command line of the first."""
    return (trainer.devices, trainer.strategy) == (1, "auto")


class LocalLauncher(Launcher):
    """Launcher of parallel jobs on this machine, each in a process of its own; those of several processes run one by one.

    It starts the fork server, which imports PyTorch while the jobs are checked.
    """

    def __init__(self, config: DictConfig, module: str) -> None:
        super().__init__(config, module)
        self.slots: list[dict[str, str]] = []  # the environment variables of each
        self.running: dict[
            int, tuple[Job, BaseProcess, int]
        ] = {}  # by slot, with the number of earlier starts
        if not config.dry_run:
            warm_up(config)

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that the jobs can run on this machine, and divide its devices and cores among them."""
        devices = (
            call_in_process(visible_devices) if self.config.trainer.accelerator in USES_CUDA else []
        )
        trainers = [job.compose().trainer for job in jobs]
        if all(map(is_of_one_process, trainers)):
            self.slots = worker_environments(self.num_at_once, devices, num_cores())
        else:  # one job at a time, with all its devices; its processes share the cores
            num = max(num_devices(trainer.devices, devices) for trainer in trainers)
            self.slots = worker_environments(
                1, [",".join(devices)] if devices else [], num_cores() // num
            )
        self.num_at_once = len(self.slots)
        return True

    @property
    def threads(self) -> int:
        """Number of threads of a job's process."""
        return int(self.slots[0]["OMP_NUM_THREADS"])

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs in free slots."""
        free = [slot for slot in range(len(self.slots)) if slot not in self.running]
        for job, slot in zip(jobs, free, strict=False):
            num_starts, call = len(job.run.starts), job.call(self.module)
            function = run_job if is_of_one_process(call.config.trainer) else command_of_job
            process = start_process(function, *call, environment=self.slots[slot], log=job.log)
            self.running[slot] = job, process, num_starts

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait up to a second for jobs to end, as `Launcher.wait`; the death of a process is a failure of its job."""
        connection.wait([process.sentinel for _, process, _ in self.running.values()], timeout=1)
        ended = []
        for slot, (job, process, num_starts) in list(self.running.items()):
            if not process.is_alive():
                ended.append((job, failure_of(job.run, process.exitcode, num_starts)))
                del self.running[slot]
        return ended, len(self.running)

    def stop(self) -> None:
        """Kill the processes."""
        for _, process, _ in self.running.values():
            process.kill()
            process.join()


def _warm_up(names: list[str], data: dict[str, Any] | None = None) -> None:
    """Import in the fork server what jobs need, and read the data of this node.

    It must start no threads and no GPU, which forks could not use.
    """
    os.environ["OMP_NUM_THREADS"] = (
        "1"  # a thread pool is lost by forking; each job sets its own number
    )
    prepare_process()
    with importing():
        from leyden.data.in_memory import keep_tensors
    trial = _try_to_read(data) if data else 0  # meanwhile
    with importing():
        from leyden.report import outcome  # noqa: F401 - for jobs
        from leyden.run import provenance
        from leyden.training import start  # noqa: F401 - for jobs

        for name in (
            *names,
            "tensorboard.plugins.hparams.summary_v2",
        ):  # which a run imports when it has ended
            with contextlib.suppress(Exception):
                pkgutil.resolve_name(name)
    provenance.installed_versions()  # each job records them
    provenance.skip_preloaded()
    keep_tensors()
    if data and os.waitpid(trial, 0)[1] == 0:
        _read(data)
        provenance.code_of()  # a file counts as it was imported here, also if it changes later
        gc.freeze()  # jobs share these objects' memory


def _read(data: dict[str, Any]) -> None:
    from leyden import assembly

    assembly.silence_lightning()
    with contextlib.suppress(Exception):  # the checks that follow report mistakes in the data
        assembly.datamodule(OmegaConf.create({"data": data, "seed": 0}))


def _try_to_read(data: dict[str, Any]) -> int:
    """Fork a process that reads the data, and return its id; its exit code is 0 if this starts no threads and no GPU."""
    import torch

    if not (pid := os.fork()):
        before, code = len([*THREADS.iterdir()]), 1
        try:
            _read(data)
            code = int(torch.cuda.is_initialized() or len([*THREADS.iterdir()]) > before)  # type: ignore[no-untyped-call]
        finally:
            leave_at_once(code)
    return pid


if wanted := os.environ.pop(WARM, ""):  # this is the fork server
    _warm_up(**json.loads(wanted))

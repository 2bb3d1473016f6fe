"""The process of a sweep's job, and the devices for it.

PyTorch is imported inside of functions only: the sweep's main process imports this module and must start quickly.
"""

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden.config.errors import UserError, as_line, cause_of, ending, is_mistake
from leyden.config.hydra import run_task
from leyden.config.paths import prepare_process
from leyden.config.schema import register_resolvers
from leyden.config.terminal import printable
from leyden.run.directory import Run, is_communication_error, wait_for_result
from leyden.run.identity import RunIdentity
from leyden.run.process import (
    COMMAND,
    die_with_parent,
    end_with_parent,
    importing,
    is_main_process,
    num_processes,
    write_call,
)
from leyden.run.result import Failure
from leyden.sweep.jobs import record_failure

USES_CUDA = ("auto", "gpu", "cuda")  # values of trainer.accelerator


def visible_devices() -> list[str]:
    """Return the CUDA devices that this process may use, as values for CUDA_VISIBLE_DEVICES."""
    import torch

    num, chosen = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in chosen.split(",")][:num] if chosen else [str(n) for n in range(num)]


def call(
    connection: Connection,
    environment: dict[str, str],
    command: list[str],
    function: Callable[..., Any],
    arguments: Sequence[Any],
    log: Path | None,
) -> None:
    """Call a function in this new process, and send its return value.

    Args:
        connection: Takes the return value; it is closed without one if the function raises.
        environment: Environment variables for threads and devices.
        command: The command line of the sweep, for the provenance of runs.
        function: The function.
        arguments: Its positional arguments.
        log: File for the output of this process; None to leave it as it is.
    """
    sys.orig_argv = command
    if log:
        with log.open("a", encoding="utf-8") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    with importing():
        import torch

        from leyden.assembly.trainer import silence_lightning
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # the variable was read when torch was imported
    die_with_parent()  # otherwise a restarted sweep would find the job's directory in use
    register_resolvers()
    silence_lightning()
    result = function(*arguments)
    sys.stdout.flush()
    connection.send(result)


def execute_job(module: str, config: DictConfig) -> None:
    """Run a job in this process, and raise its error.

    Args:
        module: Name of the module whose `main.task` runs the job.
        config: The job's configuration, including the node `hydra`.
    """
    prepare_process()  # not by a verb's `main`
    register_resolvers()
    _check_gpu(config)
    run_task(importlib.import_module(module).main.task, config)


def try_job(module: str, config: DictConfig, *_: Any) -> Failure | None:
    """Run a job; return its failure, None on success."""
    try:
        execute_job(module, config)
    except BaseException as error:  # the next job must run, whatever this one raises
        traceback.print_exc()
        return Failure.of(error)
    return None


def run_on_node(module: str, config: DictConfig, identity: RunIdentity, overrides: list[str]) -> None:
    """Run a job in a process of several, or on a cluster's node; record an error, and end with the exit code of a command.

    Args:
        module: Name of the module whose `main.task` runs the job.
        config: The job's configuration, including the node `hydra`.
        identity: The settings that identify the job's run.
        overrides: The overrides that the job was composed with.
    """
    with ending():
        try:
            execute_job(module, config)
        except Exception as error:
            if not is_main_process():  # its end ends the main process, which may be about to record its own error
                wait_for_result(Run(identity.config["run_dir"]))
            if is_main_process() or not is_communication_error(error, num_processes()):
                record_failure(identity, overrides, Failure.of(error))
            raise


def run_as_command(module: str, config: DictConfig, identity: RunIdentity, overrides: list[str]) -> Failure | None:
    """Run a job as a command of its own, with `run_on_node`; return its failure, None on success."""
    num_starts = len((run := Run(config.run_dir)).starts)
    with tempfile.TemporaryDirectory() as folder:
        write_call(path := Path(folder) / "job", run_on_node, (module, config, identity, overrides))
        # If this process is killed, the command gets a signal, and then ends its other processes.
        code = subprocess.run([sys.executable, "-m", COMMAND, str(path)], preexec_fn=end_with_parent).returncode
    if not code:
        return None
    result = run.result if len(run.starts) > num_starts else None  # otherwise of an earlier start
    return (result and result.error) or Failure(
        "Killed" if code < 0 else "SystemExit", f"its process ended with {code}"
    )


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


def dry_build_jobs(configs: Sequence[tuple[str, DictConfig, list[str]]]) -> UserError | None:
    """Check several configurations by building the parts of their runs, without training; return a mistake, or None.

    The traceback of a bug is printed here, as it can't be sent to another process.

    Args:
        configs: Names, configurations, and the overrides that they were composed with.
    """
    if multiprocessing.parent_process():
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process handles Ctrl-C, and kills this one
    with importing():
        from leyden.assembly.build import dry_build
        from leyden.assembly.trainer import silence_lightning
    silence_lightning()
    facts: dict[str, Any] = {}
    for name, config, overrides in configs:
        try:
            dry_build(config, facts, overrides=overrides)
        except UserError as error:
            return UserError(f"{name}: {error}")
        except Exception as error:
            if not is_mistake(error):
                print(printable("".join(traceback.format_exception(cause_of(error)))), file=sys.stderr, end="")
            return UserError(as_line(error))
    return None

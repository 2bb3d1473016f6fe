"""The work of a job's process, and the process that others are forked from.

The latter imports this module first, and with it what jobs need. PyTorch is imported inside of
functions only.
"""

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.base.errors import (
    UserError,
    as_line,
    cause_of,
    ending,
    is_mistake,
    leave_at_once,
)
from leyden.base.paths import prepare_process
from leyden.base.terminal import printable
from leyden.config.checks import register_resolvers
from leyden.config.hydra import run_task, targets
from leyden.exact.processes import is_communication_error
from leyden.queue import this_job
from leyden.queue.here import CONTEXT, USES_CUDA
from leyden.run.directory import Run, wait_for_result
from leyden.run.identity import RunIdentity
from leyden.run.process import (
    COMMAND,
    end_with_parent,
    importing,
    is_main_process,
    num_processes,
    write_call,
)
from leyden.run.result import Failure, Result

IN_MEMORY = "leyden.data.InMemoryDataModule"
# Environment variable of the fork server: what it imports, and the data that it reads.
WARM = "LEYDEN_SWEEP_WARM"
THREADS = Path("/proc/self/task")  # has a folder per thread


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
            # The end of another process ends the main one, which may be about to record its own
            # error.
            if not is_main_process():
                wait_for_result(run)
            if is_main_process() or not is_communication_error(error, num_processes()):
                record_failure(identity, overrides, Failure.of(error), num_starts)
            raise


def _check_gpu(config: DictConfig) -> None:
    """Check that PyTorch can use the GPU of this process.

    `accelerator=auto` would silently use the CPU.

    Raises:
        UserError: PyTorch can't use it.
    """
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    is_asked_for = devices not in ("", "-1") and config.trainer.accelerator in USES_CUDA
    if is_asked_for and not torch.cuda.is_available():
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={devices}: PyTorch {torch.__version__} can't use it; set "
            "trainer.accelerator=cpu to train on the CPU"
        )


def command_of_job(*call: Any) -> int:
    """Call `run_job` in a command of its own; return the exit code.

    Lightning repeats the line of this command to start further processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job"
        write_call(path, run_job, call)
        command = [sys.executable, "-m", COMMAND, str(path)]
        # If this process is killed, the command gets a signal, and then ends its other processes.
        code = subprocess.run(command, preexec_fn=end_with_parent).returncode
    return code if code >= 0 else 128 - code  # of a signal, as a shell has it


def record_failure(
    identity: RunIdentity, overrides: list[str], failure: Failure, num_starts: int = 0
) -> None:
    """Record a failure in a job's run directory.

    Not if this start has recorded its result, or the directory is in use.

    Args:
        identity: The job's identity.
        overrides: The overrides that the job was composed with.
        failure: Its error.
        num_starts: Number of starts that the run had before this one.
    """
    from leyden.report.hparams import write_hparams

    run = Run(identity.config["run_dir"], trust=bool(identity.config.get("trust")))
    ended_job = run.submission.get("job_id", "")
    with (
        contextlib.suppress(UserError),
        run.locked(identity, resume="auto", ended_job=ended_job),
    ):
        has_begun = len(run.starts) > num_starts
        if run.result is None or not has_begun:
            job = this_job()
            if run.record is None or run.result:
                run.begin(identity, overrides, job=job.id)
            result = Result.failed(identity.objective, failure, requeues=job.restarts)
            write_hparams(run, result)
            run.end(result)


def dry_build_jobs(configs: Sequence[tuple[str, DictConfig, list[str]]]) -> UserError | None:
    """Check several configurations by building the parts of their runs, without training.

    Return a mistake, or None.

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
                shown = printable("".join(traceback.format_exception(cause_of(error))))
                print(shown, file=sys.stderr, end="")
            return UserError(as_line(error))
    return None


def warm_up(config: DictConfig) -> None:
    """Start the fork server in the background, which imports what jobs need and reads the data.

    Linux only.

    Args:
        config: The sweep's configuration; nothing is downloaded.
    """
    if sys.platform != "linux":
        return
    from multiprocessing import forkserver

    CONTEXT.set_forkserver_preload([__name__])
    plain: Any = OmegaConf.to_container(config)
    plain["hydra"] = None
    # The user's own files are imported by each job: what they draw meanwhile follows from the job's
    # seed.
    names = [name for name in targets(plain) if name.startswith("leyden.")]
    wanted: dict[str, Any] = {"names": names}
    if config.data.get("_target_") == IN_MEMORY:
        with contextlib.suppress(OmegaConfBaseException):
            node: Any = OmegaConf.to_container(config.data, resolve=True)
            wanted["data"] = {**node, "download": False}
    os.environ[WARM] = json.dumps(wanted)
    forkserver.ensure_running()
    del os.environ[WARM]


def _warm_up(names: list[str], data: dict[str, Any] | None = None) -> None:
    """Import in the fork server what jobs need, and read the data of this node.

    It must start no threads and no GPU, which forks could not use.
    """
    # A thread pool is lost by forking; each job sets its own number.
    os.environ["OMP_NUM_THREADS"] = "1"
    prepare_process()
    with importing():
        from leyden.data.in_memory import keep_tensors
    trial = _try_to_read(data) if data else 0  # meanwhile
    with importing():
        from leyden.report import outcome  # noqa: F401 - for jobs
        from leyden.run import provenance
        from leyden.training import start  # noqa: F401 - for jobs

        # The last one is imported by a run that has ended.
        for name in (*names, "tensorboard.plugins.hparams.summary_v2"):
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
    """Fork a process that reads the data, and return its id.

    Its exit code is 0 if this starts no threads and no GPU.
    """
    import torch

    pid = os.fork()
    if not pid:
        num_before = len([*THREADS.iterdir()])
        code = 1
        try:
            _read(data)
            has_more = len([*THREADS.iterdir()]) > num_before
            code = int(torch.cuda.is_initialized() or has_more)  # type: ignore[no-untyped-call]
        finally:
            leave_at_once(code)
    return pid


wanted_here = os.environ.pop(WARM, "")
if wanted_here:  # this is the fork server
    _warm_up(**json.loads(wanted_here))

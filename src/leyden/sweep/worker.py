"""The work of a sweep's processes, one job after another, on the GPUs that the driver lists. Light: it is copied, then imports."""

import contextlib
import gc
import importlib
import importlib.metadata
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.callbacks import (
    Callbacks,  # `run_job` calls them, and Hydra has no public class that does nothing
)
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from leyden.config.errors import UserError, cause_of, is_mistake
from leyden.config.terminal import printable
from leyden.config.values import flatten
from leyden.run import lock
from leyden.run.process import die_with_parent, end_with_parent, importing
from leyden.sweep.jobs import failure_text

if TYPE_CHECKING:
    from leyden.data.object_state import ObjectState


USES_CUDA = ("auto", "gpu", "cuda")  # of trainer.accelerator
TIMEOUT_S = 60  # a driver that is not loaded yet takes half of it, with many GPUs
NODES = Path("/dev")
GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[\w-]+)\)")
MIG = re.compile(r"^\s+MIG .*\(UUID: (MIG-[\w/-]+)\)", re.MULTILINE)
NAMED = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")


def visible_devices() -> list[str]:
    """The CUDA devices that processes started here may use, each as CUDA_VISIBLE_DEVICES takes it; none without a driver.

    A node in `/dev` tells nothing: in a container `/dev/nvidia3` alone is device 0.

    Raises:
        UserError: There are GPUs, and the driver does not tell which.
    """
    if importlib.metadata.version("torch").endswith("+cpu"):  # it can't use them
        return []
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return _asked() if chosen is None else named(chosen)


def named(chosen: str) -> list[str]:
    """What CUDA takes of a value of CUDA_VISIBLE_DEVICES: all before the first that names no device.

    Raises:
        UserError: It names one twice; then CUDA takes none.

    Example:
        >>> named("2,GPU-8a,-1,3"), named("NoDevFiles"), named("")
        (['2', 'GPU-8a'], [], [])
    """
    devices: list[str] = []
    for device in chosen.split(","):
        if not NAMED.fullmatch(device.strip()):
            break
        devices.append(device.strip())
    if len({*devices}) < len(devices):
        raise UserError(f"CUDA_VISIBLE_DEVICES={chosen}: names a device twice, and CUDA takes none of them then")
    return devices


def _asked() -> list[str]:
    told, problem = "", "nvidia-smi is not installed"
    if program := shutil.which("nvidia-smi"):
        try:
            ended = subprocess.run(
                [program, "-L"],
                capture_output=True,
                text=True,
                errors="replace",
                timeout=TIMEOUT_S,
                stdin=subprocess.DEVNULL,
            )
            told = "" if ended.returncode else ended.stdout
            problem = (
                f"nvidia-smi -L ended with {ended.returncode}" if ended.returncode else "nvidia-smi -L names no GPU"
            )
        except subprocess.TimeoutExpired:
            problem = f"nvidia-smi -L gave no answer in {TIMEOUT_S} s"
        except OSError as error:
            problem = f"nvidia-smi can't be started ({error.strerror})"
    blocks = re.split(r"^(?=GPU \d+:)", told, flags=re.MULTILINE)
    gpus = [(found[1], found[2], MIG.findall(block)) for block in blocks if (found := GPU.match(block))]
    if any(
        parts for *_, parts in gpus
    ):  # then CUDA counts otherwise than the driver; by their names all can be told
        return [device for _, uuid, parts in gpus for device in parts or [uuid]]
    if gpus:
        return [number for number, *_ in gpus]
    if "No devices" not in told and any(re.fullmatch(r"nvidia\d+", node.name) for node in NODES.glob("nvidia*")):
        raise UserError(
            f"the GPUs of this machine can't be told: {problem}; CUDA_VISIBLE_DEVICES=0,1 in the environment names them, "
            "trainer.accelerator=cpu does without"
        )
    return []


def serve(connection: Connection, environment: dict[str, str], command: list[str]) -> None:
    """Do what comes through the connection, until it is closed or the parent is gone.

    Args:
        connection: Gives a function, its arguments, and the path of a log or None; takes what the function returns, and whether
            that has changed what the next one would find.
        environment: Threads and devices.
        command: By which the sweep was started, for what a run writes down of where it comes from.
    """
    sys.orig_argv = command
    with importing():
        import torch

        from leyden import assembly
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it has read the environment before
    die_with_parent()  # the sweep, started again, would find the job's directory in use
    setup_globals()
    assembly.silence_lightning()
    while True:
        try:
            function, arguments, log = connection.recv()
        except EOFError:
            return
        if log:
            with log.open("a", encoding="utf-8") as file:
                os.dup2(file.fileno(), 1)
                os.dup2(file.fileno(), 2)
        shared = _shared_by(arguments)
        result = function(*arguments)
        connection.send((result, shared is not None and any(shared.changes())))
        sys.stdout.flush()
        gc.collect()


def _shared_by(arguments: Sequence[Any]) -> "ObjectState | None":
    """See what the classes that a configuration names share with those of the next one: their variables, and those of their files.

    They are imported for that. What changes in a job makes this process another one than that of a single run.
    """
    from leyden.data.object_state import shared_state

    names: set[str] = set()
    for config in arguments:
        if isinstance(config, DictConfig):
            flat = flatten(
                OmegaConf.to_container(OmegaConf.masked_copy(config, [*map(str, {*config} - {"hydra"})]))
            )
            names |= {str(value) for key, value in flat if key.rpartition(".")[2] == "_target_"}
    for name in names:
        with contextlib.suppress(Exception):  # the job will show what is wrong with it
            get_object(name)
    return shared_state({name.partition(".")[0] for name in names}) if names else None


def execute_job(module: str, config: DictConfig) -> None:
    """Run a job in this process; what it raises is raised.

    Args:
        module: Name of the module whose `main.task` a job is.
        config: Of the job, Hydra's part included.
    """
    _check_gpu(config)
    context: Any = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
    _ = run_job(
        task_function=importlib.import_module(module).main.task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    ).return_value  # raises, if the job has raised


def try_job(module: str, config: DictConfig) -> str:
    """Run a job; the error that it ends with, empty for none."""
    try:
        execute_job(module, config)
    except BaseException as error:  # whatever a job does, the next one is to run
        traceback.print_exc()
        return failure_text(error)
    return ""


def _check_gpu(config: DictConfig) -> None:
    """Make sure that GPUs which this process was given can be used: `auto` would be the processor, and nobody would know.

    Raises:
        UserError: It can't.
    """
    import torch

    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if named(devices) and config.trainer.accelerator in USES_CUDA and not torch.cuda.is_available():
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={devices}: PyTorch {torch.__version__} can't use it; trainer.accelerator=cpu does without"
        )


def run_as_command(module: str, config: DictConfig) -> str:
    """The same of a job that has several processes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job"
        path.write_bytes(pickle.dumps((module, config)))
        # Killed like this process is, it ends the others.
        code = subprocess.run(
            [sys.executable, "-m", "leyden.sweep.command", str(path)], preexec_fn=end_with_parent
        ).returncode
        if not code:
            return ""
        error = path.with_name("error")
        return error.read_text(encoding="utf-8") if error.exists() else f"Killed: its process ended with {code}"


def draw_pictures(config: DictConfig) -> str:
    """Draw the pictures of a run that has ended without them; what is in the way, empty for nothing.

    Args:
        config: Of the run.
    """
    with importing():
        from leyden.training import redraw
    try:
        with lock.acquire(Path(config.run_dir), timeout_s=0):
            redraw.draw_late_pictures(config)
    except Exception as error:
        return failure_text(error)
    return ""


def dry_build_jobs(configs: Sequence[tuple[str, DictConfig]]) -> None:
    """Find what is wrong with any of several configurations, short of training.

    Args:
        configs: Each with its name.

    Raises:
        UserError: Names the configuration and the mistake.
    """
    with importing():
        from leyden import assembly
    assembly.silence_lightning()
    facts: dict[str, Any] = {}
    for name, config in configs:
        try:
            assembly.dry_build(config, facts)
        except UserError as error:
            raise UserError(f"{name}: {error}") from error


def dry_build_failure(configs: Sequence[tuple[str, DictConfig]]) -> BaseException | None:
    """The same for another process: what is to be raised there.

    Of a bug the traceback is printed here; it can't be sent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other one is interrupted, and ends this one
    try:
        dry_build_jobs(configs)
    except UserError as error:
        return error
    except Exception as error:
        if is_mistake(error):
            return UserError(" ".join(str(error).split()) or type(error).__name__)
        print(printable("".join(traceback.format_exception(cause_of(error)))), file=sys.stderr, end="", flush=True)
        return SystemExit(1)
    return None

"""The versions, threads and accelerator for reproducing a run."""

import platform
import re
from typing import Any

import leyden
from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.run.directory import RunContents
from leyden.run.process import importing, num_cores
from leyden.run.provenance import VERSIONS, installed_versions, machine

_VERSION = r"[0-9][0-9A-Za-z.+!]{0,63}"
MAX_THREADS = 1024  # per process; larger recorded numbers are ignored


def accelerator(run: RunContents) -> str:
    """Return the value of `trainer.accelerator` for reproducing a run.

    Raises:
        UserError: This machine lacks the run's GPUs, or the run used several nodes.
    """
    trainer, there = _recorded_trainer(run), _recorded_machine(run)
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run on several machines can't be reproduced on one"
        )
    asked = str(trainer.get("accelerator", "auto"))
    gpus_there = there.get("gpus") or (["a GPU"] if asked in ("gpu", "cuda") else [])
    if asked not in ("auto", "gpu", "cuda"):
        return asked
    with importing():
        gpus_here = machine()["gpus"]
    if gpus_there and not gpus_here:
        raise UserError(f"the run was trained by {gpus_there[0]}, and there is no GPU here that PyTorch can use")
    if there and gpus_there and trainer.get("devices") in ("auto", -1) and len(gpus_there) != len(gpus_here):
        raise UserError(
            f"the run was trained by all {len(gpus_there)} GPUs of its machine, this one has {len(gpus_here)}"
        )
    # `auto` chose the CPU for the original run, and would choose a GPU here.
    return "cpu" if gpus_here and there and not gpus_there else asked


def recorded_threads(run: RunContents) -> int | None:
    """Return the number of threads of each of the run's processes, or None if unknown.

    The number can change results, since sums are split among threads.
    """
    there, devices = _recorded_machine(run), _recorded_trainer(run).get("devices", 1)
    number, cores = there.get("threads"), there.get("cores")
    if type(number) is not int or type(cores) is not int or not 1 <= number <= MAX_THREADS:
        warn("the run did not record its number of threads, which can change bits; threads=N sets one")
        return None
    if type(devices) is int and devices > 1 and not there.get("threads_are_set"):
        number = max(1, cores // devices)  # as Lightning sets it
    if number > num_cores():
        warn(f"the run had {number} threads, and this machine has {num_cores()} cores: it will take longer")
    return number


def _recorded_machine(run: RunContents) -> dict[str, Any]:
    """Return the machine recorded by the last start that recorded one; empty if none did."""
    machines = [each for start in run.starts if isinstance(each := start.get("machine"), dict)]
    return machines[-1] if machines else {}


def _recorded_trainer(run: RunContents) -> dict[str, Any]:
    """Return the `trainer` node of the recorded configuration; empty if it is damaged."""
    return part if isinstance(part := run.recorded.get("trainer"), dict) else {}


def warn_of_other_versions(run: RunContents) -> None:
    """Warn about versions that differ from the run's, with the run's as pip's requirements."""
    there, here = {**recorded_versions(run)}, {**installed_versions(), "leyden": leyden.__version__}
    if recorded := recorded_library(run):
        there["leyden"] = recorded
    # Local version labels (after a plus) name a build for a kind of machine, which the package index may not have.
    needed = [
        f"{name}=={version.partition('+')[0]}" for name, version in there.items() if here.get(name) != version
    ]
    if (python := str(run.starts[-1].get("python"))) != platform.python_version():
        needed.insert(0, f"python=={python}")
    if needed:
        warn(f"other versions are installed here than the run had: {' '.join(needed)}")


def recorded_versions(run: RunContents) -> dict[str, str]:
    """Return the recorded versions of the packages in `VERSIONS`.

    Other packages are ignored, since the run directory is untrusted.

    Raises:
        UserError: A value is not a version number.
    """
    recorded: Any = run.starts[-1].get("versions")
    found = {name: recorded[name] for name in VERSIONS if name in recorded} if isinstance(recorded, dict) else {}
    for name, version in found.items():
        if not isinstance(version, str) or not re.fullmatch(_VERSION, version):
            raise UserError(f"{run.directory}/run.json: {name} {version}: is not a version")
    return found


def recorded_library(run: RunContents) -> str | None:
    """Return the recorded version of this library; None if it is missing or damaged."""
    recorded = run.starts[-1].get("library")
    version = recorded.get("version") if isinstance(recorded, dict) else None
    return version if isinstance(version, str) and re.fullmatch(_VERSION, version) else None

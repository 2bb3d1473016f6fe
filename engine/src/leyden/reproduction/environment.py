"""The Python environment, threads and accelerator for reproducing a run."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import leyden
from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import warn
from leyden.run import lease
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


ENVIRONMENTS = ROOT / "outputs" / "reproduced" / ".envs"


def current_python(run: RunContents) -> Path:
    """Return the path of the current Python; warn about versions that differ from the run's."""
    here = {"python": platform.python_version(), **installed_versions()}
    there = {"python": run.starts[-1].get("python"), **recorded_versions(run)}
    if recorded := recorded_library(run):
        here, there = {**here, "leyden": leyden.__version__}, {**there, "leyden": recorded}
    differing = [
        f"{name} {there[name]} there, {here[name]} here" for name in there if there[name] != here.get(name)
    ]
    if differing:
        warn(f"{'; '.join(differing)}; env=true installs the versions of the run")
    return Path(sys.executable)


def recorded_python(run: RunContents, tree: Path) -> Path:
    """Return the path of a Python with the run's package versions, in an environment that is created if missing.

    Args:
        run: The run to reproduce.
        tree: Folder with the project at the run's commit; the dependencies that it declares are installed.

    Raises:
        UserError: The run had another Python version, or pip can't install the packages.
    """
    recorded, here = str(run.starts[-1].get("python")), platform.python_version()
    if recorded.split(".")[:2] != here.split(".")[:2]:
        raise UserError(f"env=true: the run had Python {recorded}, this is {here}; use {recorded}")
    versions = recorded_versions(run)
    distributions = [folder for folder in (tree / "engine", tree) if (folder / "pyproject.toml").exists()]
    if tree / "engine" not in distributions and (version := recorded_library(run)):
        versions = {**versions, "leyden": version}
    path = tree / "constraints.txt"
    constraints = _constraints(path.read_text(encoding="utf-8") if path.exists() else "", versions)
    contents = [(each / "pyproject.toml").read_text(encoding="utf-8") for each in distributions]
    content = "\0".join([here, constraints, *contents])
    folder = ENVIRONMENTS / hashlib.sha256(content.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, marker = folder / ("Scripts" if os.name == "nt" else "bin") / "python", folder / "whole"
    with lease.hold(folder.with_suffix(".lock")):
        if not marker.exists():  # missing or incomplete, if pip was interrupted
            print(f"installing the package versions of the run to {folder}", flush=True)
            _call(sys.executable, "-m", "venv", "--clear", str(folder))
            path = folder / "constraints.txt"
            path.write_text(constraints, encoding="utf-8")
            # Only the dependencies are needed. They are installed from a copy of each distribution without its
            # code, since a build would leave files in the work tree.
            for distribution in distributions:
                shutil.copytree(distribution, folder / distribution.name, ignore=_ignore_folders)
                (folder / distribution.name / "src").mkdir()
            if (folder / "engine").exists():  # the build reads leyden's version from `__init__.py`
                (package := folder / "engine" / "src" / "leyden").mkdir()
                shutil.copy(tree / "engine" / "src" / "leyden" / "__init__.py", package)
            bare = [str(folder / distribution.name) for distribution in distributions]
            _call(str(python), "-m", "pip", "install", "--quiet", "--constraint", str(path), *bare)
            marker.touch()
    return python


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
            raise UserError(f"{run.directory}/provenance.json: {name} {version}: is not a version")
    return found


def recorded_library(run: RunContents) -> str | None:
    """Return the recorded version of this library; None if it is missing or damaged."""
    recorded = run.starts[-1].get("library")
    version = recorded.get("version") if isinstance(recorded, dict) else None
    return version if isinstance(version, str) and re.fullmatch(_VERSION, version) else None


def _constraints(text: str, versions: Mapping[str, str]) -> str:
    """Return the project's pip constraints, with a run's versions in place of the project's.

    Local version labels (after a plus) are dropped: they name a build for a kind of machine, which the package
    index may not have.
    """
    lines = [line for line in text.splitlines() if re.split("[=;<> ]", line)[0].lower() not in versions]
    return "\n".join([*lines, *(f"{name}=={version.partition('+')[0]}" for name, version in versions.items()), ""])


def _ignore_folders(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_dir()]


def _call(*command: str) -> None:
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise UserError("env=true: the package versions of the run can't be installed; see pip's output above")

"""The Python, threads, processes and GPUs that a run is reproduced with."""

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

import filelock

from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import warn
from leyden.run.directory import RunContents
from leyden.run.process import importing, num_cores
from leyden.run.provenance import VERSIONS, installed_versions, machine

MOST = 1024  # threads of a process that are believed


def accelerator(run: RunContents) -> str:
    """What the run is to be computed by, for `trainer.accelerator`.

    Raises:
        UserError: This machine does not have it.
    """
    trainer, there = _trainer(run), _machine(run)
    if trainer.get("num_nodes", 1) != 1:
        raise UserError(
            f"trainer.num_nodes={trainer['num_nodes']}: a run on several machines is not made anew by one"
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
    # `auto` there was the processor, and would be a GPU here.
    return "cpu" if gpus_here and there and not gpus_there else asked


def threads(run: RunContents) -> int | None:
    """How many threads each of the run's processes had, None if that is not known.

    The number can change bits: sums are split among threads.
    """
    there, devices = _machine(run), _trainer(run).get("devices", 1)
    number, cores = there.get("threads"), there.get("cores")
    if type(number) is not int or type(cores) is not int or not 1 <= number <= MOST:
        warn("the run has not written down its number of threads, on which bits can depend; threads=N sets one")
        return None
    if type(devices) is int and devices > 1 and not there.get("threads_are_set"):
        number = max(1, cores // devices)  # as Lightning does
    if number > num_cores():
        warn(f"the run had {number} threads, and this machine has {num_cores()} cores: it takes longer")
    return number


def _machine(run: RunContents) -> dict[str, Any]:
    """As the last start that trained has told of it."""
    told = [each for start in run.starts if isinstance(each := start.get("machine"), dict)]
    return told[-1] if told else {}


def _trainer(run: RunContents) -> dict[str, Any]:
    return part if isinstance(part := run.recorded.get("trainer"), dict) else {}


ENVIRONMENTS = ROOT / "outputs" / "reproduced" / ".envs"


def python_here(run: RunContents) -> Path:
    """The Python that runs this; what differs from the run's is told in a line."""
    here = {"python": platform.python_version(), **installed_versions()}
    there = {"python": run.starts[-1].get("python"), **recorded_versions(run)}
    differing = [
        f"{name} {there[name]} there, {here[name]} here" for name in there if there[name] != here.get(name)
    ]
    if differing:
        warn(f"{'; '.join(differing)}; env=true installs what the run had")
    return Path(sys.executable)


def python_as_there(run: RunContents, tree: Path) -> Path:
    """The Python of an environment with the versions of the run, which is made where it is not there yet.

    Args:
        run: That is to be made anew.
        tree: The project with the run's code: it names what is installed.

    Raises:
        UserError: The run had another Python, or pip does not find the versions.
    """
    recorded, here = str(run.starts[-1].get("python")), platform.python_version()
    if recorded.split(".")[:2] != here.split(".")[:2]:
        raise UserError(f"env=true: the run had Python {recorded}, this is {here}; start this with that one")
    constraints = _constraints((tree / "constraints.txt").read_text(encoding="utf-8"), recorded_versions(run))
    content = "\0".join([here, constraints, (tree / "pyproject.toml").read_text(encoding="utf-8")])
    folder = ENVIRONMENTS / hashlib.sha256(content.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    python, whole = folder / ("Scripts" if os.name == "nt" else "bin") / "python", folder / "whole"
    with filelock.FileLock(folder.with_suffix(".lock")):
        if not whole.exists():  # or pip was interrupted
            print(f"installing what the run had, to {folder}", flush=True)
            _call(sys.executable, "-m", "venv", "--clear", str(folder))
            path = folder / "constraints.txt"
            path.write_text(constraints, encoding="utf-8")
            # What the project needs, and nothing of itself: in the work tree a build would leave files behind.
            shutil.copytree(tree, bare := folder / "bare", ignore=_folders)
            (bare / "src").mkdir()
            _call(str(python), "-m", "pip", "install", "--quiet", "--constraint", str(path), str(bare))
            whole.touch()
    return python


def recorded_versions(run: RunContents) -> dict[str, str]:
    """Versions of the packages that a run writes down, and of no others: whoever made the directory could name any.

    Raises:
        UserError: One is none.
    """
    told: Any = run.starts[-1].get("versions")
    found = {name: told[name] for name in VERSIONS if name in told} if isinstance(told, dict) else {}
    for name, version in found.items():
        if not isinstance(version, str) or not re.fullmatch(r"[0-9][0-9A-Za-z.+!]{0,63}", version):
            raise UserError(f"{run.directory}/provenance.json: {name} {version}: is no version")
    return found


def _constraints(text: str, versions: Mapping[str, str]) -> str:
    """Those of the project, with the versions of a run in place of its own.

    What stands behind a plus is left out: it names a build for a kind of machine, and an index may have another one.
    """
    lines = [line for line in text.splitlines() if re.split("[=;<> ]", line)[0].lower() not in versions]
    return "\n".join([*lines, *(f"{name}=={version.partition('+')[0]}" for name, version in versions.items()), ""])


def _folders(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_dir()]


def _call(*command: str) -> None:
    if subprocess.run(command, stdout=sys.stderr).returncode:
        raise UserError("env=true: what the run had can't be installed; what pip says stands above")

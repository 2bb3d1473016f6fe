"""Provenance of a run: code, package versions, command, machine."""

import contextlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import leyden
from leyden.config.paths import LIBRARY, ROOT
from leyden.run.process import num_cores


def git(
    at: Path, *arguments: str, environment: dict[str, str] | None = None, stdin: str | None = None
) -> str | None:
    """Run git and return its output, or None if it fails; line ends and bytes that are not UTF-8 are preserved.

    Args:
        at: Working directory.
        arguments: Command-line arguments.
        environment: Environment variables; None for those of this process.
        stdin: Text for git's standard input.
    """
    environment = {**(environment or os.environ), "GIT_OPTIONAL_LOCKS": "0"}  # reading commands write nothing
    try:
        completed = subprocess.run(
            ["git", "-C", str(at), *arguments],
            capture_output=True,
            env=environment,
            input=None if stdin is None else stdin.encode(errors="surrogateescape"),
        )
    except (OSError, ValueError):
        return None
    return completed.stdout.decode(errors="surrogateescape") if completed.returncode == 0 else None


GIT_OF_COPY = "git.json"  # the commit and the diff, in the copy of the code that a cluster's jobs run
MAX_FILE_BYTES, MAX_DIFF_BYTES = 2**20, 2**24
# Options for a diff that `git apply` accepts, whatever the user has configured.
DIFF_OPTIONS = (
    "--binary",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
    "--ignore-submodules=all",
)
VERSIONS = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")


def origin(
    overrides: list[str],
    *,
    parent: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
    step: int | None = None,
    code: dict[str, str] | None = None,
    job: str | None = None,
) -> dict[str, Any]:
    """Return the provenance of a start, as recorded in `run.json`.

    Args:
        overrides: Overrides on the command line.
        parent: Checkpoint of another run that this start took weights from: `checkpoint` and its `sha256`.
        machine: Result of `machine()`; None if the start does not train.
        data: SHA-256 of the training data, by name; None if the start does not train.
        step: Number of optimizer steps in the checkpoint that it resumes from, 0 without one; None if it does not train.
        code: SHA-256 of the files that define the run's classes, by name.
        job: Id of the cluster's job that this process belongs to; None outside of a job.
    """
    return {
        "time": now(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "directory": str(Path.cwd()),
        "overrides": overrides,
        "parent": parent,
        "host": platform.node(),
        "machine": machine,
        "data": data,
        "pid": os.getpid(),
        "job": job,
        "step": step,
        "code": code,
        "git": state_of_code(),
        "library": state_of_library(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def installed_versions() -> dict[str, str]:
    """Return the versions of the packages that are most likely to change results."""
    return {name: importlib.metadata.version(name) for name in VERSIONS}


def state_of_code(folder: Path | None = None) -> dict[str, Any]:
    """Return the commit and the uncommitted changes of the code, as a diff for `git apply`; None without git.

    Untracked files that git does not ignore are included. Those larger than `MAX_FILE_BYTES` are listed in
    `left_out` instead, and a diff larger than `MAX_DIFF_BYTES` is left out as a whole. If there are git repositories
    within this one, submodules or not, `repositories` has the state of each, by path; ignored ones are left out.

    Args:
        folder: A folder in the repository; None for the project's.
    """
    folder = folder or ROOT
    copied = folder / GIT_OF_COPY
    if copied.exists():
        return dict(json.loads(copied.read_text(encoding="utf-8")))
    sha, status = git(folder, "rev-parse", "HEAD"), git(folder, "status", "--porcelain", "--untracked-files=normal")
    if sha is None or status is None:
        return {"sha": None, "dirty": None, "diff": None, "left_out": []}
    diff, left_out = _diff(folder) if status else ("", [])
    inner = {path: state_of_code(top / path) for top, path in _repositories_in(folder)}
    left_out += [f"{path}/" for path, state in inner.items() if state["sha"] is None]  # nothing is committed there
    dirty = diff != "" or bool(left_out) or any(state["dirty"] for state in inner.values())
    found = {"sha": sha.strip(), "dirty": dirty, "diff": diff, "left_out": left_out}
    return {**found, "repositories": inner} if inner else found


def _repositories_in(folder: Path) -> list[tuple[Path, str]]:
    """Return the repositories within a folder's repository, each as the outer one's top folder and a path below it."""
    top = Path((git(folder, "rev-parse", "--show-toplevel") or "").removesuffix("\n"))
    staged = (git(top, "ls-files", "--stage", "-z") or "").split("\0")
    paths = [each.partition("\t")[2] for each in staged if each.startswith("160000 ")]  # the mode of a submodule
    others = (git(top, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    paths += [each.removesuffix("/") for each in others if each.endswith("/")]
    return [(top, path) for path in paths if (top / path / ".git").exists()]


def _diff(folder: Path) -> tuple[str | None, list[str]]:
    """Return the diff of the uncommitted changes, None if it is too large, and the names of files left out."""
    listed = (git(folder, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    new = [name for name in listed if name and (folder / name).is_file()]
    sizes = {name: (folder / name).stat().st_size for name in new}
    small = [name for name in new if sizes[name] <= MAX_FILE_BYTES]
    if sum(sizes[name] for name in small) > MAX_DIFF_BYTES:
        return None, ["all changes"]
    index = git(folder, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory() as temporary:
        # New files are added to a copy of the index, so that the user's index stays unchanged.
        environment = {**os.environ, "GIT_INDEX_FILE": f"{temporary}/index"}
        if index and Path(index.strip()).exists():
            # This keeps the modification time, by which git detects changed files.
            shutil.copy2(index.strip(), f"{temporary}/index")
        from_stdin = "--pathspec-from-file=-", "--pathspec-file-nul"  # there may be too many for a command line
        if (
            small
            and git(folder, "add", "--intent-to-add", *from_stdin, environment=environment, stdin="\0".join(small))
            is None
        ):
            return None, ["all changes"]
        diff = git(folder, "diff", *DIFF_OPTIONS, "HEAD", environment=environment)
    left_out = sorted(set(new) - set(small))
    return (None, ["all changes"]) if diff is None or len(diff) > MAX_DIFF_BYTES else (diff, left_out)


def state_of_library() -> dict[str, Any]:
    """Return the library's version and, if it lies in a git repository that is not the project's, its state there.

    The state is as returned by `state_of_code`; None otherwise.
    """
    is_tracked = git(LIBRARY, "ls-files", "--", "__init__.py")  # not if it is installed in an environment's folder
    top, top_of_project = (git(folder, "rev-parse", "--show-toplevel") for folder in (LIBRARY, ROOT))
    is_elsewhere = is_tracked and top != top_of_project and not (ROOT / GIT_OF_COPY).exists()
    return {"version": leyden.__version__, "git": state_of_code(LIBRARY) if is_elsewhere else None}


def now() -> str:
    """Return the local time with its time zone, in ISO 8601."""
    return datetime.now().astimezone().isoformat()


def machine() -> dict[str, Any]:
    """Return the system, the processor, the CPU instruction set that PyTorch uses, the threads and the GPUs.

    `threads` is PyTorch's number of threads in this process. Unless `OMP_NUM_THREADS` is set (`threads_are_set`),
    Lightning divides the `cores` among several processes.
    """
    import torch

    cuda = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "system": platform.platform(),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": num_cores(),
        "threads": torch.get_num_threads(),
        "threads_are_set": "OMP_NUM_THREADS" in os.environ,
        "gpus": [torch.cuda.get_device_name(number) for number in cuda],
    }


def _cpu() -> str:
    """Return the name of the processor, which Python alone knows only on some systems."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

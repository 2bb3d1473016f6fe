"""Provenance of a run: code, versions, command, machine."""

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

from leyden.config.paths import ROOT
from leyden.run.process import num_cores
from leyden.scheduler import job_id


def git(
    at: Path, *arguments: str, environment: dict[str, str] | None = None, given: str | None = None
) -> str | None:
    """What git prints, None if it fails; bytes that are no UTF-8 and ends of lines survive the way there and back.

    Args:
        at: The folder that it works in.
        arguments: What is asked.
        environment: Of the process; None for that of this one.
        given: What it reads.
    """
    environment = {**(environment or os.environ), "GIT_OPTIONAL_LOCKS": "0"}  # what only looks writes nothing
    try:
        ended = subprocess.run(
            ["git", "-C", str(at), *arguments],
            capture_output=True,
            env=environment,
            input=None if given is None else given.encode(errors="surrogateescape"),
        )
    except (OSError, ValueError):
        return None
    return ended.stdout.decode(errors="surrogateescape") if ended.returncode == 0 else None


GIT_OF_COPY = "git.json"  # in a copy of the code, for the jobs of a cluster
MAX_FILE_BYTES, MAX_DIFF_BYTES = 2**20, 2**24
# As `git apply` takes it, whatever the user has configured.
FORM = (
    "--binary",
    "--no-ext-diff",
    "--no-textconv",
    "--no-color",
    "--no-relative",
    "--src-prefix=a/",
    "--dst-prefix=b/",
)
VERSIONS = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")


def origin(
    overrides: list[str],
    parent: dict[str, Any] | None = None,
    machine: dict[str, Any] | None = None,
    data: dict[str, str] | None = None,
) -> dict[str, Any]:
    """All that tells how this process was started.

    Args:
        overrides: What the user has typed.
        parent: The checkpoint of another run that this start has taken weights from: `checkpoint` and its `sha256`.
        machine: As `leyden.run.provenance` tells it; None for a start that trains nothing.
        data: What identifies the data that are trained on, a SHA-256 by name; None for a start that trains nothing.
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
        "job": job_id(),
        "git": state_of_code(),
        "python": platform.python_version(),
        "versions": installed_versions(),
    }


def installed_versions() -> dict[str, str]:
    """Of the packages on which bits can depend most."""
    return {name: importlib.metadata.version(name) for name in VERSIONS}


def state_of_code() -> dict[str, Any]:
    """Commit and changes of the code, as `git apply` takes them; None where there is no git.

    New files that git does not ignore are changes, too; those of more than `MAX_FILE_BYTES` are named in `left_out`,
    and of a diff of more than `MAX_DIFF_BYTES` nothing is kept.
    """
    copied = ROOT / GIT_OF_COPY
    if copied.exists():
        return dict(json.loads(copied.read_text(encoding="utf-8")))
    sha, status = git(ROOT, "rev-parse", "HEAD"), git(ROOT, "status", "--porcelain", "--untracked-files=normal")
    if sha is None or status is None:
        return {"sha": None, "dirty": None, "diff": None, "left_out": []}
    diff, left_out = _diff() if status else ("", [])
    return {"sha": sha.strip(), "dirty": bool(status), "diff": diff, "left_out": left_out}


def _diff() -> tuple[str | None, list[str]]:
    listed = (git(ROOT, "ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    new = [name for name in listed if name and (ROOT / name).is_file()]
    sizes = {name: (ROOT / name).stat().st_size for name in new}
    small = [name for name in new if sizes[name] <= MAX_FILE_BYTES]
    if sum(sizes[name] for name in small) > MAX_DIFF_BYTES:
        return None, ["all changes"]
    index = git(ROOT, "rev-parse", "--path-format=absolute", "--git-path", "index")
    with tempfile.TemporaryDirectory() as folder:
        # In a copy of the index, new files can be announced without a change of the user's own.
        environment = {**os.environ, "GIT_INDEX_FILE": f"{folder}/index"}
        if index and Path(index.strip()).exists():
            shutil.copy2(
                index.strip(), f"{folder}/index"
            )  # with its time, by which git knows what to look at again
        listed_here = "--pathspec-from-file=-", "--pathspec-file-nul"  # they can be too many for a command line
        if (
            small
            and git(ROOT, "add", "--intent-to-add", *listed_here, environment=environment, given="\0".join(small))
            is None
        ):
            return None, ["all changes"]
        diff = git(ROOT, "diff", *FORM, "HEAD", environment=environment)
    left_out = sorted(set(new) - set(small))
    return (None, ["all changes"]) if diff is None or len(diff) > MAX_DIFF_BYTES else (diff, left_out)


def now() -> str:
    """Time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat()


def machine() -> dict[str, Any]:
    """System, processor, its instructions that PyTorch uses, threads, GPUs.

    `threads` are those of PyTorch in this process. Where `OMP_NUM_THREADS` did not set them (`threads_are_set`), Lightning gives each
    of several processes its part of the `cores`.
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
    """The name of the processor; Python knows it on some systems only."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

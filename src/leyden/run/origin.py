"""Where a run comes from: code, versions, machine, command."""

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
from leyden.run.process import job_id

GIT_OF_COPY = "git.json"  # in a copy of the code, for the jobs of a cluster
MAX_FILE_BYTES, MAX_DIFF_BYTES = 2**20, 2**24
VERSIONS = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")


def origin(overrides: list[str], parent: dict[str, Any] | None = None) -> dict[str, Any]:
    """All that tells how this process was started.

    Args:
        overrides: What the user has typed.
        parent: The checkpoint of another run that this start has taken weights from: `checkpoint` and its `sha256`.
    """
    return {
        "time": now(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "directory": str(Path.cwd()),
        "overrides": overrides,
        "parent": parent,
        "host": platform.node(),
        "pid": os.getpid(),
        "slurm_job": job_id(),
        "git": git(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def git() -> dict[str, Any]:
    """Commit and changes of the code, as `git apply` takes them; None where there is no git.

    New files that git does not ignore are changes, too; those of more than `MAX_FILE_BYTES` are named in `left_out`,
    and of a diff of more than `MAX_DIFF_BYTES` nothing is kept.
    """
    copied = ROOT / GIT_OF_COPY
    if copied.exists():
        return dict(json.loads(copied.read_text()))
    sha, status = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    if sha is None or status is None:
        return {"sha": None, "dirty": None, "diff": None, "left_out": []}
    diff, left_out = _diff() if status else ("", [])
    return {"sha": sha.strip(), "dirty": bool(status), "diff": diff, "left_out": left_out}


def _diff() -> tuple[str | None, list[str]]:
    listed = (_git("ls-files", "--others", "--exclude-standard", "-z") or "").split("\0")
    new = [name for name in listed if name and (ROOT / name).is_file()]
    sizes = {name: (ROOT / name).stat().st_size for name in new}
    small = [name for name in new if sizes[name] <= MAX_FILE_BYTES]
    if sum(sizes[name] for name in small) > MAX_DIFF_BYTES:
        return None, ["all changes"]
    index = _git("rev-parse", "--path-format=absolute", "--git-path", "index")
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
            and _git("add", "--intent-to-add", *listed_here, environment=environment, given="\0".join(small))
            is None
        ):
            return None, ["all changes"]
        diff = _git("diff", "--binary", "HEAD", environment=environment)
    left_out = sorted(set(new) - set(small))
    return (None, ["all changes"]) if diff is None or len(diff) > MAX_DIFF_BYTES else (diff, left_out)


def _git(*arguments: str, environment: dict[str, str] | None = None, given: str | None = None) -> str | None:
    """What git prints, None if it fails; bytes that are no UTF-8 survive the way there and back."""
    command = ["git", "-C", str(ROOT), *arguments]
    environment = {**(environment or os.environ), "GIT_OPTIONAL_LOCKS": "0"}  # it only looks
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="surrogateescape", env=environment, input=given
        )
    except (OSError, ValueError):
        return None
    return ended.stdout if ended.returncode == 0 else None


def now() -> str:
    """Time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat()

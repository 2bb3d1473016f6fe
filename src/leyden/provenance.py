"""Where a run comes from: code, versions, machine, command."""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from leyden.cluster.slurm import job_id
from leyden.config import ROOT

GIT_OF_COPY = "git.json"  # in a copy of the code, for the jobs of a cluster
VERSIONS = ("torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "tensorboard", "numpy")


def provenance(overrides: list[str]) -> dict[str, Any]:
    """All that tells how this process was started; `overrides` is what the user has typed."""
    return {
        "time": now(),
        "command": [sys.executable, *sys.orig_argv[1:]],
        "directory": str(Path.cwd()),
        "overrides": overrides,
        "host": platform.node(),
        "pid": os.getpid(),
        "slurm_job": job_id(),
        "git": git(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


def git() -> dict[str, Any]:
    """Commit and changes of the code; None where there is no git."""
    copied = ROOT / GIT_OF_COPY
    if copied.exists():
        return dict(json.loads(copied.read_text()))
    sha, diff, status = _git("rev-parse", "HEAD"), _git("diff", "HEAD"), _git("status", "--porcelain")
    return {"sha": sha and sha.strip(), "dirty": None if status is None else bool(status), "diff": diff}


def _git(*arguments: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, errors="replace"
        )
    except OSError:
        return None
    return ended.stdout if ended.returncode == 0 else None


def now() -> str:
    """Time with its zone, ISO 8601."""
    return datetime.now().astimezone().isoformat()

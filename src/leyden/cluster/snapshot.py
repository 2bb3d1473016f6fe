"""A copy of the code for jobs that wait in a queue: later changes of the code don't change them."""

import json
import shutil
from datetime import datetime
from pathlib import Path

from leyden.config.paths import ROOT
from leyden.run.origin import GIT_OF_COPY, state_of_code


def snapshot(directory: Path) -> Path:
    """Copy `src/` and `conf/` to a new folder below `directory`, with what git says about them now."""
    copy = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (copy / GIT_OF_COPY).write_text(json.dumps(state_of_code(), indent=2) + "\n", encoding="utf-8")
    return copy

"""Whose mistake an error is: one of the configuration is told in a line, one of somebody's code by its traceback."""

import errno
import linecache
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from hydra.errors import HydraException

from leyden.config.paths import ROOT, SRC

# Folders of the engine whose errors are no researcher's; what is in its others, or elsewhere, can be theirs: a task, a
# callback, a loader meet what a network gives, and what data hold.
_AT_WORK = (
    "config",
    "run",
    "assembly",
    "report",
    "images",
    "loggers",
    "sweep",
    "cluster",
    "training",
    "reproduction",
    "callbacks/checkpoint",
    "callbacks/preemption",
    "data/fetch",
    "data/checksums",
)
_ENGINE = (
    *(str(SRC / "leyden" / name) for name in _AT_WORK),
    *map(str, (SRC / "leyden").glob("*.py")),
    str(SRC / "hydra_plugins"),
)
_LIBRARIES = ("<", *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")))


class UserError(Exception):
    """A mistake of the user: its one or two lines are all that is printed, without a traceback."""


# Full, read-only, or failing: no code is to blame.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# What is raised for a value that is wrong, a file that is missing, or numbers that are none any more.
_MEANT = (ValueError, OSError, FloatingPointError, UserError)


def cause_of(error: BaseException) -> BaseException:
    """What Hydra's errors were raised from: the error itself in other cases."""
    while isinstance(error, HydraException) and error.__cause__:
        error = error.__cause__
    # An import that failed: Hydra says so by another error, raised from that of the module.
    if isinstance(error, ImportError) and "Error loading" in str(error) and error.__cause__:
        inner = error.__cause__
        own = (frame for frame in _frames(inner.__traceback__) if not _is_library(frame.path))
        if isinstance(inner, SyntaxError) or any(own):
            return inner
    return error


def is_mistake(error: BaseException, *, runs: bool = False) -> bool:
    """Whether a line tells all, as of a wrong value, and no traceback is needed.

    It does where somebody has raised `ValueError` or the like on purpose while something was made, and where only
    libraries were at work on what the configuration gave them. An error of any other kind out of code that is no
    library's is a bug in it.

    Args:
        error: What was raised.
        runs: Whether that was in training or evaluating: what a researcher's code raises there is a bug.
    """
    if isinstance(error, UserError | FloatingPointError):
        return True
    cause = cause_of(error)
    if isinstance(cause, SyntaxError):
        return False
    if isinstance(cause, MemoryError) or re.search("not enough memory|out of memory|t allocate memory", str(cause)):
        return True
    if isinstance(cause, OSError) and cause.errno in _OF_THE_DISK:
        return True
    frames = list(_frames(cause.__traceback__))
    ours = [frame for frame in frames if not _is_library(frame.path)]
    is_engine = not ours or ours[-1].path.startswith(_ENGINE)
    if not frames or (isinstance(cause, OSError) and is_engine):
        return True  # of a file that the engine reads or writes: the error names it
    if ours and frames[-1] is ours[-1]:
        line = linecache.getline(frames[-1].path, frames[-1].line)
        was_meant = isinstance(cause, _MEANT) and re.search(r"\braise\b", line) is not None
        return was_meant and (is_engine or not runs)
    if isinstance(cause, ValueError) and not runs and ours:
        # A class that hands its arguments on to that of a library, which does not take them.
        after = frames[frames.index(ours[-1]) :][:2]
        if [frame.function for frame in after] == ["__init__", "__init__"]:
            return True
    return all(frame.path.startswith(_ENGINE) for frame in ours)


def where(error: BaseException) -> str:
    """The last line of code that is no library's, as `models/mlp.py:12 in forward`; empty if there is none."""
    frames = [frame for frame in _frames(cause_of(error).__traceback__) if not _is_library(frame.path)]
    if not frames:
        return ""
    path = Path(frames[-1].path)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{shown}:{frames[-1].line} in {frames[-1].function}"


class Frame(NamedTuple):
    """A call on the way to an error."""

    path: str
    line: int
    function: str


def _frames(traceback: TracebackType | None) -> Iterator[Frame]:
    """The calls, from the outermost one to the innermost."""
    while traceback:
        code = traceback.tb_frame.f_code
        yield Frame(code.co_filename, traceback.tb_lineno, code.co_name)
        traceback = traceback.tb_next


def _is_library(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path or path.startswith(_LIBRARIES)

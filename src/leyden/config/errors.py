"""Errors: a mistake of the configuration is reported in a line, a bug in somebody's code by its traceback."""

import contextlib
import dis
import errno
import inspect
import itertools
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import hydra
from hydra.errors import HydraException

from leyden.config.paths import ROOT, SRC
from leyden.config.terminal import printable, warn

# Folders of the engine whose errors are no researcher's; what is in its others, or elsewhere, can be theirs: a task, a
# callback, a loader meet what a network gives, and what data hold.
_AT_WORK = (
    "config",
    "run",
    "assembly",
    "report",
    "scheduler",
    "loggers",
    "sweep",
    "cluster",
    "training",
    "reproduction",
    "callbacks/checkpoint",
    "callbacks/preemption",
    "data/fetch",
    "data/images",
    "pictures/figures",
)
_ENGINE = (
    *(str(SRC / "leyden" / name) for name in _AT_WORK),
    *map(str, (SRC / "leyden").glob("*.py")),
    str(SRC / "hydra_plugins"),
)
_HYDRA = str(Path(hydra.__file__).parent)
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
    # An import that failed: Hydra says so by an error of its own, raised from that of the module.
    raised_in = [frame.path for frame in _frames(error.__traceback__)][-1:]
    if isinstance(error, ImportError) and error.__cause__ and raised_in and raised_in[0].startswith(_HYDRA):
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
    if _is_out_of_memory(cause):
        return True
    if isinstance(cause, OSError) and cause.errno in _OF_THE_DISK:
        return True
    frames = list(_frames(cause.__traceback__))
    ours = [frame for frame in frames if not _is_library(frame.path)]
    is_engine = not ours or ours[-1].path.startswith(_ENGINE)
    if not frames or (isinstance(cause, OSError) and is_engine):
        return True  # of a file that the engine reads or writes: the error names it
    is_ours = bool(ours) and frames[-1] is ours[-1]
    if is_ours and isinstance(cause, _MEANT) and frames[-1].instruction == "RAISE_VARARGS":
        return is_engine or not runs
    if isinstance(cause, TypeError) and not runs and _are_handed_on(frames):
        return True
    if is_ours:
        return False
    if isinstance(cause, ValueError) and not runs and ours:
        # A class that hands its arguments on to that of a library, which does not take them.
        after = frames[frames.index(ours[-1]) :][:2]
        if [frame.function for frame in after] == ["__init__", "__init__"]:
            return True
    return all(frame.path.startswith(_ENGINE) for frame in ours)


def last_frame(error: BaseException) -> str:
    """The last line of code that is no library's, as `models/mlp.py:12 in forward`; empty if there is none."""
    frames = [frame for frame in _frames(cause_of(error).__traceback__) if not _is_library(frame.path)]
    if not frames:
        return ""
    path = Path(frames[-1].path)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{shown}:{frames[-1].line} in {frames[-1].function}"


class Frame(NamedTuple):
    """A call on the way to an error.

    Args:
        path: File of its code.
        line: Line that was executed.
        function: Name of what was called.
        instruction: Instruction of the bytecode that was executed; unlike the line it is known without the file.
        takes_any: Whether it takes keywords that it does not name.
    """

    path: str
    line: int
    function: str
    instruction: str
    takes_any: bool

    @property
    def hands_on(self) -> bool:
        """Whether a call of another one with these keywords was under way: there they are merged, here they are bound."""
        return self.takes_any and self.instruction in ("CALL_FUNCTION_EX", "DICT_MERGE")


def _are_handed_on(frames: Sequence[Frame]) -> bool:
    """Whether somebody's code did nothing but hand on keywords that the program has given, from class to base.

    Then a keyword that the last one does not take stands in the configuration. Where the first of them was called by
    code that is no library's and not the engine's, the keyword stands there.
    """
    calls = list(itertools.dropwhile(lambda frame: _is_library(frame.path), reversed(frames)))
    before = list(itertools.dropwhile(lambda frame: frame.hands_on, calls))
    return len(before) < len(calls) and (
        not before or _is_library(before[0].path) or before[0].path.startswith(str(SRC / "leyden"))
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether memory is full: the computer's, or that of an accelerator."""
    torch = sys.modules.get("torch")  # an error of its own does not come before it is imported
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    # These two allocators raise a RuntimeError that nothing but its words tells from others.
    said = str(error)
    return type(error) is RuntimeError and ("DefaultCPUAllocator: " in said or "MPS backend out of memory" in said)


def _frames(traceback: TracebackType | None) -> Iterator[Frame]:
    """The calls, from the outermost one to the innermost."""
    while traceback:
        code = traceback.tb_frame.f_code
        at = traceback.tb_lasti
        instruction = dis.opname[code.co_code[at]] if at >= 0 else ""
        takes_any = bool(code.co_flags & inspect.CO_VARKEYWORDS)
        yield Frame(code.co_filename, traceback.tb_lineno, code.co_name, instruction, takes_any)
        traceback = traceback.tb_next


def _is_library(path: str) -> bool:
    return "site-packages" in path or "dist-packages" in path or path.startswith(_LIBRARIES)


@contextlib.contextmanager
def log_and_continue(name: str) -> Iterator[None]:
    """Let a run go on without what `name` was to show, when that fails: a line tells of it, of a bug its traceback."""
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, OSError) or is_mistake(error)  # as a full disk, or a folder that is gone
        if not mistake:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
        why = str(error) if mistake else type(error).__name__
        warn(f"{name} failed ({why}), the run goes on without it")

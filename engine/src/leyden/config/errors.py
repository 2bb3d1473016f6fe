"""Errors of two kinds: users' mistakes, reported in one line, and bugs, reported with a traceback."""

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

from leyden.config.paths import FOUND, LIBRARY, ROOT
from leyden.config.terminal import printable, warn

# Parts of the engine whose errors a researcher's code never causes. Errors of the other parts can be a researcher's
# bugs: tasks, callbacks and data loaders process a network's outputs and a dataset's contents.
_ENGINE_PARTS = (
    "config",
    "run",
    "assembly",
    "report",
    "scheduler",
    "loggers",
    "sweep",
    "cluster",
    "training",
    "callbacks/checkpoint",
    "callbacks/preemption",
    "files/fetch",
    "data/images",
    "pictures/base",
)
_PLUGINS = tuple(map(str, (LIBRARY.parent / "hydra_plugins").glob("leyden_*.py")))
_ENGINE = (*(str(LIBRARY / name) for name in _ENGINE_PARTS), *map(str, LIBRARY.glob("*.py")), *_PLUGINS)
_LEYDEN = (str(LIBRARY), *_PLUGINS)
_HYDRA = str(Path(hydra.__file__).parent)
_LIBRARIES = ("<", *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")))


# Bytecode instructions of an error that was raised on purpose, or inside of C code.
_RAISES = ("RAISE_VARARGS", "RERAISE", "CALL", "CALL_FUNCTION_EX", "CALL_KW", "PRECALL")
_BUG_OF_A_RUN = "_leyden_bug_of_a_run"  # attribute of errors, set by `mark_as_bug`


class UserError(Exception):
    """A mistake of the user, printed in one or two lines, without a traceback."""


def require_project() -> None:
    """Check that a command was started in a project.

    Raises:
        UserError: No folder from the working directory upwards has a `conf/train.yaml`.
    """
    if FOUND is None:
        raise UserError(
            f"{Path.cwd()}: not in a project: no folder from here upwards has conf/train.yaml; leyden init creates one"
        )


# Errors of a disk that is full, read-only or failing.
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# Errors that are bugs if Python itself raises them: a missing key, attribute or name.
_BUGS = (LookupError, AttributeError, NameError)
# Errors that code raises on purpose: a wrong value, a missing file, a non-finite number.
_RAISED_ON_PURPOSE = (ValueError, OSError, FloatingPointError, UserError)


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a Hydra error was raised from; any other error is returned as it is."""
    while isinstance(error, HydraException) and error.__cause__:
        error = error.__cause__
    # For a failed import, Hydra raises an ImportError of its own from the module's error.
    raised_in = [frame.path for frame in _frames(error.__traceback__)][-1:]
    if isinstance(error, ImportError) and error.__cause__ and raised_in and raised_in[0].startswith(_HYDRA):
        inner = error.__cause__
        own = (frame for frame in _frames(inner.__traceback__) if not is_library(frame.path))
        if isinstance(inner, SyntaxError) or any(own):
            return inner
    return error


def is_mistake(error: BaseException, *, runs: bool = False) -> bool:
    """Return whether an error is a user's mistake, such as a wrong value, that needs no traceback.

    A `ValueError` or similar that is raised on purpose while objects are built is a mistake. So is an error that a
    library raises about values from the configuration. Any other error raised outside of libraries is a bug.

    Args:
        error: The exception.
        runs: Whether it was raised during training or evaluation, where an error in a researcher's code is a bug.
    """
    if isinstance(error, UserError | FloatingPointError):
        return True
    cause = cause_of(error)
    if isinstance(cause, SyntaxError) or hasattr(error, _BUG_OF_A_RUN):
        return False
    if _is_out_of_memory(cause):
        return True
    if isinstance(cause, OSError) and cause.errno in _DISK_ERRNOS:
        return True
    frames = list(_frames(cause.__traceback__))
    ours = [frame for frame in frames if not is_library(frame.path)]
    is_engine = not ours or ours[-1].path.startswith(_ENGINE)
    if not frames or (isinstance(cause, OSError) and is_engine):
        return True  # about a file that the engine reads or writes; the message names it
    is_ours = bool(ours) and frames[-1] is ours[-1]
    if is_ours and isinstance(cause, _RAISED_ON_PURPOSE) and frames[-1].instruction == "RAISE_VARARGS":
        return is_engine or not runs
    if isinstance(cause, TypeError) and not runs and _has_forwarded_keyword(frames):
        return True
    if is_ours or (runs and isinstance(cause, _BUGS) and frames[-1].instruction not in _RAISES):
        return False
    if isinstance(cause, ValueError) and not runs and ours:
        # A class passed its arguments on to a library's base class, which rejected them.
        after = frames[frames.index(ours[-1]) :][:2]
        if [frame.function for frame in after] == ["__init__", "__init__"]:
            return True
    return all(frame.path.startswith(_ENGINE) for frame in ours)


def mark_as_bug(error: BaseException) -> None:
    """Make `is_mistake` return False for an error from a run, wherever the error is caught later.

    This applies only to types in `_BUGS`; other errors can still be reported in one line.
    """
    if isinstance(cause_of(error), _BUGS):
        setattr(error, _BUG_OF_A_RUN, True)


def last_frame(error: BaseException) -> str:
    """Return the innermost frame outside of libraries, such as `models/mlp.py:12 in forward`; empty if none.

    An error in a library that only the engine has called is located in the library.
    """
    frames = list(_frames(cause_of(error).__traceback__))
    own = [frame for frame in frames if not is_library(frame.path)]
    if not own:
        return ""
    frame = frames[-1] if own[-1].path.startswith(_ENGINE) else own[-1]
    path = Path(frame.path)
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return f"{shown}:{frame.line} in {frame.function}"


class Frame(NamedTuple):
    """A frame of a traceback.

    Args:
        path: Path of the source file.
        line: Number of the line that was executed.
        function: Name of the called function.
        instruction: Bytecode instruction that was executed; it is known even without the source file.
        has_var_keywords: Whether the function has a `**kwargs` parameter.
    """

    path: str
    line: int
    function: str
    instruction: str
    has_var_keywords: bool

    @property
    def forwards_keywords(self) -> bool:
        """True if the error was raised while the frame passed its `**kwargs` to another function."""
        return self.has_var_keywords and self.instruction in ("CALL_FUNCTION_EX", "DICT_MERGE")


def _has_forwarded_keyword(frames: Sequence[Frame]) -> bool:
    """Return whether an unexpected keyword comes from the configuration, via functions that forward `**kwargs`.

    If a researcher's code called the outermost of these functions, the keyword comes from that code instead.
    """
    calls = list(itertools.dropwhile(lambda frame: is_library(frame.path), reversed(frames)))
    before = list(itertools.dropwhile(lambda frame: frame.forwards_keywords, calls))
    return len(before) < len(calls) and (
        not before or is_library(before[0].path) or before[0].path.startswith(str(LIBRARY))
    )


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether the machine or an accelerator is out of memory."""
    torch = sys.modules.get("torch")  # its errors can't occur before it is imported
    if isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError)):
        return True
    # These two allocators raise plain RuntimeErrors, recognisable by their message only.
    message = str(error)
    return type(error) is RuntimeError and (
        "DefaultCPUAllocator: " in message or "MPS backend out of memory" in message
    )


def _frames(traceback: TracebackType | None) -> Iterator[Frame]:
    """Yield the frames of a traceback, outermost first."""
    while traceback:
        code = traceback.tb_frame.f_code
        at = traceback.tb_lasti
        instruction = dis.opname[code.co_code[at]] if at >= 0 else ""
        has_var_keywords = bool(code.co_flags & inspect.CO_VARKEYWORDS)
        yield Frame(code.co_filename, traceback.tb_lineno, code.co_name, instruction, has_var_keywords)
        traceback = traceback.tb_next


def is_library(path: str) -> bool:
    """Return whether a file is one of Python's or of an installed package's; those of this library are not."""
    if path.startswith(_LEYDEN):  # wherever it is installed
        return False
    return "site-packages" in path or "dist-packages" in path or path.startswith(_LIBRARIES)


@contextlib.contextmanager
def log_and_continue(name: str) -> Iterator[None]:
    """Report an error in an optional part of a run and continue; a bug is reported with its traceback."""
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, OSError) or is_mistake(error)  # for example a full disk or a deleted folder
        if not mistake:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
        why = str(error) if mistake else type(error).__name__
        warn(f"{name} failed ({why}), the run continues without it")

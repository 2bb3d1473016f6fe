"""The frame of a command: the arguments of one without Hydra, its errors, and how it ends.

While a run is composed and built, each error is one line. While it trains or is evaluated, a user's
mistake and a full disk are one line, and any other error shows its traceback.
"""

import contextlib
import errno
import gc
import importlib.util
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from leyden.base.extras import missing_package, not_installed
from leyden.base.paths import LIBRARY, prepare_process, project, root
from leyden.base.terminal import printable, warn
from leyden.exact.processes import DIED, RANKS, TOLD_S

_PYTHON = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_LIBRARIES = ("<", *_PYTHON)
# Errors of a disk that is full, read-only or failing.
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# Errors whose message alone says what is wrong; of others, such as KeyError, the type is named,
# too.
_TOLD_BY_MESSAGE: tuple[type[Exception], ...] = (ValueError, TypeError, OSError, ImportError)
_OF_DOORS = ("leyden.exact.ExactError", "leyden.verdict.tables.TableError")
_OF_HYDRA = ("hydra.errors.HydraException", "omegaconf.errors.OmegaConfBaseException")
_OF_TRAINING = (
    "torch.OutOfMemoryError",
    "lightning.fabric.utilities.exceptions.MisconfigurationException",
)


def _imported(names: Iterable[str]) -> tuple[type[Exception], ...]:
    """Return those classes of errors whose modules are imported.

    None of the others can be raised.
    """
    found = []
    for name in names:
        module, _, kind = name.rpartition(".")
        known = getattr(sys.modules.get(module), kind, None)
        if known:
            found.append(known)
    return tuple(found)


class UserError(Exception):
    """A mistake of the user, printed in one or two lines, without a traceback."""


class Exit(IntEnum):
    """Exit codes of the commands; a signal that ends a command adds its number to 128."""

    DONE = 0
    BUG = 1
    DIFFERENT = 1  # of `reproduce` and `resumetest`: the runs are not equal
    MISTAKE = 2
    DIED = DIED  # another process of the run
    SKIPPED = 125  # of `reproduce exit=bisect`: git bisect takes another commit
    REQUEUED = 75  # EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 128 + signal.SIGINT
    NO_READER = 128 + 13  # SIGPIPE, which Windows lacks
    TERMINATED = 128 + signal.SIGTERM


def leave(code: int, cause: BaseException | None = None) -> NoReturn:
    """End this process with an exit code, after all contexts have ended.

    No other function raises `SystemExit`.
    """
    raise SystemExit(int(code)) from cause


def leave_at_once(code: int) -> NoReturn:
    """End this process from a thread or in a fork.

    A thread can't raise in the main thread, and a fork's contexts are not its own.
    """
    os._exit(code)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Context of a whole command.

    It prepares the process, reports an error, and ends with its exit code.

    `HYDRA_FULL_ERROR=1` shows the traceback of a mistake, too, and a debugger gets every error.
    """
    prepare_process()
    try:
        try:
            yield
        finally:
            if sys.stdout:  # None if it is closed
                sys.stdout.flush()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not interrupt the exit
        print("Interrupted.", file=sys.stderr)
        leave(Exit.INTERRUPTED)
    except BrokenPipeError:  # the reader of stdout has left, as `head` does
        # Python flushes once more at its end.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())
        leave(Exit.NO_READER)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or sys.gettrace():
            raise
        text = _text_of_mistake(error)
        if text is None:
            lines = traceback.format_exception(cause_of(error))
            print(printable("".join(lines)), file=sys.stderr, end="")
            leave(Exit.BUG)
        ranks = [os.environ.get(name) for name in RANKS]
        rank = next(filter(None, ranks), "0")
        if rank != "0":
            time.sleep(TOLD_S)
        warn(text)
        leave(Exit.MISTAKE)


def _text_of_mistake(error: Exception) -> str | None:
    """Return what a command says of an error that needs no traceback; None for a bug."""
    if isinstance(error, (UserError, *_imported(_OF_DOORS))):
        return str(error)
    if missing := missing_package(error):
        return not_installed(missing)
    if is_mistake(error) or is_told_by_its_message(error):
        return as_line(error)
    return None


def require_packages(packages: Iterable[str], extra: str, what: str = "") -> None:
    """Check that packages of an extra are installed.

    Args:
        packages: Their names, as they are imported.
        extra: The extra.
        what: What needs them, such as `logger.wandb: `.

    Raises:
        UserError: One is not.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(what + not_installed(package, extra))


def require_project() -> None:
    """Check that a command was started in a project.

    Raises:
        UserError: No folder from the working directory upwards has a `conf/train.yaml`.
    """
    if project() is None:
        raise UserError(
            f"{Path.cwd()}: not in a project: "
            "no folder from here upwards has conf/train.yaml; leyden init creates one"
        )


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector.

    It would search the records of thousands of runs for garbage over and over.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def is_mistake(error: BaseException) -> bool:
    """Return whether an error that ends a command or a run needs no traceback.

    It is a mistake of the user, also one that Lightning finds, a value that is not finite, memory
    that is used up, or a disk that is full.
    """
    kinds: tuple[type[Exception], ...] = (UserError, FloatingPointError, MemoryError)
    kinds += _imported(_OF_TRAINING)
    if isinstance(error, kinds):
        return True
    return isinstance(error, OSError) and error.errno in _DISK_ERRNOS


def is_told_by_its_message(error: BaseException) -> bool:
    """Return whether an error is about a file or the configuration, and not of the user's code."""
    kinds: tuple[type[Exception], ...] = (OSError, *_imported(_OF_HYDRA))
    return isinstance(error, kinds) and not _frames(error, of_user=True)


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a Hydra error was raised from; any other error is returned as it is."""
    of_hydra = _imported(_OF_HYDRA[:1])
    while isinstance(error, of_hydra) and error.__cause__:
        error = error.__cause__
    return error


def as_line(error: BaseException) -> str:
    """Return an error as one line.

    It has the message, after the type if that says more, and the user's line that raised it.
    """
    cause = cause_of(error)
    text = " ".join(str(cause).split())
    name = type(cause).__name__
    if not text:
        text = name
    elif not isinstance(cause, _TOLD_BY_MESSAGE + _imported(_OF_HYDRA)):
        text = f"{name}: {text}"
    chain = _chain(cause)
    place = ""
    for each in chain:  # Hydra raises an ImportError of its own from a module's error
        frames = _frames(each, of_user=True)
        if isinstance(each, SyntaxError):
            place = f"{each.filename}:{each.lineno}"
        elif frames and not place:
            place = frames[-1]
    return f"{text} ({place})" if place else text


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error, and those that it was raised from."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def last_frame(error: BaseException) -> str:
    """Return the last frame of the user's own code, else the last of all.

    An example is `models/mlp.py:12 in forward`.
    """
    cause = cause_of(error)
    frames = _frames(cause, of_user=True) or _frames(cause, of_user=False)
    return frames[-1] if frames else ""


def _frames(error: BaseException, *, of_user: bool) -> list[str]:
    """Return the frames of an error's traceback as text, the innermost one last.

    `of_user` leaves out those that are not of the user's code.
    """
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        is_own = code.co_filename.startswith(str(LIBRARY))
        if of_user and (is_own or is_library(code.co_filename)):
            continue
        path = Path(code.co_filename)
        if path.is_relative_to(root()):
            path = path.relative_to(root())
        found.append(f"{path}:{line} in {code.co_name}")
    return found


def is_library(path: str) -> bool:
    """Return whether a file is one of Python's or of an installed package's.

    Those of this library are not.
    """
    if path.startswith(str(LIBRARY)):  # wherever it is installed
        return False
    if "site-packages" in path or "dist-packages" in path:
        return True
    return path.startswith(_LIBRARIES)


@contextlib.contextmanager
def log_and_continue(name: str) -> Iterator[None]:
    """Report an error in an optional part of a run and continue.

    A bug is reported with its traceback.
    """
    try:
        yield
    except Exception as error:
        why = str(error)
        # For example of a full disk or a deleted folder.
        if not isinstance(error, OSError) and not is_mistake(error):
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
            why = type(error).__name__
        warn(f"{name} failed ({why}), the run continues without it")

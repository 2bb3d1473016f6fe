"""The frame of a command: the arguments of one without Hydra, its errors, and how it ends.

While a run is composed and built, each error is one line. While it trains or is evaluated, a user's mistake and a full
disk are one line, and any other error shows its traceback.
"""

import contextlib
import errno
import gc
import math
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from leyden.config.paths import LIBRARY, prepare_process, project, root
from leyden.config.terminal import printable, warn
from leyden.exact.processes import DIED, RANKS, TOLD_S

_LIBRARIES = (
    "<",
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
)
# Errors of a disk that is full, read-only or failing.
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
# Errors whose message alone says what is wrong; of others, such as KeyError, the type is named, too.
_TOLD_BY_MESSAGE = (
    ValueError,
    TypeError,
    OSError,
    ImportError,
    HydraException,
    OmegaConfBaseException,
)


class UserError(Exception):
    """A mistake of the user, printed in one or two lines, without a traceback."""


class Exit(IntEnum):
    """Exit codes of the commands; a signal that ends a command adds its number to 128."""

    DONE = 0
    BUG = 1
    DIFFERENT = 1  # of `reproduce` and `resumetest`: the runs are not equal
    MISTAKE = 2
    DIED = DIED  # another process of the run
    REQUEUED = 75  # EX_TEMPFAIL of sysexits.h
    INTERRUPTED = 128 + signal.SIGINT
    NO_READER = 128 + 13  # SIGPIPE, which Windows lacks
    TERMINATED = 128 + signal.SIGTERM


def leave(code: int, cause: BaseException | None = None) -> NoReturn:
    """End this process with an exit code, after all contexts have ended: the one place that raises `SystemExit`."""
    raise SystemExit(int(code)) from cause


def leave_at_once(code: int) -> NoReturn:
    """End this process from a thread, which can't raise in the main thread, or in a fork, whose contexts are not its own."""
    os._exit(code)


@contextlib.contextmanager
def ending(explain: Callable[[Exception], str] | None = None) -> Iterator[None]:
    """Context of a whole command: it prepares the process, reports an error, and ends with its exit code.

    `HYDRA_FULL_ERROR=1` shows the traceback of a mistake, too, and a debugger gets every error.

    Args:
        explain: Returns the message of an error of Hydra or OmegaConf; None for `as_line`.
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
    except Exception as error:
        if isinstance(error, BrokenPipeError):  # the reader of stdout has left, as `head` does
            os.dup2(
                os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
            )  # Python flushes once more at its end
            leave(Exit.NO_READER)
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or sys.gettrace():
            raise
        if is_mistake(error) or _is_told_by_its_message(error):
            if next(filter(None, map(os.environ.get, RANKS)), "0") != "0":
                time.sleep(TOLD_S)
            if explain and isinstance(error, HydraException | OmegaConfBaseException):
                warn(explain(error))
            else:
                warn(str(error) if isinstance(error, UserError) else as_line(error))
            leave(Exit.MISTAKE)
        print(
            printable("".join(traceback.format_exception(cause_of(error)))), file=sys.stderr, end=""
        )
        leave(Exit.BUG)


def require_project() -> None:
    """Check that a command was started in a project.

    Raises:
        UserError: No folder from the working directory upwards has a `conf/train.yaml`.
    """
    if project() is None:
        raise UserError(
            f"{Path.cwd()}: not in a project: no folder from here upwards has conf/train.yaml; leyden init creates one"
        )


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector, which searches the records of thousands of runs for garbage over and over."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def parse_arguments(
    usage: str | None, defaults: Mapping[str, str], max_folders: int
) -> tuple[list[Path], dict[str, str]]:
    """Parse `sys.argv` into folders and options; for `--help`, print the usage and exit.

    Args:
        usage: Text for `--help`, the docstring of the command's module.
        defaults: Default value of each option.
        max_folders: Largest allowed number of folders.

    Raises:
        UserError: An argument is unknown, an option is repeated, or there are too many folders.
    """
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print((usage or "").rstrip())
        leave(Exit.DONE)
    folders: list[Path] = []
    options: dict[str, str] = {}
    allowed = ", ".join(f"{key}=" for key in defaults)
    kinds = f"a folder, or one of {allowed}" if max_folders else f"one of {allowed}"
    for argument in sys.argv[1:]:
        key, sign, value = argument.partition("=")
        if sign and key in defaults:
            if key in options:
                raise UserError(f"{argument}: {key} is given twice")
            options[key] = value
        elif argument.startswith("-") or (sign and not Path(argument).exists()) or not max_folders:
            raise UserError(f"{argument}: must be {kinds}")
        else:
            folders.append(Path(argument))
    if len(folders) > max_folders:
        raise UserError(
            f"{folders[max_folders]}: at most {max_folders} folder{'s' * (max_folders > 1)} can be given, and {allowed}"
        )
    return folders, {**defaults, **options}


def parse_choice(options: Mapping[str, str], key: str, *allowed: str) -> str:
    """Return the value of an option, which must be one of `allowed`.

    Raises:
        UserError: The value is not allowed.
    """
    if options[key] not in allowed:
        raise UserError(f"{key}={options[key]}: must be one of {', '.join(allowed)}")
    return options[key]


def parse_flag(options: Mapping[str, str], key: str) -> bool:
    """Return the value of an option that is `true` or `false`."""
    return parse_choice(options, key, "true", "false") == "true"


def parse_list(options: Mapping[str, str], key: str) -> list[str]:
    """Return the words of an option such as `[a,b]`; its brackets may be missing."""
    return [word.strip() for word in options[key].removeprefix("[").removesuffix("]").split(",")]


def parse_number(options: Mapping[str, str], key: str) -> int | None:
    """Return the value of an option that is a positive integer; None if the option is not given.

    Raises:
        UserError: The value is not a positive integer.
    """
    text = options[key]
    if text and not (text.isascii() and text.isdecimal() and len(text) < 19 and int(text)):
        raise UserError(f"{key}={text}: must be a positive whole number")
    return int(text) if text else None


def parse_size(options: Mapping[str, str], key: str) -> float:
    """Return the value of an option that is a number, 0 or larger.

    Raises:
        UserError: The value is not such a number.
    """
    try:
        if 0 <= (number := float(options[key])) < math.inf:
            return number
    except ValueError:
        pass
    raise UserError(f"{key}={options[key]}: must be a positive number")


def is_mistake(error: BaseException) -> bool:
    """Return whether an error that ends a command or a run needs no traceback.

    It is a mistake of the user, also one that Lightning finds, a value that is not finite, memory that is used up, or a
    disk that is full.
    """
    # Errors of these libraries can't occur before they are imported.
    torch, lightning = (
        sys.modules.get("torch"),
        sys.modules.get("lightning.fabric.utilities.exceptions"),
    )
    kinds = (
        UserError,
        FloatingPointError,
        MemoryError,
        *((torch.OutOfMemoryError,) if torch else ()),
    )
    kinds += (lightning.MisconfigurationException,) if lightning else ()
    return isinstance(error, kinds) or (isinstance(error, OSError) and error.errno in _DISK_ERRNOS)


def _is_told_by_its_message(error: BaseException) -> bool:
    """Return whether an error is about a file or the configuration, and raised by no code of the user's."""
    about = isinstance(error, OSError | HydraException | OmegaConfBaseException)
    return about and not _frames(error, of_user=True)


def cause_of(error: BaseException) -> BaseException:
    """Return the error that a Hydra error was raised from; any other error is returned as it is."""
    while isinstance(error, HydraException) and error.__cause__:
        error = error.__cause__
    return error


def as_line(error: BaseException) -> str:
    """Return an error as one line: its message, after its type if that says more, and the user's line that raised it."""
    cause = cause_of(error)
    text, name = " ".join(str(cause).split()), type(cause).__name__
    if not isinstance(cause, _TOLD_BY_MESSAGE) or not text:
        text = f"{name}: {text}" if text else name
    chain = [cause]  # Hydra raises an ImportError of its own from a module's error
    while chain[-1].__cause__ is not None and chain[-1].__cause__ not in chain:
        chain.append(chain[-1].__cause__)
    frames = next((found for each in chain if (found := _frames(each, of_user=True))), [])
    frames += [f"{each.filename}:{each.lineno}" for each in chain if isinstance(each, SyntaxError)]
    return f"{text} ({frames[-1]})" if frames else text


def last_frame(error: BaseException) -> str:
    """Return the last frame of the user's own code, such as `models/mlp.py:12 in forward`, else the last of all."""
    cause = cause_of(error)
    frames = _frames(cause, of_user=True) or _frames(cause, of_user=False)
    return frames[-1] if frames else ""


def _frames(error: BaseException, *, of_user: bool) -> list[str]:
    """Return the frames of an error's traceback as text, the innermost one last; all, or those of the user's own code."""
    found = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        code = frame.f_code
        if of_user and (code.co_filename.startswith(str(LIBRARY)) or is_library(code.co_filename)):
            continue
        path = Path(code.co_filename)
        if path.is_relative_to(root()):
            path = path.relative_to(root())
        found.append(f"{path}:{line} in {code.co_name}")
    return found


def is_library(path: str) -> bool:
    """Return whether a file is one of Python's or of an installed package's; those of this library are not."""
    if path.startswith(str(LIBRARY)):  # wherever it is installed
        return False
    return "site-packages" in path or "dist-packages" in path or path.startswith(_LIBRARIES)


@contextlib.contextmanager
def log_and_continue(name: str) -> Iterator[None]:
    """Report an error in an optional part of a run and continue; a bug is reported with its traceback."""
    try:
        yield
    except Exception as error:
        is_told = isinstance(error, OSError) or is_mistake(
            error
        )  # for example a full disk or a deleted folder
        if not is_told:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
        why = str(error) if is_told else type(error).__name__
        warn(f"{name} failed ({why}), the run continues without it")

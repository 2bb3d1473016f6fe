"""One process per run directory."""

import contextlib
import errno
import os
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import filelock

from leyden.config.errors import UserError
from leyden.run.files import read_text
from leyden.run.provenance import now

LOCK_TIMEOUT_S = 2.0  # long enough for a process that only checks whether it is held
_HELD: dict[Path, int] = {}  # directories that this process has locked, kept open: no other one gets their number


@contextlib.contextmanager
def acquire(directory: Path, timeout_s: float) -> Iterator[None]:
    """Hold a directory, which is made where it is missing, and removed if it is empty in the end.

    Args:
        directory: An absolute path.
        timeout_s: How long to wait while another process holds it; negative: for ever.

    Raises:
        UserError: Another process holds it, or it can't be written to.
    """
    path = directory / ".lock"
    lock = filelock.FileLock(path)
    made: list[Path] = []
    try:
        made = _make_directories(directory)
        lock.acquire(timeout=timeout_s)
        if sys.platform != "win32":  # there nobody moves a folder in which a file is open, or reads what is locked
            _HELD[directory] = os.open(directory, os.O_RDONLY)
            path.write_text(f"process {os.getpid()} on {platform.node()}, started {now()}\n", encoding="utf-8")
    except filelock.Timeout:
        raise UserError(f"{directory}: in use by {_holder(path)}") from None
    except OSError as error:
        _remove_directories(made)
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError, UserError):
            check_held(directory)
            if not content(directory):
                if sys.platform == "win32":  # nor does anybody remove it
                    lock.release()
                path.unlink(missing_ok=True)
                _remove_directories(made)
        if directory in _HELD:
            os.close(_HELD.pop(directory))
        lock.release()


def check_held(directory: Path) -> None:
    """Make sure, before something is written, that a directory is still the one that this process has locked.

    Somebody can move or delete it meanwhile, and another run can begin in its place.

    Raises:
        UserError: It is not.
    """
    if (descriptor := _HELD.get(directory)) is None:  # another process of DDP has locked it
        return
    with contextlib.suppress(OSError):
        if os.path.samestat(directory.stat(), os.fstat(descriptor)):
            return
    raise UserError(f"{directory}: was moved, deleted or replaced while the run went on, which can't go on so")


def is_held(directory: Path) -> bool:
    """Whether a process works in a directory."""
    if sys.platform == "win32":  # where a lock can't be shared
        try:
            if (path := directory / ".lock").exists():
                filelock.FileLock(path, timeout=0).acquire().lock.release()
        except OSError as error:
            return isinstance(error, filelock.Timeout)
        return False
    import fcntl  # which is not there

    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:  # to share it, as a reader can: who only looks writes nothing, and can look at a read-only disk
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def content(directory: Path) -> set[str]:
    """Names of the files but the lock and what a process that was killed had not finished writing."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {name for name in names if name != ".lock" and not name.endswith(".tmp")}


def _holder(path: Path) -> str:
    for _ in range(10):  # it may be about to write who it is
        with contextlib.suppress(OSError, ValueError):
            if text := read_text(path).strip():
                return text
        time.sleep(0.1)
    return "another process"


def _make_directories(path: Path) -> list[Path]:
    """Make a directory and those above it; the ones that were not there, from top to bottom."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    path.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_directories(made: list[Path]) -> None:
    """Remove those of the directories that are empty."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            folder.rmdir()

"""The lock of a run directory, held by one process at a time."""

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

LOCK_TIMEOUT_S = 2.0  # outlasts a process that only checks the lock
_HELD: dict[Path, int] = {}  # open descriptors of locked directories, so that inode numbers are not reused


@contextlib.contextmanager
def acquire(directory: Path, timeout_s: float) -> Iterator[None]:
    """Lock a directory; one that is missing is created, and removed again if it is empty at the end.

    Args:
        directory: An absolute path.
        timeout_s: Seconds to wait while another process holds the lock; negative to wait indefinitely.

    Raises:
        UserError: Another process holds the lock, or the directory can't be written to.
    """
    path = directory / ".lock"
    lock = filelock.FileLock(path)
    made: list[Path] = []
    try:
        made = _make_directories(directory)
        lock.acquire(timeout=timeout_s)
        if sys.platform != "win32":  # Windows prevents moving a folder with an open file and reading a locked file
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
            if not list_files(directory):
                if sys.platform == "win32":  # an open file can't be removed
                    lock.release()
                path.unlink(missing_ok=True)
                _remove_directories(made)
        if directory in _HELD:
            os.close(_HELD.pop(directory))
        lock.release()


def check_held(directory: Path) -> None:
    """Check, before a write, that a directory is still the one that this process has locked.

    It may have been moved or deleted, and another run may have been started in its place.

    Raises:
        UserError: The directory was moved, deleted or replaced.
    """
    if (descriptor := _HELD.get(directory)) is None:  # locked by rank 0, not by this process
        return
    with contextlib.suppress(OSError):
        if os.path.samestat(directory.stat(), os.fstat(descriptor)):
            return
    raise UserError(f"{directory}: was moved, deleted or replaced during the run, which can't continue")


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of a directory."""
    if sys.platform == "win32":  # no shared locks
        try:
            if (path := directory / ".lock").exists():
                filelock.FileLock(path, timeout=0).acquire().lock.release()
        except OSError as error:
            return isinstance(error, filelock.Timeout)
        return False
    import fcntl  # not available on Windows

    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:  # a shared lock needs no write access, so this works on a read-only disk
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in (errno.EAGAIN, errno.EACCES)
    finally:
        os.close(descriptor)
    return False


def list_files(directory: Path) -> set[str]:
    """Return the names in a directory, without the lock and temporary files; empty if it does not exist."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {name for name in names if name != ".lock" and not name.endswith(".tmp")}


def _holder(path: Path) -> str:
    """Return the description of the process that holds a lock file."""
    for _ in range(10):  # the process may not have written it yet
        with contextlib.suppress(OSError, ValueError):
            if text := read_text(path).strip():
                return text
        time.sleep(0.1)
    return "another process"


def _make_directories(path: Path) -> list[Path]:
    """Create a directory with its parents; return those that were missing, topmost first."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()][::-1]
    path.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_directories(made: list[Path]) -> None:
    """Remove directories, bottom up, as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in reversed(made):
            folder.rmdir()

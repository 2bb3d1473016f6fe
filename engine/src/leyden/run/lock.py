"""The lock of a run directory, held by one process at a time."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from leyden.config.errors import UserError
from leyden.run import lease
from leyden.run.lease import Lease

LOCK_TIMEOUT_S = 2.0
LOCK = ".lock"
# By locked directory: its lease, and an open descriptor of it, so that its inode number is not reused.
_HELD: dict[Path, tuple[Lease, int | None]] = {}


@contextlib.contextmanager
def acquire(directory: Path, timeout_s: float | None, *, ended_job: str = "") -> Iterator[None]:
    """Lock a directory; one that is missing is created, and removed again if it is empty at the end.

    Args:
        directory: An absolute path.
        timeout_s: Seconds to wait while another process holds the lock; None to wait indefinitely.
        ended_job: Id of a cluster's job that has ended, so that its lock is free.

    Raises:
        UserError: Another process holds the lock, or the directory can't be written to.
    """
    made: list[Path] = []
    try:
        made = _make_directories(directory)
        held = lease.acquire(directory / LOCK, timeout_s, ended_job=ended_job)
        try:
            # Windows prevents moving a folder that is open.
            descriptor = None if sys.platform == "win32" else os.open(directory, os.O_RDONLY)
        except OSError:
            held.release()
            raise
    except OSError as error:
        _remove_directories(made)
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error
    _HELD[directory] = held, descriptor
    pid = os.getpid()
    try:
        yield
    finally:
        if pid == os.getpid():  # not in a forked process
            with contextlib.suppress(OSError, UserError):
                check_held(directory)
                if not list_files(directory):
                    held.file.unlink(missing_ok=True)
                    _remove_directories(made)
            held.release()
        del _HELD[directory]
        if descriptor is not None:
            os.close(descriptor)


def check_held(directory: Path) -> None:
    """Check, before a write, that a directory is still the one that this process has locked.

    It may have been moved or deleted, and another run may have been started in its place; or this process was
    suspended for so long that another one has taken over the run.

    Raises:
        UserError: The directory was moved, deleted or replaced, or the lock was taken over.
    """
    if directory not in _HELD:  # locked by rank 0, not by this process
        return
    held, descriptor = _HELD[directory]
    try:
        is_same = descriptor is None or os.path.samestat(directory.stat(), os.fstat(descriptor))
    except OSError:
        is_same = False
    if not is_same:
        raise UserError(f"{directory}: was moved, deleted or replaced during the run, which can't continue")
    held.check()


def is_held(directory: Path) -> bool:
    """Return whether a process holds the lock of a directory."""
    return lease.is_held(directory / LOCK)


def list_files(directory: Path) -> set[str]:
    """Return the names in a directory, without the lock and temporary files; empty if it does not exist."""
    names = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    return {name for name in names if not lease.is_file_of(directory / LOCK, name) and not name.endswith(".tmp")}


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

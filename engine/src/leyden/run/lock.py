"""Locks: one process at a time, by a file with a heartbeat.

All they need of a file system is exclusive creation.

`flock` is missing on many clusters' file systems, or locks on one node alone. A lock on `path` is a
file `path.N`, which its holder touches every `HEARTBEAT_S` seconds and removes at the end. It is
free if the holder's process is gone on this machine, or if the file has not changed for `STALE_S`
seconds by the clock of the process that waits. Then the next holder creates `path.N+1`, which only
one process can do, and removes the older files; the one with the largest N counts. A holder that
was suspended checks before it writes that it still has the lock, see `Lock.check`.

filelock's `SoftFileLease` is not used: it exchanges the old file for a new one by
`RENAME_EXCHANGE`, which NFS does not support, so that the lock of a process that was killed would
never be free there.
"""

import contextlib
import errno
import functools
import json
import math
import os
import platform
import random
import re
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from leyden.base.errors import UserError
from leyden.base.terminal import reason_of, warn
from leyden.exact.files import opened
from leyden.run.process import JOB

HEARTBEAT_S = 10.0
STALE_S = 60.0  # a lock whose file does not change for so long is free
MAX_PAUSE_S = 0.5
ANNOUNCE_S = 5.0  # waiting for longer is announced
LOCK_TIMEOUT_S = 2.0  # for a run directory
LOCK = ".lock"  # in a run directory
MAX_LOCK_BYTES = 2**16  # of a lock's file
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)
LockState = Literal["free", "held", "unknown"]
_RANDOM = random.Random()  # so that processes that start together do not look together
# The locks of this process by path. A thread touches their files, one for all: an array of jobs
# takes hundreds.
_HELD: dict[Path, "Lock"] = {}
_thread: threading.Thread | None = None


class InUseError(UserError):
    """Another process holds a lock."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lock, as it describes itself in the lock's file."""

    pid: int = 0
    host: str = ""
    machine: str = ""  # is equal only for processes that see each other's process ids
    began: str = ""  # when the process began, by the clock of its machine's kernel
    time: str = ""  # when it took the lock, for messages
    job: str = ""  # id of the cluster's job that it belongs to, empty without one

    @classmethod
    def of(cls, content: bytes) -> "Holder":
        """Return the holder in a lock's file.

        One without a machine if the file is damaged or being written.
        """
        try:
            values = {}
            for key, value in json.loads(content).items():
                kind = type(getattr(cls, key))
                values[key] = kind(value)
            return cls(**values)
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return cls()

    def __str__(self) -> str:
        if self.pid:
            return f"process {self.pid} on {self.host}, since {self.time}"
        return "another process"

    def is_alive(self) -> bool | None:
        """Return whether the process is alive on this machine; None if that can't be told."""
        if sys.platform == "win32":  # where `os.kill` would end the process
            return None
        is_here = bool(self.machine) and self.machine == _machine()
        if not is_here or not 0 < self.pid < 2**31:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:  # of another user
            return None
        began = _began(self.pid)
        return began == self.began if began else None  # the id may have passed to another process


class Watch:
    """Observation of one lock by a process that does not hold it.

    Args:
        path: Path of the lock.
        ended_job: Id of a cluster's job that has ended, by the scheduler's word, so that its locks
            are free.
    """

    def __init__(self, path: Path, ended_job: str = "") -> None:
        self.path = path
        self.ended_job = ended_job
        self.holder = Holder()
        self.number = -1  # of the newest file; -1 if there is none
        self._seen: tuple[Path, tuple[int, int, bytes]] | None = None  # the newest file
        self._unchanged_s = 0.0
        self._looked_at = 0.0
        self._has_acted = False

    def state(self) -> LockState:
        """Look at the lock and return its state.

        For a holder on another machine, it is `held` while the file changes, `free` when the file
        has not changed for `STALE_S` seconds, and `unknown` otherwise.

        Raises:
            OSError: The folder or the file can't be read.
        """
        started = time.monotonic()
        before = self._seen
        self._seen = None
        self.number = max(_numbers(self.path))
        if self.number < 0:
            return "free"
        file = _file(self.path, self.number)
        content = _read(file)
        if content is None:  # just replaced
            return "unknown"
        self._seen = file, content
        self.holder = Holder.of(content[2])
        is_alive = self.holder.is_alive()
        if is_alive is False or (self.ended_job and self.holder.job == self.ended_job):
            return "free"
        if is_alive:
            return "held"
        # Only the time between two looks counts, since a look takes long while the file system does
        # not answer; and this process may have been suspended between them.
        between = min(started - self._looked_at, 1.5 * HEARTBEAT_S)
        self._looked_at = time.monotonic()
        if before == self._seen:
            self._unchanged_s += between
        else:
            self._unchanged_s = 0.0
            self._has_acted |= before is not None
        if self._unchanged_s >= STALE_S:
            return "free"
        is_acting = self._has_acted and self._unchanged_s < 2 * HEARTBEAT_S
        if is_acting:
            return "held"
        return "unknown"

    def has_changed(self) -> bool:
        """Return whether the last seen file has been touched, replaced or removed since."""
        return self._seen is not None and _read(self._seen[0]) != self._seen[1]


class Lock:
    """A lock that this process holds, from `acquire` to `release`.

    Args:
        path: Path of the lock.
        number: Number of its file.
        content: Inode number and content of its file.
    """

    def __init__(self, path: Path, number: int, content: tuple[int, bytes]) -> None:
        self.path = path
        self.number = number
        self.file = _file(path, number)
        self._content = content
        self.is_lost = False
        self.pid = os.getpid()
        self._beaten_at = time.monotonic()
        _start_heartbeats()
        _HELD[path] = self

    def beat(self) -> str:
        """Touch the file, unless it is another process's; return why the lock is lost, or empty."""
        is_late = self._is_late()
        try:
            self.is_lost |= max(_numbers(self.path)) > self.number
            if self._is_there():
                os.utime(self.file)
                self._beaten_at = time.monotonic()
            elif not is_late and not self.is_lost:
                return "was moved, deleted or replaced during the run, which can't continue"
            else:  # the other one may have ended
                self.is_lost = True
        except OSError as error:
            if is_late and not self.is_lost:
                return (
                    "another process may have taken over, since this one can't reach it "
                    f"({reason_of(error)})"
                )
        if self.is_lost:
            return "was taken over by another process while this one was suspended"
        return ""

    def _is_late(self) -> bool:
        return time.monotonic() - self._beaten_at > STALE_S / 2

    def _is_there(self) -> bool:
        """Return whether the file is the one that this process has created."""
        found = _read(self.file)
        return found is not None and (found[0], found[2]) == self._content

    def check(self) -> None:
        """Check, before a write, that this process still holds the lock, in the same folder.

        The folder may have been moved or deleted, and another run may have been started in its
        place; or this process was suspended for so long that another one has taken over. A file
        system that does not answer for a moment changes nothing, since others wait `STALE_S`
        seconds for a heartbeat.

        Raises:
            UserError: It does not hold the lock, or the file system can't tell.
        """
        is_there = False
        with contextlib.suppress(OSError):
            is_there = self._is_there()
        if is_there and not (self.is_lost or self._is_late()):
            return
        problem = self.beat()
        if problem:
            raise UserError(f"{self.path.parent}: {problem}")

    def release(self) -> bool:
        """Free the lock, unless another process has taken it over.

        Without effect in a forked process.

        Returns:
            Whether this process held it until now.
        """
        if _HELD.get(self.path) is self:
            del _HELD[self.path]
        if self.pid != os.getpid():
            return False
        try:
            self.check()
            self.file.unlink()
        except (OSError, UserError):
            return False
        return True


def _start_heartbeats() -> None:
    """Start the thread that touches the files of this process's locks, unless it runs.

    A fork has none.
    """
    global _thread
    if _thread is None or not _thread.is_alive():
        _thread = threading.Thread(target=_beat_for_ever, name="locks", daemon=True)
        _thread.start()


def _beat_for_ever() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        for held in list(_HELD.values()):
            if held.pid == os.getpid():  # not its parent's
                held.beat()


def acquire(path: Path, timeout_s: float | None = None, *, ended_job: str = "") -> Lock:
    """Wait for a lock, and take it; a folder that is missing is created.

    Args:
        path: Path that no file has; the lock's files are `path.N` beside it.
        timeout_s: Seconds to wait for a holder that is alive; None to wait indefinitely.
        ended_job: Id of a cluster's job that has ended, so that its locks are free.

    Raises:
        InUseError: Another process holds it.
        OSError: The folder can't be written to.
    """
    watch = Watch(path, ended_job)
    began = time.monotonic()
    pause = 0.005
    is_announced = False
    while True:
        state = watch.state()
        taken = None
        if state == "free":
            taken = _create(watch)
        if taken is not None:
            return taken
        waited = time.monotonic() - began
        limit = math.inf if timeout_s is None else timeout_s
        if state != "held":
            limit += 2 * STALE_S
        if waited >= limit:
            raise InUseError(f"{path.parent}: in use by {watch.holder}")
        if waited > ANNOUNCE_S and not is_announced:
            is_announced = True
            warn(f"{path.parent}: waiting for {watch.holder}")
        time.sleep(pause * (0.5 + _RANDOM.random()))
        pause = min(1.5 * pause, MAX_PAUSE_S)


@contextlib.contextmanager
def hold(path: Path, timeout_s: float | None = None, *, ended_job: str = "") -> Iterator[Lock]:
    """Hold a lock while the context is entered, see `acquire`.

    A folder that is missing is created, and removed again if it is empty at the end.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    held = None
    try:
        held = acquire(path, timeout_s, ended_job=ended_job)
        yield held
    finally:
        if held is None or held.release():
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()


@contextlib.contextmanager
def hold_directory(
    directory: Path, timeout_s: float | None, *, ended_job: str = ""
) -> Iterator[None]:
    """Hold the lock of a run directory while the context is entered, see `hold`.

    `check_held` checks it.

    Args:
        directory: An absolute path.
        timeout_s: Seconds to wait while another process holds the lock; None to wait indefinitely.
        ended_job: Id of a cluster's job that has ended, so that its lock is free.

    Raises:
        UserError: Another process holds the lock, or the directory can't be written to.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(hold(directory / LOCK, timeout_s, ended_job=ended_job))
        except OSError as error:
            raise UserError(f"{directory}: can't be written to ({error.strerror})") from error
        yield


def check_held(directory: Path) -> None:
    """Check, before a write, that this process holds the lock of a run, see `Lock.check`.

    Raises:
        UserError: It does not; without effect if it never did, for example as rank 0 holds it.
    """
    held = _HELD.get(directory / LOCK)
    if held:
        held.check()


def is_held(directory: Path) -> bool:
    """Return, without waiting, whether a process holds the lock of a run directory.

    For a process on another machine, this is a guess that compares the file's time with this
    machine's clock.
    """
    watch = Watch(directory / LOCK)
    with contextlib.suppress(OSError):
        state = watch.state()
        if state != "unknown":
            return state == "held"
        touched = _file(watch.path, watch.number).stat().st_mtime
        return abs(time.time() - touched) < 2 * STALE_S
    return False


def list_files(directory: Path) -> set[str]:
    """Return the names in a directory, without the lock and temporary files.

    Empty if it does not exist.
    """
    found: set[str] = set()
    if directory.is_dir():
        for path in directory.iterdir():
            if _number(directory / LOCK, path.name) < 0 and not path.name.endswith(".tmp"):
                found.add(path.name)
    return found


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _number(path: Path, name: str) -> int:
    """Return the number in the name of a lock's file; -1 for the name of another file."""
    prefix, _, text = name.rpartition(".")
    if prefix == path.name and re.fullmatch("0|[1-9][0-9]*", text):
        return int(text)
    return -1


def _numbers(path: Path) -> set[int]:
    """Return the numbers of a lock's files, and -1.

    The process that created its folder may have removed it.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return {-1, *(_number(path, each.name) for each in path.parent.iterdir())}
    return {-1}


def _read(file: Path) -> tuple[int, int, bytes] | None:
    """Return the inode number, the time and the content of a lock's file; None if it is gone."""
    try:
        with opened(file) as there:
            status = os.fstat(there.fileno())
            return status.st_ino, status.st_mtime_ns, there.read(MAX_LOCK_BYTES)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def _create(watch: Watch) -> Lock | None:
    """Create the next file of a lock that is free; return None if another process was faster."""
    path = watch.path
    number = watch.number + 1
    file = _file(path, number)
    if watch.has_changed():  # it is in use: with a new file, its holder would take it for lost
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:
        # Others have removed the folder above, or nothing can be created in it, as in /proc.
        if path.parent.parent.is_dir():
            raise
        return None
    except FileExistsError:
        # Others have removed the folder after it was found.
        if _is_no_folder(path.parent):
            raise
        return None
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except (FileExistsError, FileNotFoundError):
        # Others have created the file, or created and removed the folder.
        if _is_no_folder(path.parent):
            raise
        return None
    taken = None
    numbers: set[int] = set()
    try:
        with os.fdopen(descriptor, "wb") as opened:
            inode = os.fstat(descriptor).st_ino
            content = _this_process()
            opened.write(content)
        numbers = _numbers(path)
        # Otherwise this process was suspended since it looked, and others were faster; or a
        # suspended holder goes on.
        if max(numbers) == number and not watch.has_changed():
            taken = Lock(path, number, (inode, content))
    finally:
        if taken is None:
            file.unlink(missing_ok=True)
    if taken is None:
        return None
    for older in numbers - {number, -1}:
        with contextlib.suppress(OSError):  # of another user; it does not count any more
            _file(path, older).unlink()
    return taken


def _is_no_folder(path: Path) -> bool:
    """Return whether there is something else than a folder, also a link to nothing."""
    return os.path.lexists(path) and not path.is_dir()


def _this_process() -> bytes:
    """Return the content of a lock's file."""
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    job = os.environ.get(JOB, "")
    holder = Holder(os.getpid(), platform.node(), _machine(), _began(os.getpid()), now, job)
    return json.dumps(asdict(holder)).encode() + b"\n"


@functools.cache
def _machine() -> str:
    """Return a value that is equal only for processes that see each other's process ids.

    Empty if there is none.
    """
    if sys.platform != "linux":
        return f"{platform.node()} {uuid.getnode():x}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        processes = Path("/proc/self/ns/pid").readlink()
        # Not /proc of an outer container.
        is_own = str(Path("/proc/self").readlink()) == str(os.getpid())
    except OSError:
        return ""
    if is_own:
        return f"{platform.node()} {boot} {processes}"
    return ""


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's ticks.

    `ended` for a zombie, empty if that can't be told.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return "ended"
    return fields[19]

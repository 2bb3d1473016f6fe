"""Leases: locks that need nothing of a file system but the exclusive creation of files.

`flock` is missing on many clusters' file systems, or locks on one node alone. A lease on `path` is a file `path.N`;
the one with the largest N counts. Its holder touches it every `HEARTBEAT_S` seconds, and writes `free` into it at the
end. The next holder creates `path.N+1`, which only one process can do, and removes the older files.

A holder on this machine is known to be gone when its process is. For a holder on another machine, a waiting process
checks whether the file's modification time changes, without comparing clocks. A holder that was suspended checks
before it writes that it still has the lease, see `Lease.check`.
"""

import contextlib
import errno
import functools
import json
import os
import platform
import random
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.run.files import read_bytes
from leyden.scheduler import job_id

HEARTBEAT_S = 10.0
STALE_S = 60.0  # a lease that does not change for so long is free
MAX_PAUSE_S = 0.5
MAX_NUMBER = 10**15
ANNOUNCE_S = 5.0  # waiting for longer is announced
FREE = b"free\n"
State = Literal["free", "held", "unknown"]


class LeaseHeldError(UserError):
    """Another process holds a lease."""


@dataclass(frozen=True)
class Holder:
    """A process that holds a lease, as it describes itself in the lease's file.

    Args:
        pid: Its process id.
        host: Name of its machine.
        machine: Value that is equal only for processes that see each other's process ids.
        began: When the process began, by the clock of its machine's kernel.
        time: When it took the lease, for messages.
        job: Id of the cluster's job that it belongs to, empty without one.
        inode: Inode number of the lease's file; another one there means that the file is a copy.
    """

    pid: int = 0
    host: str = ""
    machine: str = ""
    began: str = ""
    time: str = ""
    job: str = ""
    inode: int = 0

    @classmethod
    def of(cls, content: bytes) -> "Holder":
        """Return the holder in a lease's file; one without a machine if the file is damaged or being written."""
        try:
            return cls(**{key: type(getattr(cls, key))(value) for key, value in json.loads(content).items()})
        except (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError):
            return cls()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.time}" if self.pid else "another process"


class Watch:
    """Observation of one lease by a process that does not hold it.

    Args:
        path: Path of the lease.
        ended_job: Id of a cluster's job that has ended, by the scheduler's word, so that its leases are free.
    """

    def __init__(self, path: Path, ended_job: str = "") -> None:
        self.path, self.ended_job = path, ended_job
        self.holder = Holder()
        self.number = -1  # of the newest file; -1 if there is none
        self._judged: tuple[Path, int, int] | None = None  # the file, its inode number and time; None without one
        self._seen: tuple[int, int, bytes] | None = None
        self._has_acted = False
        self._unchanged_s = 0.0
        self._looked_at = 0.0

    def state(self) -> State:
        """Look at the lease and return its state.

        For a holder on another machine, it is `held` while the file changes, `free` when the file has not changed
        for `STALE_S` seconds, and `unknown` otherwise.

        Raises:
            OSError: The folder or the file can't be read.
        """
        started, self._judged = time.monotonic(), None
        try:
            self.number = max(_numbers(self.path))
        except FileNotFoundError:  # the folder was removed by the process that created it
            self.number = -1
        if self.number < 0:
            return "free"
        file = _file(self.path, self.number)
        try:
            status, content = file.stat(), read_bytes(file, max_bytes=4096)
        except OSError as error:
            if error.errno in GONE:  # just replaced
                return "unknown"
            raise
        self._judged = file, status.st_ino, status.st_mtime_ns
        if content == FREE:
            return "free"
        self.holder = Holder.of(content)
        if self.ended_job and self.holder.job == self.ended_job:
            return "free"
        if self.holder.machine and self.holder.machine == _machine():
            alive = _is_alive(self.holder)
            # A file with another inode number may be a copy: then its holder does not touch it.
            if alive is False or (alive and self.holder.inode == status.st_ino):
                return "held" if alive else "free"
        return self._observe((self.number, status.st_mtime_ns, content), started)

    def has_changed(self) -> bool:
        """Return whether the file that was looked at last has been touched or replaced since."""
        if self._judged is None:
            return False
        file, inode, touched = self._judged
        try:
            status = file.stat()
        except OSError:
            return True
        return (status.st_ino, status.st_mtime_ns) != (inode, touched)

    def _observe(self, seen: tuple[int, int, bytes], started: float) -> State:
        """Compare the file with the previous look, and return the state.

        Only the time between two looks counts, since a look takes long while the file system does not answer.
        """
        before, self._seen = self._seen, seen
        between = min(started - self._looked_at, 1.5 * HEARTBEAT_S)  # this process may have been suspended
        self._looked_at = time.monotonic()
        if before is None:
            return "unknown"
        self._unchanged_s = self._unchanged_s + between if before == seen else 0.0
        self._has_acted |= before != seen
        if self._unchanged_s >= STALE_S:
            return "free"
        return "held" if self._has_acted and self._unchanged_s < 2 * HEARTBEAT_S else "unknown"


class Lease:
    """A lease that this process holds, from `acquire` to `release`."""

    def __init__(self, path: Path, number: int, inode: int) -> None:
        self.path, self.number, self.inode, self.file = path, number, inode, _file(path, number)
        self.is_lost = False
        self._pid = os.getpid()
        self._beaten_at = _clock()
        self._problem = ""

    def beat(self) -> None:
        """Touch the file, and note if another process has taken the lease over."""
        now = _clock()
        try:
            os.utime(self.file)
            if max(_numbers(self.path)) > self.number:
                self.is_lost = True
        except OSError as error:
            self._problem = error.strerror or str(error)
            if error.errno in GONE:
                self.is_lost = True
            return
        self._beaten_at = now

    def check(self) -> None:
        """Check, before a write, that this process still holds the lease.

        Others wait `STALE_S` seconds for a heartbeat, so the file is looked at only if the last one is old.

        Raises:
            UserError: It does not, or the file system can't tell.
        """
        if not self.is_lost and _clock() - self._beaten_at > STALE_S / 2:
            self.beat()
        if self.is_lost:
            raise UserError(f"{self.path.parent}: was taken over by another process while this one was suspended")
        if _clock() - self._beaten_at > STALE_S / 2:
            raise UserError(
                f"{self.path.parent}: another process may have taken over, since this one can't reach it "
                f"({self._problem})"
            )

    def release(self) -> None:
        """Free the lease; without effect if another process has taken it over, or in a forked process."""
        _HELD.discard(self)
        if self._pid != os.getpid():
            return
        with contextlib.suppress(OSError, UserError):
            self.check()
            with self.file.open("r+b") as file:  # not created if it is gone
                file.truncate()
                file.write(FREE)


GONE = (errno.ENOENT, errno.ESTALE)
_HELD: set[Lease] = set()
_RANDOM = random.Random()  # so that processes that start together do not look together
_STARTING = threading.Lock()


def acquire(path: Path, timeout_s: float | None = None, *, ended_job: str = "") -> Lease:
    """Wait for a lease, and take it; its folder is created.

    Args:
        path: Path that no file has; the lease's files are `path.N` beside it.
        timeout_s: Seconds to wait for a holder that is alive; None to wait indefinitely.
        ended_job: Id of a cluster's job that has ended, so that its leases are free.

    Raises:
        LeaseHeldError: Another process holds it.
        OSError: The folder can't be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _start_heartbeats()
    watch, pause, began, is_announced = Watch(path, ended_job), 0.005, time.monotonic(), False
    while (state := watch.state()) != "free" or (lease := _create(watch)) is None:
        waited = time.monotonic() - began
        limit = None if timeout_s is None else timeout_s if state == "held" else timeout_s + 2 * STALE_S
        if limit is not None and waited >= limit:
            raise LeaseHeldError(f"{path.parent}: in use by {watch.holder}")
        if waited > ANNOUNCE_S and not is_announced:
            is_announced = True
            warn(f"{path.parent}: waiting for {watch.holder}")
        time.sleep(pause * (0.5 + _RANDOM.random()))
        pause = min(1.5 * pause, MAX_PAUSE_S)
    return lease


@contextlib.contextmanager
def hold(path: Path, timeout_s: float | None = None) -> Iterator[Lease]:
    """Hold a lease while the context is entered, see `acquire`."""
    lease = acquire(path, timeout_s)
    try:
        yield lease
    finally:
        lease.release()


def is_held(path: Path) -> bool:
    """Return, without waiting, whether a process holds a lease.

    For a process on another machine, this is a guess that compares the file's time with this machine's clock.
    """
    watch = Watch(path)
    try:
        state = watch.state()
        if state == "unknown":
            return abs(time.time() - _file(path, watch.number).stat().st_mtime) < 2 * STALE_S
    except OSError:
        return False
    return state == "held"


def is_file_of(path: Path, name: str) -> bool:
    """Return whether a file name in the folder of `path` is one of the lease's files."""
    return _number(path, name) >= 0


def _file(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


def _number(path: Path, name: str) -> int:
    """Return the number in the name of a lease's file; -1 for the name of another file."""
    prefix, _, text = name.rpartition(".")
    if prefix != path.name or not text.isdecimal() or len(text) > len(str(MAX_NUMBER)):
        return -1
    return number if text == str(number := int(text)) else -1


def _numbers(path: Path) -> set[int]:
    """Return the numbers of a lease's files, and -1."""
    return {-1, *(_number(path, each.name) for each in path.parent.iterdir())}


def _create(watch: Watch) -> Lease | None:
    """Create the next file of a lease that is free; return None if another process was faster.

    Raises:
        UserError: The last file has a number that no process would reach.
    """
    path, number = watch.path, watch.number + 1
    file = _file(path, number)
    if number > MAX_NUMBER:
        raise UserError(f"{_file(path, watch.number)}: was not made by Leyden; remove it")
    if watch.has_changed():  # the lease is in use: with a new file, its holder would take it for lost
        return None
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return None
    except FileNotFoundError:  # the folder was removed by the process that created it
        path.parent.mkdir(parents=True, exist_ok=True)
        return None
    lease = Lease(path, number, os.fstat(descriptor).st_ino)
    _HELD.add(lease)  # before its content is there: else another thread would judge that its holder is gone
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(_this_process(lease.inode))
        numbers = _numbers(path)
        # This process was suspended since it looked, and others were faster; or a suspended holder goes on.
        is_late = max(numbers) != number or watch.has_changed()
    except BaseException:
        _HELD.discard(lease)
        file.unlink(missing_ok=True)
        raise
    if is_late:
        _HELD.discard(lease)
        file.unlink(missing_ok=True)
        return None
    for older in numbers - {number, -1}:
        with contextlib.suppress(OSError):  # of another user; it does not count any more
            _file(path, older).unlink()
    return lease


def _this_process(inode: int) -> bytes:
    """Return the content of a lease's file."""
    holder = Holder(
        os.getpid(),
        platform.node(),
        _machine(),
        _began(os.getpid()),
        time.strftime("%Y-%m-%d %H:%M:%S"),
        job_id() or "",
        inode,
    )
    return json.dumps(asdict(holder)).encode() + b"\n"


@functools.cache
def _machine() -> str:
    """Return a value that is equal only for processes that see each other's process ids; empty if there is none."""
    if sys.platform != "linux":
        return f"{platform.node()} {uuid.getnode():x}"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        is_own = str(Path("/proc/self").readlink()) == str(os.getpid())  # not /proc of an outer container
        spaces = [str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in ("pid", "time") if is_own]
    except OSError:
        return ""
    return " ".join([platform.node(), boot, *spaces]) if is_own else ""


def _is_alive(holder: Holder) -> bool | None:
    """Return whether a process of this machine is alive; None if that can't be told."""
    if sys.platform == "win32" or not 0 < holder.pid < 2**31:  # on Windows, `os.kill` would end the process
        return None
    if holder.pid == os.getpid() and holder.began == _began(holder.pid):
        return holder.inode in {lease.inode for lease in list(_HELD)}
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return None
    began = _began(holder.pid)
    return began == holder.began if began else None  # the id may have passed to another process


def _began(pid: int) -> str:
    """Return when a process began, in the kernel's ticks; `ended` for a zombie, empty if that can't be told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


def _clock() -> float:
    """Return the time, in seconds, of a clock that does not stop while this machine is suspended."""
    # On macOS, `time.monotonic` would stand still.
    clock = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))
    return time.monotonic() if clock is None else time.clock_gettime(clock)


def _start_heartbeats() -> None:
    """Start the thread that touches the files of this process's leases, unless it runs."""
    global _thread
    with _STARTING:
        if _thread is None:
            thread = threading.Thread(target=_beat_for_ever, name="leases", daemon=True)
            thread.start()
            _thread = thread


def _beat_for_ever() -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        for lease in list(_HELD):
            lease.beat()


def _forget() -> None:
    """Clear the list of leases in a forked process, which does not inherit the heartbeat thread."""
    global _thread, _STARTING
    _thread, _STARTING = None, threading.Lock()
    _HELD.clear()


_thread: threading.Thread | None = None
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

"""Processes of one training: what is said when one dies, and the lock of a training's folder.

The lock is a record lock of the operating system, as it ends with the process that holds it, also
after SIGKILL and beside its worker processes, which a lock by `flock` would outlive with them.
"""

import contextlib
import errno
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from leyden.exact import ExactError
from leyden.exact.files import opened

# Environment variables of torchrun, of Lightning and of srun, in Lightning's order: a process that
# Lightning starts within a job inherits the job's variables, too.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
DIED = 71  # exit code where another process has died: EX_OSERR of sysexits.h
REFUSED = 2  # exit code of several processes that can't resume
GLOO = re.compile(
    r"(Gloo connectFullMesh failed with )?\[(enforce fail at )?\S*gloo/transport/\S+:\d+\]"
)
WATCH_S = 0.2
SEEN_S = 2.0  # from a connection that breaks to the end of the process at its other side
# Until rank zero, or what has started it, ends the processes that have found the same mistake.
TOLD_S = 10.0
ABORT_GRACE_S = 5.0  # for the main thread, which may have an error of its own
MAX_ERROR_LENGTH = 200  # characters of a connection's error
LOCK_FILE = "checkpoints/lock"
START_LOCK_TIMEOUT_S = 2.0  # a start before may be about to end


class LostError(RuntimeError):
    """Another process of this training has ended.

    Args:
        message: How it has ended, in words.
        code: The exit code that this process should have.
    """

    def __init__(self, message: str, code: int = DIED) -> None:
        super().__init__(message)
        self.code = code


def is_communication_error(error: BaseException, num_processes: int) -> bool:
    """Return whether an error is, or comes from, failed communication between processes."""
    of_torch = getattr(sys.modules.get("torch.distributed"), "DistError", ())
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        if isinstance(cause, of_torch):
            return True
        if type(cause) is RuntimeError and num_processes > 1 and GLOO.match(str(cause)):
            return True
        chain.append(cause)
        cause = cause.__cause__
    return False


class Peers:
    """The processes that Lightning's launcher has started beside this one, of rank zero.

    Lightning looks after them in a thread, which ends this process by SIGKILL when one of them has
    failed, and prints nothing. This class takes them over.

    Args:
        say: Prints a line.
        end: Ends this process at once, from a thread, with an exit code.
    """

    def __init__(self, say: Callable[[str], None], end: Callable[[int], Any] = os._exit) -> None:
        self._say = say
        self._end = end
        self._started: list[subprocess.Popen[Any]] = []
        self._has_failed = threading.Event()  # this process itself, so that it is about to end
        self._has_trained = threading.Event()

    @contextlib.contextmanager
    def watched(self, trainer: Any) -> Iterator[None]:
        """Context of a training.

        Raises:
            LostError: A connection broke, as the process at its other side has ended.
        """
        strategy = trainer.strategy
        original = strategy.setup_environment

        def setup_environment() -> None:  # the first method that Lightning calls after the launch
            del strategy.setup_environment
            self._take_over(strategy.launcher)
            original()

        strategy.setup_environment = setup_environment
        try:
            yield
            self._has_trained.set()
        except Exception as error:
            self._has_failed.set()
            if not is_communication_error(error, trainer.world_size):
                self._kill()
                raise
            raise self._lost(error) from error
        except BaseException:
            self._has_failed.set()
            raise
        finally:
            vars(strategy).pop("setup_environment", None)

    def _take_over(self, launcher: Any) -> None:
        found = getattr(launcher, "procs", [])
        self._started = [each for each in found if isinstance(each, subprocess.Popen)]
        if not self._started:
            return
        launcher.procs = self._started
        found.clear()  # the list that Lightning's thread looks at
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def _watch(self) -> None:
        """End this process, if one of the others has failed and this one hangs.

        Gloo may abort a process at its very end, after all that it had to do
        (https://github.com/pytorch/pytorch/issues/190489): then nothing waits for it.
        """
        dead = self._dead()
        while dead is None:
            if all(each.poll() == 0 for each in self._started):
                return
            time.sleep(WATCH_S)
            dead = self._dead()
        if self._has_failed.wait(ABORT_GRACE_S):
            return
        _, code = dead
        if self._has_trained.is_set() and code == -signal.SIGABRT:
            return
        error = self._lost()
        self._say(f"{error}; the same command resumes")
        self._end(error.code)

    def _dead(self) -> tuple[int, int] | None:
        """Return rank on this node and exit code of a process that has failed.

        One that a signal has ended comes first.
        """
        codes = [(rank, each.poll()) for rank, each in enumerate(self._started, 1)]
        failed = sorted((code, rank) for rank, code in codes if code)
        if not failed:
            return None
        code, rank = failed[0]
        return rank, code

    def _lost(self, error: Exception | None = None) -> LostError:
        """Wait for the end of the process that was lost, and return how it has ended.

        Args:
            error: That of the connection to it, which is all that is known of a process of another
                machine.
        """
        given_up = time.monotonic()
        if self._started:
            given_up += SEEN_S
        dead = self._dead()
        while dead is None and time.monotonic() < given_up:
            time.sleep(WATCH_S / 4)
            dead = self._dead()
        if dead is None:
            text = "another process has died, out of memory if no error stands above"
            if error:
                line = " ".join(str(error).split())
                text += f" ({type(error).__name__}: {line[:MAX_ERROR_LENGTH]})"
            return LostError(text)
        rank, code = dead
        if code > 0:
            return LostError(f"the process of rank {rank} has ended with exit code {code}", code)
        self._kill()
        name = signal.Signals(-code).name
        why = ", perhaps out of memory" if name == "SIGKILL" else ""
        return LostError(f"the process of rank {rank} has died by {name}{why}")

    def _kill(self) -> None:
        for each in self._started:
            each.kill()


@contextlib.contextmanager
def only_training(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a folder, so that no other training writes into it.

    Where the file system has no locks, this is said, and the training goes on.

    Raises:
        ExactError: Another training holds it.
    """
    file = folder / LOCK_FILE
    with contextlib.ExitStack() as held:
        try:
            _lock(file, held)
        except OSError as error:
            why = error.strerror or error
            say(f"{file}: can't be locked ({why}); start this training once at a time")
        yield


def _lock(file: Path, held: contextlib.ExitStack) -> None:
    descriptor = held.enter_context(opened(file, "ab+")).fileno()
    given_up = time.monotonic() + START_LOCK_TIMEOUT_S
    while True:
        try:
            _try_lock(descriptor)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            if time.monotonic() > given_up:
                os.lseek(descriptor, 0, os.SEEK_SET)
                holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
                raise ExactError(
                    f"{file.parent.parent}: in use by {holder}; wait for its end, or choose "
                    f"another folder (if its machine is gone, delete {file})"
                ) from error
        time.sleep(WATCH_S / 2)
    if os.fstat(descriptor).st_nlink > 1:  # it is another file, too, which must not change
        return
    os.ftruncate(descriptor, 0)
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    os.write(descriptor, f"process {os.getpid()} on {platform.node()}, since {now}".encode())


def _try_lock(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 2**20, os.SEEK_SET)  # behind the text, which others read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

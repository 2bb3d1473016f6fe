"""Signals that end a training which has time to save.

They are received, agreed on by all processes, and obeyed.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import distributed

from leyden.exact.job import requeue_job
from leyden.exact.memory import is_rank_zero

REQUEUE: int | None = getattr(signal, "SIGUSR1", None)  # None on Windows


def leave_process(code: int, cause: BaseException | None = None) -> NoReturn:
    """End this process with an exit code."""
    raise SystemExit(code) from cause


def in_main_thread() -> bool:
    """Return whether this is the thread that may set how signals are handled."""
    return threading.current_thread() is threading.main_thread()


class Signals:
    """Ends a training on SIGTERM, SIGUSR1, or the first Ctrl-C.

    On SIGUSR1, a requeue is requested. SIGTERM is sent by `scancel`, `scontrol requeue`, or anyone
    who wants to end the process; restarting is then up to the sender. A second Ctrl-C ends the run
    at once, without saving.

    Args:
        requeue: Has `received`, the number of SIGUSR1 once it came, `requeue()`, and whether that
            `is_requested` already; None to receive the signal here, and requeue a job of Slurm.
        leave: Ends the process with an exit code, 128 + signal number; it may have a cause.
    """

    def __init__(self, requeue: Any = None, leave: Callable[..., NoReturn] = leave_process) -> None:
        self.requeue = requeue
        self.leave = leave
        self.received = 0  # signal received by this process
        self.agreed = 0  # signal received by any process, and known to all
        self._group: Any = None
        self._reduction: Any = None
        self._reduced = torch.tensor(0)

    def receive(self, number: int, frame: Any) -> None:
        """Record the first signal.

        Raises:
            KeyboardInterrupt: On the second Ctrl-C.
            SystemExit: The job is requeued already, as no step came to save at.
        """
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        if number == signal.SIGINT and is_rank_zero():
            # Unbuffered, since the signal may have interrupted a print.
            text = (
                "Ctrl-C: the run saves after this step, and ends. Another Ctrl-C ends it at once."
            )
            os.write(2, f"\n{text}\n".encode())
        if number == signal.SIGTERM and self.requeue and self.requeue.is_requested:
            self.leave(128 + number)
        self.received = self.received or number

    def catch(self) -> None:
        """Install the handlers of SIGTERM and SIGUSR1."""
        if distributed.is_initialized() and distributed.get_world_size() > 1:
            self._group = distributed.new_group(backend="gloo")
        if not in_main_thread():
            return
        signal.signal(signal.SIGTERM, self.receive)
        if REQUEUE and self.requeue is None:
            signal.signal(REQUEUE, self.receive)
            # Blocked by who started Python, until now.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})

    def agree(self) -> int:
        """Return the signal that any process has received, the same one in all at the same step."""
        received = self.received
        if self.requeue and not received:
            received = self.requeue.received
        if self._group is None:
            self.agreed = received
            return received
        # The result is used one step later, so that no step waits for the reduction or synchronizes
        # with the GPU.
        if self._reduction is not None:
            self._reduction.wait()
            self.agreed = int(self._reduced)
        self._reduced = torch.tensor(received)
        self._reduction = None
        if not self.agreed:
            self._reduction = distributed.all_reduce(
                self._reduced, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return self.agreed

    def finish(self) -> None:
        """Complete the pending reduction."""
        if self._reduction is not None:
            self._reduction.wait()

    def obey(self) -> NoReturn:
        """End this process, when everything is saved."""
        if self.agreed == REQUEUE and is_rank_zero():
            if self.requeue:
                self.requeue.requeue()
            else:
                requeue_job()
        if self._group is not None:
            # srun would kill the process of rank 0 when another one ends.
            distributed.barrier(self._group)
        if in_main_thread():
            # Another Ctrl-C would only disturb the shutdown.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.leave(128 + self.agreed)

"""A stop that has time: on a signal, save at the next step boundary, train one batch more, and end the process."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

import lightning as L
import torch
from torch import distributed

from leyden.exact.checkpoint import LastCheckpoint
from leyden.exact.report import is_rank_zero
from leyden.exact.steps import Steps

REQUEUE: int | None = getattr(signal, "SIGUSR1", None)  # None on Windows


class Requeue(Protocol):
    """A cluster's scheduler, which sends SIGUSR1 before a time limit.

    Attributes:
        received: The number of the signal; 0 before it came.
        is_requested: Whether the job was requeued.
    """

    received: int
    is_requested: bool

    def requeue(self) -> Any:
        """Put this process's job back into the queue."""


def leave(code: int, cause: BaseException | None = None) -> NoReturn:
    """End this process with an exit code."""
    raise SystemExit(code) from cause


class Stop(L.Callback):
    """Saves after the next optimizer step on SIGTERM, SIGUSR1 or the first SIGINT (Ctrl-C), and ends the process.

    One batch more is trained, and recorded, so that the resumed run has something to compare (`Steps`).

    On SIGUSR1, a requeue is requested. SIGTERM is sent by `scancel`, `scontrol requeue`, or anyone who wants to end the
    process; restarting is then up to the sender. A second Ctrl-C ends the run at once, without saving.

    Args:
        checkpoint: Saves and commits `last.ckpt`.
        steps: Records the last batch.
        requeue: Receives SIGUSR1, and requeues this process's job.
        leave: Ends the process with an exit code, 128 + signal number; it may have a cause.

    Raises:
        SystemExit: During training, after saving.
    """

    def __init__(
        self, checkpoint: LastCheckpoint, steps: Steps, requeue: Requeue, leave: Callable[..., NoReturn] = leave
    ) -> None:
        self.checkpoint, self.steps, self.requeue, self.leave = checkpoint, steps, requeue, leave
        self._signal = 0  # signal received by this process
        self._agreed = 0  # signal received by any process, and known to all
        self._step = 0
        self._reduction: Any = None
        self._reduced_signal = torch.tensor(0)

    @contextlib.contextmanager
    def interruptible(self, trainer: L.Trainer) -> Iterator[None]:
        """Context in which Ctrl-C ends training like SIGTERM.

        Enter it before training starts: worker processes that load data start there and inherit the handler, and a
        terminal sends the signal to all processes.

        Raises:
            SystemExit: Training was interrupted, and everything is saved.
        """
        is_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        if not is_main_thread or before == signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
            stopped: BaseException | None = None
        except Exception as error:
            if self._signal != signal.SIGINT:
                raise
            stopped = error  # such as of a worker process: the terminal sends Ctrl-C to all processes
        finally:
            signal.signal(signal.SIGINT, before)
        # Without an error, the signal came after the last step: training is complete, and everything is saved.
        if self._signal == signal.SIGINT and (stopped or trainer.world_size == 1):
            self.leave(128 + signal.SIGINT, stopped)

    def _interrupt(self, number: int, frame: Any) -> None:
        """Record the first Ctrl-C.

        Raises:
            KeyboardInterrupt: On the second Ctrl-C.
        """
        if self._signal:
            raise KeyboardInterrupt
        self._record_signal(number, frame)
        if is_rank_zero():  # unbuffered, since the signal may have interrupted a print
            os.write(2, b"\nCtrl-C: the run saves after this step, and ends. Another Ctrl-C ends it at once.\n")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Install the handler of SIGTERM; Lightning restores the previous one after training."""
        self._step = trainer.global_step
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._terminate)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Save if a signal was received; after the batch that follows, end the run.

        After an epoch's last step, a checkpoint is written after validation anyway.
        """
        if self.steps.is_last:
            self._end(trainer)
        if trainer.global_step != self._step:  # right after a step, no gradients are accumulated
            self._step = trainer.global_step
            self._agreed = self._agree(trainer)
            if self._agreed and not trainer.is_last_batch:
                self.checkpoint.save_last(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Let the last batch be recorded if all processes know of a signal; the step before has been logged by now."""
        if self._agreed:
            self.checkpoint.commit(trainer)
            self.steps.is_last = True

    def _end(self, trainer: L.Trainer) -> None:
        if self._agreed == REQUEUE and trainer.is_global_zero:
            self.requeue.requeue()
        if trainer.world_size > 1:
            distributed.barrier(self._group)  # srun would kill the process of rank 0 when another one ends
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would only disturb the shutdown
        self.leave(128 + self._agreed)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the pending reduction."""
        if self._reduction is not None:
            self._reduction.wait()

    def _record_signal(self, number: int, frame: Any) -> None:
        self._signal = self._signal or number

    def _terminate(self, number: int, frame: Any) -> None:
        """Record SIGTERM.

        Raises:
            SystemExit: The job is requeued already, as no step came to save at.
        """
        if self.requeue.is_requested:
            self.leave(128 + number)
        self._record_signal(number, frame)

    def _agree(self, trainer: L.Trainer) -> int:
        """Return the signal that any process has received; all processes return the same value at the same step."""
        received = self._signal or self.requeue.received
        if trainer.world_size == 1:
            return received
        # The result is used one step later, so that no step waits for the reduction or synchronizes with the GPU.
        agreed = 0
        if self._reduction is not None:
            self._reduction.wait()
            agreed = int(self._reduced_signal)
        self._reduced_signal = torch.tensor(received)
        self._reduction = None
        if not agreed:
            self._reduction = distributed.all_reduce(
                self._reduced_signal, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed

"""Preemption: on a signal, save at the next step boundary, train one batch more, and end the run, so that it can resume."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import distributed

from leyden.config.errors import Exit, leave
from leyden.exact.steps import Steps
from leyden.run.process import is_main_process
from leyden.scheduler.requeue import SIGNAL, RequeueSignal


class Preemption(L.Callback):
    """Saves after the next optimizer step on SIGTERM, SIGUSR1 or the first SIGINT (Ctrl-C), and ends the run.

    One batch more is trained, and recorded, so that the resumed run has something to compare (`Steps`).

    On SIGUSR1, see `RequeueSignal`, the callback requests a requeue. SIGTERM is sent by `scancel`, `scontrol requeue`, or
    anyone who wants to end the process; restarting is then up to the sender. A second Ctrl-C ends the run at once,
    without saving.

    Args:
        requeue_signal: Receiver of SIGUSR1.
        save: Function that prepares `last.ckpt`.
        commit: Function that commits the prepared checkpoints.
        steps: Records the last batch.

    Raises:
        SystemExit: During training, after saving; with code 128 + signal number.
    """

    def __init__(
        self,
        requeue_signal: RequeueSignal,
        save: Callable[[L.Trainer], None],
        commit: Callable[[L.Trainer], None],
        steps: Steps,
    ) -> None:
        self.requeue_signal, self.save, self.commit, self.steps = requeue_signal, save, commit, steps
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
            leave(Exit.INTERRUPTED, stopped)

    def _interrupt(self, number: int, frame: Any) -> None:
        """Record the first Ctrl-C.

        Raises:
            KeyboardInterrupt: On the second Ctrl-C.
        """
        if self._signal:
            raise KeyboardInterrupt
        self._record_signal(number, frame)
        if is_main_process():  # unbuffered, since the signal may have interrupted a print
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
                self.save(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """Let the last batch be recorded if all processes know of a signal; the step before has been logged by now."""
        if self._agreed:
            self.commit(trainer)
            self.steps.is_last = True

    def _end(self, trainer: L.Trainer) -> None:
        if self._agreed == SIGNAL and trainer.is_global_zero:
            self.requeue_signal.requeue()
        if trainer.world_size > 1:
            distributed.barrier(self._group)  # srun would kill the process of rank 0 when another one ends
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would only disturb the shutdown
        leave(128 + self._agreed)

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
        if self.requeue_signal.is_requested:
            leave(128 + number)
        self._record_signal(number, frame)

    def _agree(self, trainer: L.Trainer) -> int:
        """Return the signal that any process has received; all processes return the same value at the same step."""
        received = self._signal or self.requeue_signal.received
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

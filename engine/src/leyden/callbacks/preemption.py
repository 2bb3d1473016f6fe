"""Preemption: on a signal, save at the next step boundary and end the run, so that it can resume."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import distributed

from leyden.run.process import is_main_process
from leyden.scheduler import current

REQUEUE: int | None = getattr(signal, "SIGUSR1", None)  # None on Windows, which can't block signals either


class Preemption(L.Callback):
    """Ends the run after the next optimizer step on SIGTERM, SIGUSR1 or the first SIGINT (Ctrl-C).

    Slurm sends SIGUSR1 some time before the time limit, or when another job needs the nodes; the callback then
    requests a requeue. SIGTERM is sent by `scancel`, `scontrol requeue`, or anyone who wants to end the process;
    restarting is then up to the sender. A second Ctrl-C ends the run at once, without saving. A SIGUSR1 that was
    blocked while Python was importing is handled when training starts.

    Args:
        save: Function that prepares `last.ckpt`.
        commit: Function that commits the prepared checkpoints.

    Raises:
        SystemExit: During training, after saving; with code 128 + signal number.
    """

    def __init__(
        self,
        save: Callable[[L.Trainer], None],
        commit: Callable[[L.Trainer], None],
    ) -> None:
        self.save, self.commit = save, commit
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
            raise SystemExit(128 + signal.SIGINT) from stopped

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
        """Install the signal handlers; Lightning restores the previous ones after training."""
        self._step = trainer.global_step
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._record_signal)
            if REQUEUE is not None:
                signal.signal(REQUEUE, self._record_signal)
                self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Save if a signal was received.

        After an epoch's last step, a checkpoint is written after validation anyway.
        """
        if trainer.global_step != self._step:  # right after a step, no gradients are accumulated
            self._step = trainer.global_step
            self._agreed = self._agree(trainer)
            if self._agreed and not trainer.is_last_batch:
                self.save(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """End the run if all processes know of a signal; the previous step's metrics have been logged by now."""
        if not self._agreed:
            return
        self.commit(trainer)
        if self._agreed == REQUEUE and (scheduler := current()) and trainer.is_global_zero:
            problem = scheduler.requeue()
            print(f"requeue of job {scheduler.job_id()}: {problem or 'requested'}", file=sys.stderr)
        if trainer.world_size > 1:
            distributed.barrier(self._group)  # srun would kill the process of rank 0 when another one ends
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another Ctrl-C would only disturb the shutdown
        raise SystemExit(128 + self._agreed)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Complete the pending reduction; restore the signal mask, as the little work left needs no requeue."""
        if REQUEUE is not None and threading.current_thread() is threading.main_thread():
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if self._reduction is not None:
            self._reduction.wait()

    def _record_signal(self, number: int, frame: Any) -> None:
        self._signal = self._signal or number

    def _agree(self, trainer: L.Trainer) -> int:
        """Return the signal that any process has received; all processes return the same value at the same step."""
        if trainer.world_size == 1:
            return self._signal
        # The result is used one step later, so that no step waits for the reduction or synchronizes with the GPU.
        agreed = 0
        if self._reduction is not None:
            self._reduction.wait()
            agreed = int(self._reduced_signal)
        self._reduced_signal = torch.tensor(self._signal)
        self._reduction = None
        if not agreed:
            self._reduction = distributed.all_reduce(
                self._reduced_signal, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed

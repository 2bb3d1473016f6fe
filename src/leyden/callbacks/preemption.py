"""Saves and ends a run that is told to stop, at a step boundary, so that it can go on where it was."""

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

REQUEUE: int | None = getattr(signal, "SIGUSR1", None)  # Windows has none, and blocks no signals


class Preemption(L.Callback):
    """Ends the run after the next optimizer step when SIGTERM, SIGUSR1 or a first SIGINT (Ctrl-C) has come.

    Slurm sends SIGUSR1 some time before the time limit, or when another job needs the nodes: then this asks for a
    requeue. SIGTERM comes with `scancel` and `scontrol requeue`, and from whoever wants a process to end: then what
    follows is their business. A second Ctrl-C ends it at once, and saves nothing. A SIGUSR1 that was blocked while Python was importing is found when training starts.

    Args:
        save: Prepares the newest checkpoint.
        commit: Lets it take its name.

    Raises:
        SystemExit: In training, after saving; 128 + the number of the signal.
    """

    def __init__(
        self,
        save: Callable[[L.Trainer], None],
        commit: Callable[[L.Trainer], None],
    ) -> None:
        self.save, self.commit = save, commit
        self._signal = 0  # that has come here
        self._agreed = 0  # that has come to any process, and that all of them know of
        self._step = 0
        self._asked: Any = None
        self._answer = torch.tensor(0)

    @contextlib.contextmanager
    def interruptible(self, trainer: L.Trainer) -> Iterator[None]:
        """Let Ctrl-C end a training within this context as SIGTERM does.

        It begins before the training: processes that load data are started there, and a terminal sends the signal to
        all. They are copies that have this handler.

        Raises:
            SystemExit: The training was interrupted, and has saved what it had to.
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
            stopped = error  # as of a process that loads data, which the terminal has interrupted, too
        finally:
            signal.signal(signal.SIGINT, before)
        # After the last step there was no other one at which it could end; all is saved by now.
        if self._signal == signal.SIGINT and (stopped or trainer.world_size == 1):
            raise SystemExit(128 + signal.SIGINT) from stopped

    def _interrupt(self, number: int, frame: Any) -> None:
        """Remember the first Ctrl-C.

        Raises:
            KeyboardInterrupt: It is the second one.
        """
        if self._signal:
            raise KeyboardInterrupt
        self._remember(number, frame)
        if is_main_process():  # unbuffered: the signal can have come within a print
            os.write(2, b"\nCtrl-C: the run saves after this step, and ends. Another Ctrl-C ends it at once.\n")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Listen; Lightning takes the handlers back after training."""
        self._step = trainer.global_step
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._remember)
            if REQUEUE is not None:
                signal.signal(REQUEUE, self._remember)
                self._mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Save, if a signal has come; the last step of an epoch is saved after validation anyway."""
        if trainer.global_step != self._step:  # right after a step no gradients are under way
            self._step = trainer.global_step
            self._agreed = self._agree(trainer)
            if self._agreed and not trainer.is_last_batch:
                self.save(trainer)

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        """End; what was logged with the step before is written by now."""
        if not self._agreed:
            return
        self.commit(trainer)
        if self._agreed == REQUEUE and (scheduler := current()) and trainer.is_global_zero:
            problem = scheduler.requeue()
            print(f"requeue of job {scheduler.job_id()}: {problem or 'asked for'}", file=sys.stderr)
        if trainer.world_size > 1:
            distributed.barrier(self._group)  # srun would end the first process with the others
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would only disturb the end
        raise SystemExit(128 + self._agreed)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave no question open, and no signal without a handler: what is left to do is short."""
        if REQUEUE is not None and threading.current_thread() is threading.main_thread():
            signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        if self._asked is not None:
            self._asked.wait()

    def _remember(self, number: int, frame: Any) -> None:
        self._signal = self._signal or number

    def _agree(self, trainer: L.Trainer) -> int:
        """The signal that has come to any of the processes: the same for all of them at the same step."""
        if trainer.world_size == 1:
            return self._signal
        # The answer is waited for a step later: it costs no step anything, not even a look at the GPU.
        agreed = 0
        if self._asked is not None:
            self._asked.wait()
            agreed = int(self._answer)
        self._answer = torch.tensor(self._signal)
        self._asked = None
        if not agreed:
            self._asked = distributed.all_reduce(
                self._answer, distributed.ReduceOp.MAX, group=self._group, async_op=True
            )
        return agreed

"""A trainer's stop that has time, and its steps beyond a checkpoint, as callbacks.

On a signal, the run saves at the next step boundary, trains one batch more, and ends the process.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from leyden.exact.last import LastCheckpoint
from leyden.exact.marks import mark
from leyden.exact.memory import say
from leyden.exact.signals import Signals, in_main_thread, leave_process
from leyden.exact.steps import StepRecord, resume_line

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class Steps(StepRecord):
    """The record of a trainer's steps.

    Recorded are losses of every `log_every_n_steps`-th batch, among others. A step without a loss,
    as in manual optimization, has the logged metrics in its place.
    """

    state_key = "Steps"  # fixed key in the checkpoint, independent of the class name
    resumes_from: Path | None = None  # the checkpoint to name at a resume

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Let all processes compare at the same steps, and report a resume."""
        self.begin()
        if self.resumes_from:
            say(resume_line(self.resumes_from, trainer.global_step, trainer.current_epoch))

    def on_save_checkpoint(self, *args: Any) -> None:
        """Record the next batch."""
        self.saved()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Record and compare a batch, if it is due."""
        self.batch += 1
        if not self.is_due(trainer.log_every_n_steps):  # type: ignore[attr-defined]
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        found: dict[str, Any] = dict(trainer.callback_metrics)
        if isinstance(loss, Tensor):
            found = {"loss": loss}
        self.end(found, trainer.optimizers, [pl_module])

    def on_train_end(self, *args: Any) -> None:
        """Delete the file: the run's last checkpoint is that of its last step."""
        self.delete()


class Stop(Signals):
    """Saves after the next step on SIGTERM, SIGUSR1 or the first Ctrl-C, and ends the process.

    One batch more is trained, and recorded, so that the resumed run has something to compare
    (`Steps`).

    Args:
        checkpoint: Saves `last.ckpt`.
        steps: Records the last batch.
        requeue: See `Signals`.
        leave: See `Signals`.

    Raises:
        SystemExit: During training, after saving.
    """

    def __init__(
        self,
        checkpoint: LastCheckpoint,
        steps: Steps,
        requeue: Any,
        leave: Callable[..., NoReturn] = leave_process,
    ) -> None:
        super().__init__(requeue, leave)
        self.checkpoint = checkpoint
        self.steps = steps
        self._step = 0

    @contextlib.contextmanager
    def interruptible(self, trainer: Trainer) -> Iterator[None]:
        """Context in which Ctrl-C ends training like SIGTERM.

        Enter it before training starts: worker processes that load data start there and inherit the
        handler, and a terminal sends the signal to all processes.

        Raises:
            SystemExit: Training was interrupted, and everything is saved.
        """
        before = signal.getsignal(signal.SIGINT)
        if not in_main_thread() or before == signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, self.receive)
        try:
            yield
            stopped: BaseException | None = None
        except Exception as error:
            if self.received != signal.SIGINT:
                raise
            # Such as of a worker process: the terminal sends Ctrl-C to all processes.
            stopped = error
        finally:
            signal.signal(signal.SIGINT, before)
        # Without an error, the signal came after the last step: training is complete, and
        # everything is saved.
        if self.received == signal.SIGINT and (stopped or trainer.world_size == 1):
            self.leave(128 + signal.SIGINT, stopped)

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Install the handlers of SIGTERM and SIGUSR1; Lightning restores those before."""
        self._step = trainer.global_step
        self.catch()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Mark the batch; save if a signal was received, and end the run after the next batch."""
        mark(self.steps.batch, pl_module, trainer.optimizers, batch)
        if self.steps.is_last:
            self.obey()
        if trainer.global_step != self._step:  # right after a step, no gradients are accumulated
            self._step = trainer.global_step
            if self.agree():
                self.checkpoint.save_last()

    def on_train_batch_start(self, *args: Any) -> None:
        """Let the last batch be recorded if all processes know of a signal."""
        if self.agreed:
            self.steps.is_last = True

    def on_train_end(self, *args: Any) -> None:
        """Complete the pending reduction."""
        self.finish()

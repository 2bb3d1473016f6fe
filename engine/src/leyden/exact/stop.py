"""A stop that has time, and the steps beyond a checkpoint, which a resumed run must compute again.

On a signal, the run saves at the next step boundary, trains one batch more, and ends the process.
No state has to be known to compare: whatever a checkpoint lacks is seen by what it does.
"""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, distributed

from leyden.exact.checkpoint import LastCheckpoint
from leyden.exact.digest import digest
from leyden.exact.files import opened, read_bounded, replacing
from leyden.exact.job import requeue_job
from leyden.exact.marks import mark
from leyden.exact.memory import MAX_WHOLE, Reporter, is_rank_zero, reason

STEPS_FILE = "checkpoints/steps.jsonl"
MAX_STOP_BYTES = 2**26  # of this file


class Steps(Callback):
    """Records the loss of steps, and compares those that a resumed run computes again.

    Recorded are every `log_every_n_steps`-th batch, and the first one after each checkpoint, with
    the learning rates after it; of the latter, and of the batch after a stop that has time, a
    checksum of the weights, too: what acts on the gradients, such as a mask, changes no loss of the
    first batch. A step without a loss, as in manual optimization, has the logged metrics in its
    place. Values that are never recorded are not compared. Only the process of rank zero records.

    Args:
        directory: Folder with `checkpoints`.
        reporter: Announces the first step that parts.
    """

    state_key = "Steps"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, directory: Path, reporter: Reporter) -> None:
        self.file = directory / STEPS_FILE
        self.reporter = reporter
        self.is_last = False  # True for the batch before a stop
        self.batch = 0  # number of batches of all starts
        self._has_checkpoint = False
        self._is_after_checkpoint = False
        self._before: dict[int, dict[str, str]] = {}  # values of the stopped run, by batch

    def state_dict(self) -> dict[str, Any]:
        """Return the number of batches."""
        return {"batch": self.batch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the number of batches, and read what the stopped run has recorded beyond them."""
        self.batch = int(state_dict["batch"])
        self._has_checkpoint = self._is_after_checkpoint = True
        with contextlib.suppress(Exception):  # there is none, or its last line is cut off
            for line in read_bounded(self.file, MAX_STOP_BYTES).splitlines():
                row = json.loads(line)
                values = {str(name): str(value) for name, value in row["values"].items()}
                for name in values.keys() - {"weights"}:
                    float(values[name])
                if row["batch"] > self.batch:
                    self._before[row["batch"]] = values

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Let all processes compare at the same steps."""
        self._before = trainer.strategy.broadcast(self._before)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: Any
    ) -> None:
        """Record the next batch; what was recorded before the checkpoint is not needed any more."""
        self._has_checkpoint = self._is_after_checkpoint = True

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
        every_n_steps = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        is_logged = self.batch % every_n_steps == 0
        is_due = self._is_after_checkpoint or self.is_last or is_logged
        if not (is_due and self._has_checkpoint) and self.batch not in self._before:
            return
        values = self._values(trainer, pl_module, outputs) if trainer.is_global_zero else {}
        if self.batch in self._before:
            self._compare(trainer, pl_module, values)
        if trainer.is_global_zero and self.reporter.mode != "off":
            self._record(values)
        self._is_after_checkpoint = False

    def on_train_end(self, trainer: Trainer, *args: Any) -> None:
        """Delete the file: the run's last checkpoint is that of its last step."""
        if trainer.is_global_zero:
            with contextlib.suppress(OSError):
                self.file.unlink()

    def _values(self, trainer: Trainer, module: LightningModule, outputs: Any) -> dict[str, str]:
        try:
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            found = dict(trainer.callback_metrics)
            if isinstance(loss, Tensor):
                found = {"loss": loss}
            values: dict[str, str] = {}
            for name, each in found.items():
                if each.numel() == 1:
                    values[name] = repr(float(each))
            rates: list[Any] = []  # they act in the next step
            for optimizer in trainer.optimizers:
                rates += [group["lr"] for group in optimizer.param_groups]
            for number, rate in enumerate(rates):
                values[f"lr[{number}]"] = repr(float(rate))
            if self.is_last or self._is_after_checkpoint:
                values["weights"] = _weights(module)
            return values
        except Exception as error:  # of a user's own class
            self.reporter.name([f"step {self.batch} ({reason(error)})"], "can't be recorded")
            return {}

    def _compare(self, trainer: Trainer, module: LightningModule, values: dict[str, str]) -> None:
        before = self._before.pop(self.batch)
        if "weights" in before and trainer.is_global_zero:
            values = {**values, "weights": _weights(module)}
        mine = [name for name, value in before.items() if values.get(name, value) != value]
        parts = trainer.strategy.broadcast(mine)
        if not parts:
            return
        self._before = {}
        name = parts[0]
        now = values.get(name)
        then = before.get(name)
        if name != "weights" and now is not None:
            now = f"{float(now):.9g}"
            then = f"{float(before[name]):.9g}"
        self.reporter.announce(
            f"parts from the interrupted run at step {self.batch} ({name} {now}, was {then}): "
            "something that no checkpoint has changes"
        )

    def _record(self, values: dict[str, str]) -> None:
        """Add a line to the file; one that can't be written is announced, and ends no run."""
        try:
            row = json.dumps({"batch": self.batch, "values": values})
            line = f"{row}\n".encode()
            if self._is_after_checkpoint:
                with replacing(self.file) as file:
                    file.write(line)
            else:
                with opened(self.file, "ab") as file:
                    file.write(line)
        except OSError as error:
            self.reporter.name([f"{self.file} ({reason(error)})"], "can't be written")


def _weights(module: LightningModule) -> str:
    """Return a checksum of the weights and buffers: of large ones, of a part."""
    # A state_dict may need all processes.
    named = [*module.named_parameters(), *module.named_buffers()]
    return digest(named, MAX_WHOLE)[:16]


REQUEUE: int | None = getattr(signal, "SIGUSR1", None)  # None on Windows


def leave_process(code: int, cause: BaseException | None = None) -> NoReturn:
    """End this process with an exit code."""
    raise SystemExit(code) from cause


class Stop(Callback):
    """Saves after the next step on SIGTERM, SIGUSR1 or the first Ctrl-C, and ends the process.

    One batch more is trained, and recorded, so that the resumed run has something to compare
    (`Steps`).

    On SIGUSR1, a requeue is requested. SIGTERM is sent by `scancel`, `scontrol requeue`, or anyone
    who wants to end the process; restarting is then up to the sender. A second Ctrl-C ends the run
    at once, without saving.

    Args:
        checkpoint: Saves `last.ckpt`.
        steps: Records the last batch.
        requeue: Has `received`, the number of SIGUSR1 once it came, `requeue()`, and whether that
            `is_requested` already; None to receive the signal here, and requeue a job of Slurm.
        leave: Ends the process with an exit code, 128 + signal number; it may have a cause.

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
        self.checkpoint = checkpoint
        self.steps = steps
        self.requeue = requeue
        self.leave = leave
        self._signal = 0  # signal received by this process
        self._agreed = 0  # signal received by any process, and known to all
        self._step = 0
        self._reduction: Any = None
        self._reduced_signal = torch.tensor(0)

    @contextlib.contextmanager
    def interruptible(self, trainer: Trainer) -> Iterator[None]:
        """Context in which Ctrl-C ends training like SIGTERM.

        Enter it before training starts: worker processes that load data start there and inherit the
        handler, and a terminal sends the signal to all processes.

        Raises:
            SystemExit: Training was interrupted, and everything is saved.
        """
        is_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.getsignal(signal.SIGINT)
        if not is_main_thread or before == signal.SIG_IGN:
            yield
            return
        signal.signal(signal.SIGINT, self._receive)
        try:
            yield
            stopped: BaseException | None = None
        except Exception as error:
            if self._signal != signal.SIGINT:
                raise
            # Such as of a worker process: the terminal sends Ctrl-C to all processes.
            stopped = error
        finally:
            signal.signal(signal.SIGINT, before)
        # Without an error, the signal came after the last step: training is complete, and
        # everything is saved.
        if self._signal == signal.SIGINT and (stopped or trainer.world_size == 1):
            self.leave(128 + signal.SIGINT, stopped)

    def _receive(self, number: int, frame: Any) -> None:
        """Record the first signal.

        Raises:
            KeyboardInterrupt: On the second Ctrl-C.
            SystemExit: The job is requeued already, as no step came to save at.
        """
        if number == signal.SIGINT and self._signal:
            raise KeyboardInterrupt
        if number == signal.SIGINT and is_rank_zero():
            # Unbuffered, since the signal may have interrupted a print.
            text = (
                "Ctrl-C: the run saves after this step, and ends. Another Ctrl-C ends it at once."
            )
            os.write(2, f"\n{text}\n".encode())
        if number == signal.SIGTERM and self.requeue and self.requeue.is_requested:
            self.leave(128 + number)
        self._signal = self._signal or number

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Install the handlers of SIGTERM and SIGUSR1; Lightning restores those before."""
        self._step = trainer.global_step
        if trainer.world_size > 1:
            self._group = distributed.new_group(backend="gloo")
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._receive)
            if REQUEUE and self.requeue is None:
                signal.signal(REQUEUE, self._receive)
                # Blocked by who started Python, until now.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {REQUEUE})

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
            self._end(trainer)
        if trainer.global_step != self._step:  # right after a step, no gradients are accumulated
            self._step = trainer.global_step
            self._agreed = self._agree(trainer)
            if self._agreed:
                self.checkpoint.save_last()

    def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
        """Let the last batch be recorded if all processes know of a signal."""
        if self._agreed:
            self.steps.is_last = True

    def _end(self, trainer: Trainer) -> None:
        if self._agreed == REQUEUE and trainer.is_global_zero:
            if self.requeue:
                self.requeue.requeue()
            else:
                requeue_job()
        if trainer.world_size > 1:
            # srun would kill the process of rank 0 when another one ends.
            distributed.barrier(self._group)
        if threading.current_thread() is threading.main_thread():
            # Another Ctrl-C would only disturb the shutdown.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.leave(128 + self._agreed)

    def on_train_end(self, *args: Any) -> None:
        """Complete the pending reduction."""
        if self._reduction is not None:
            self._reduction.wait()

    def _agree(self, trainer: Trainer) -> int:
        """Return the signal that any process has received, the same one in all at the same step."""
        received = self._signal
        if self.requeue and not received:
            received = self.requeue.received
        if trainer.world_size == 1:
            return received
        # The result is used one step later, so that no step waits for the reduction or synchronizes
        # with the GPU.
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

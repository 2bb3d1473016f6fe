"""When a trainer's last checkpoint is written."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leyden.exact import lightning
from leyden.exact.checkpoint import (
    HYPERPARAMETERS,
    LAST,
    PREPARED,
    SafeCheckpointIO,
    check_every_n_steps,
)
from leyden.exact.digest import is_finite_module
from leyden.exact.lightning import foreign_callbacks
from leyden.exact.loaders import flatten_loaders
from leyden.exact.memory import say

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


def content_of_hooks(trainer: Trainer) -> dict[str, Any]:
    """Return what the hooks of module, data and callbacks add to a checkpoint, to check it before.

    A hook may need attributes that are set only during training. So its errors are ignored here;
    writing the first checkpoint raises them. A resumed run omits this check: hooks may draw random
    numbers or change attributes, and would do so once more than in an uninterrupted run.
    """
    module = trainer.lightning_module
    callbacks: list[Any] = [*foreign_callbacks(trainer).values()]
    added: dict[str, Any] = {"callbacks": {}}
    given = {"state_dict": module.state_dict(), "epoch": 0, "global_step": 0}
    each: Any
    for each in (module, getattr(trainer, "datamodule", None), *callbacks):
        content = dict(given)
        with contextlib.suppress(Exception):
            if each in callbacks:
                added["callbacks"][each.state_key] = each.state_dict()
                each.on_save_checkpoint(trainer, module, content)
            elif each is not None:
                each.on_save_checkpoint(content)
        added |= {
            key: value for key, value in content.items() if key not in (*given, *HYPERPARAMETERS)
        }
    return added


class LastCheckpoint:
    """Writes `checkpoints/last.ckpt` at the end of each epoch, and every `every_n_steps`.

    It is written when all that belongs to its step is done: validation, schedules that follow a
    metric, and the metrics, since a run that resumes does none of this again. That is after all
    hooks of a step or an epoch, where Lightning calls nobody: `after_batch` and `after_epoch` are
    called by `lightning.after_each`.

    A trainer takes a class that derives from its tree's `Checkpoint`, too (`lightning.derived`).

    Args:
        every_n_steps: Optimizer steps between writes of `last.ckpt` within an epoch; None for none.
        directory: Folder of `checkpoints`; None for the trainer's `default_root_dir`.
    """

    state_key = "LastCheckpoint"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, every_n_steps: int | None, directory: Path | None = None) -> None:
        check_every_n_steps(every_n_steps)
        self.every_n_steps = every_n_steps
        self.directory = directory
        self.files = SafeCheckpointIO()
        self._is_refused = False
        self.is_over = False  # whether the run was stopped, for example by early stopping
        self._step = 0
        # Name of the copy to keep of the checkpoint that is due; None if none is.
        self._due: str | None = None
        # Whether a run can resume within an epoch; otherwise `last.ckpt` is from the end of an
        # epoch.
        self.within_epochs = True
        self._is_said = False

    def state_dict(self) -> dict[str, Any]:
        """Return whether training has been stopped."""
        return {"is_over": self.is_over}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.is_over = bool(state_dict["is_over"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check hooks at the first start; end training again if it was stopped before its time."""
        if trainer.ckpt_path is None:
            self.files.leave_out(content_of_hooks(trainer))
        self.within_epochs = all(
            hasattr(each, "state_dict") for each in flatten_loaders(trainer.train_dataloader)
        )
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: Trainer, *args: Any) -> None:
        """Delete what a killed start has prepared."""
        if trainer.is_global_zero:
            self.path(trainer, LAST + PREPARED).unlink(missing_ok=True)

    on_exception: Any = on_fit_start

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Save every `every_n_steps`."""
        step = trainer.global_step
        # The steps differ only right after an optimizer step, when no gradients are accumulated.
        if self.every_n_steps and step // self.every_n_steps != self._step // self.every_n_steps:
            self.save_last(kept=f"step_{step}")  # a batch can take several steps
        self._step = step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        self._due = f"epoch_{trainer.current_epoch + 1}"

    def save_last(self, kept: str = "") -> None:
        """Let `last.ckpt` be saved after this batch; call it right after an optimizer step.

        Args:
            kept: Name of a permanent copy, without suffix; empty for no copy.
        """
        self._due = self._due or kept

    def after_batch(self, trainer: Trainer) -> None:
        """Save if a checkpoint is due, unless the end of the epoch follows, which saves."""
        if self._due is None or lightning.ends_epoch(trainer):
            return
        if self.within_epochs:
            self._save(trainer, is_within_epoch=True)
        elif not self._is_said:
            self._is_said = True
            say(
                "these data can't resume within an epoch: the run will resume from the end of the "
                "previous epoch"
            )

    def after_epoch(self, trainer: Trainer) -> None:
        """Save."""
        self._save(trainer, is_within_epoch=False)

    def _save(self, trainer: Trainer, *, is_within_epoch: bool) -> None:
        kept = self._due or ""
        self._due = None
        is_finite = is_finite_module(trainer.lightning_module)
        if not trainer.strategy.reduce_boolean_decision(is_finite):
            self.refuse(f"weights are not finite at step {trainer.global_step}")
            return
        self.is_over = trainer.should_stop
        for logger in trainer.loggers:
            logger.save()
        path = self.path(trainer, LAST)
        prepared = self.path(trainer, LAST + PREPARED)
        others = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = self.files  # type: ignore[assignment]
        try:
            with lightning.counted_as_in_hooks(trainer, is_within_epoch=is_within_epoch):
                trainer.save_checkpoint(prepared)
        finally:
            trainer.strategy.checkpoint_io = others
        if trainer.is_global_zero:
            # It may be missing: that it could not be written was reported.
            with contextlib.suppress(FileNotFoundError):
                self.rename(prepared, path, kept)
        trainer.strategy.barrier()

    def refuse(self, why: str) -> None:
        """Report that the previous checkpoint is kept; a subclass may end the run."""
        if not self._is_refused:
            self._is_refused = True
            say(f"{why}: the last checkpoint with finite weights is kept")

    def rename(self, prepared: Path, path: Path, kept: str) -> None:
        """Rename a prepared checkpoint; a subclass may keep copies."""
        prepared.replace(path)

    def path(self, trainer: Trainer, name: str) -> Path:
        """Return the path of a checkpoint."""
        return (self.directory or Path(trainer.default_root_dir)) / "checkpoints" / name

"""Samples seen, and epochs of another number of batches."""

import contextlib
from typing import Any

import lightning as L
import torch

from leyden.data.contract import divides_batches, sizes_of
from leyden.exact.lightning import num_ranks
from leyden.exact.loaders import flatten_loaders

MAX_LOSSES = 1000  # that are kept before they are looked at


class SamplesSeen(L.Callback):
    """Counts completed epochs and the samples of a validation, and keeps losses for a look.

    An epoch is complete after its last batch, as limited by `trainer.limit_train_batches` and
    `overfit_batches`. An epoch that `max_steps`, `max_time` or a callback ends earlier is not
    counted.
    """

    state_key = "SamplesSeen"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self.num_epochs = 0
        self.num_validated: int | None = None  # samples of the last validation
        # Of batches, with their epoch and index.
        self._losses: list[tuple[int, int, torch.Tensor]] = []
        self._bad_batch: tuple[int, int] | None = None

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        """Remember the loss, which is on its device; to look at each would wait for it."""
        self._losses.append((trainer.current_epoch, trainer.fit_loop.batch_idx, loss.detach()))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the losses, if many are kept."""
        parts = [batch]
        if isinstance(batch, list | tuple):
            parts = [*batch]
        elif isinstance(batch, dict):
            parts = [*batch.values()]
        sizes = [len(each) for each in parts if isinstance(each, torch.Tensor) and each.ndim]
        if sizes and not any(sizes) and self._losses:  # the mean of a process's empty part is NaN
            self._losses.pop()
        if len(self._losses) >= MAX_LOSSES:
            self.bad_batch()

    def bad_batch(self) -> tuple[int, int] | None:
        """Return epoch and index of this start's first batch whose loss was not finite.

        None if there was none.
        """
        losses = self._losses
        self._losses = []
        if losses and self._bad_batch is None:
            are_finite = [loss.isfinite().all() for *_, loss in losses]
            finite = torch.stack(are_finite).tolist()
            if not all(finite):
                epoch, index, _ = losses[finite.index(False)]
                self._bad_batch = epoch, index
        return self._bad_batch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch, if it is complete."""
        self.num_epochs += trainer.is_last_batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the samples of a validation."""
        self.num_validated = num_validated(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        return {"num_epochs": self.num_epochs, "num_validated": self.num_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers."""
        self.num_epochs = int(state_dict["num_epochs"])
        found = state_dict["num_validated"]
        self.num_validated = found if isinstance(found, int) else None


def samples_per_batch(trainer: L.Trainer) -> float | None:
    """Return the mean number of samples of a training batch, over all processes.

    None if it is unknown, as for several loaders or one without a length.
    """
    with contextlib.suppress(Exception):  # a user's loader may raise any, and counting ends no run
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        (loader,) = flatten_loaders(trainer.train_dataloader)
        num = sizes_of(data, loader, []).get("train")
        if num:
            return num / len(loader)
    return None


def num_validated(trainer: L.Trainer) -> int | None:
    """Return the number of samples that a validation takes, over all processes.

    None if it is unknown.
    """
    with contextlib.suppress(Exception):  # as above
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders = flatten_loaders(trainer.val_dataloaders)
        total = 0
        is_whole = True
        for loader, num in zip(loaders, trainer.num_val_batches, strict=True):
            total += int(num) * loader.batch_size
            is_whole = is_whole and num == len(loader)
        if is_whole:
            return sizes_of(data, [], loaders)["val"]
        if divides_batches(data):
            return total
        return total * num_ranks(trainer)
    return None

"""Samples and epochs that a run was trained on, over all starts."""

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.data import extract_batch_size


class SamplesSeen(L.Callback):
    """Counts the samples of each training batch, over all processes, and the epochs that were completed.

    An epoch is completed by its last batch, the last of those that `trainer.limit_train_batches` and `overfit_batches` leave.
    One that `max_steps`, `max_time` or a callback has ended before is not.
    """

    state_key = "SamplesSeen"  # in the checkpoint, whatever the class is called

    def __init__(self) -> None:
        self.num_epochs = 0
        self._before = 0  # samples of earlier starts, over all processes
        self._here = 0  # samples of this start and process
        self._is_known = True  # not so where a batch does not show its size
        self._has_state = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Keep the trainer, which adds the counts of the processes."""
        self._trainer: L.Trainer = trainer

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give up on samples, where the checkpoint is of an engine that did not count them."""
        self._is_known = self._is_known and (trainer.ckpt_path is None or self._has_state)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a batch; before a checkpoint of this step."""
        try:
            self._here += extract_batch_size(batch)
        except MisconfigurationException:  # it holds no tensor
            self._is_known = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch, if no batch of it is left."""
        self.num_epochs += trainer.is_last_batch

    @property
    def num_samples(self) -> int | None:
        """Samples over all starts and processes, all of which must ask; None where that is not known."""
        here = torch.tensor(self._here, device=self._trainer.strategy.root_device)
        known = torch.tensor(int(self._is_known), device=here.device)
        total, num_known = (int(self._trainer.strategy.reduce(each, reduce_op="sum")) for each in (here, known))
        return self._before + total if num_known == self._trainer.world_size else None

    def state_dict(self) -> dict[str, Any]:
        """The counts of all processes."""
        return {"num_samples": self.num_samples, "num_epochs": self.num_epochs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume counting from there."""
        self._has_state = True
        self._before, self.num_epochs = state_dict["num_samples"] or 0, state_dict["num_epochs"]
        self._is_known = state_dict["num_samples"] is not None

"""Values of the optimizer that change at given epochs."""

from collections.abc import Mapping
from typing import Any

import lightning as L

from leyden.config.mistakes import UserError


class ValuesByEpoch(L.Callback):
    """Sets values of all groups of all optimizers before an epoch begins; so a schedule that was found is one run.

    Args:
        by_epoch: The values by name, by the number of epochs that have ended then, as `{3: {"lr": 0.01}}`.

    Raises:
        UserError: The optimizer has no such value, or a schedule sets the learning rate, too.
    """

    def __init__(self, *, by_epoch: Mapping[int, Mapping[str, Any]]) -> None:
        for epoch, values in by_epoch.items():
            if type(epoch) is not int or epoch < 1 or not isinstance(values, Mapping) or not values:
                raise ValueError(f"by_epoch={by_epoch}: must be values by name by epoch, as {{3: {{lr: 0.01}}}}")
        self.by_epoch = {epoch: dict(values) for epoch, values in by_epoch.items()}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Find what could not be set."""
        if trainer.lr_scheduler_configs:
            raise UserError(
                "callbacks: ValuesByEpoch and a schedule would both set values of the optimizer; scheduler=none"
            )
        named = {name for values in self.by_epoch.values() for name in values}
        for optimizer in trainer.optimizers:
            if unknown := sorted(named - optimizer.param_groups[0].keys()):
                raise UserError(f"callbacks: ValuesByEpoch: {type(optimizer).__name__} has no {unknown[0]}")

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set those of this epoch."""
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                group.update(self.by_epoch.get(trainer.current_epoch, {}))

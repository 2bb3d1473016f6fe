"""Hooks of a module that Lightning calls after those of all callbacks."""

from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden


class ModuleHooks(L.Callback):
    """Calls the module's `on_train_batch_end` before a checkpoint of this step is written: an average of weights may follow there.

    Lightning calls it after all callbacks, so such a checkpoint would lack what it changes.
    """

    def __init__(self) -> None:
        self._hook: Callable[..., None] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the hook over."""
        if stage == "fit" and is_overridden("on_train_batch_end", pl_module):
            self._hook = pl_module.on_train_batch_end
            pl_module.on_train_batch_end = _nothing  # type: ignore[method-assign]

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give it back."""
        if self._hook:
            del pl_module.on_train_batch_end
            self._hook = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Call it."""
        if self._hook:
            self._hook(outputs, batch, batch_idx)


def _nothing(outputs: Any, batch: Any, batch_idx: int) -> None:
    """Do nothing, where the hook was called already."""

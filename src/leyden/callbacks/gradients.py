"""Gradients that a module has gathered and not yet taken a step by."""

from typing import Any

import lightning as L
from torch import Tensor

from leyden.data.resumable import of_all_processes


class Gradients(L.Callback):
    """Keeps in each checkpoint the gradients of a module that steps its optimizers by hand, so that a resumed run adds to them.

    Such a module can gather those of one optimizer over several batches, while another one takes a step in each: no step is one
    after which none are under way. Lightning's own accumulation has such steps, and checkpoints are written after these alone.
    """

    state_key = "Gradients"  # in the checkpoint, whatever the class is called

    def __init__(self) -> None:
        self._kept: dict[str, Tensor] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the module, whose gradients these are, and the trainer, which knows the processes."""
        self._trainer: L.Trainer = trainer
        self._module = pl_module

    def state_dict(self) -> dict[str, Any]:
        """A list with the gradients of each process; nothing where Lightning takes the steps."""
        if self._module.automatic_optimization:
            return {}
        parameters = self._module.named_parameters()
        mine = {name: each.grad.detach().cpu() for name, each in parameters if each.grad is not None}
        return {"processes": of_all_processes(mine)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep those of this process until training starts."""
        every = state_dict.get("processes") or [{}]
        self._kept = every[min(self._trainer.global_rank, len(every) - 1)]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Give them back."""
        for name, parameter in pl_module.named_parameters():
            if name in self._kept:
                parameter.grad = self._kept[name].to(parameter.device)
        self._kept = {}

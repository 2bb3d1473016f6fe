"""How weights and gradients are spread."""

import lightning as L
from torch.optim import Optimizer

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import logged_steps, tensorboard_writer
from leyden.tasks.task import network_of


class Histograms(Showing):
    """Writes histograms of each parameter, and of its gradient in the last step, for TensorBoard.

    Args:
        every_n_epochs: From one to the next; None for none.
    """

    def __init__(self, *, every_n_epochs: int | None) -> None:
        if every_n_epochs is not None and (type(every_n_epochs) is not int or every_n_epochs < 1):
            raise ValueError(f"every_n_epochs={every_n_epochs}: must be a positive whole number or null")
        self.every_n_epochs = every_n_epochs

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        """Write those of the gradients, which are gone at the end of the epoch."""
        if trainer.is_last_batch:
            self._write(trainer, pl_module, "gradients", logged_steps(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write those of the weights."""
        self._write(trainer, pl_module, "weights", logged_steps(trainer) - 1)

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, kind: str, step: int) -> None:
        if self.every_n_epochs is None or (trainer.current_epoch + 1) % self.every_n_epochs != 0:
            return
        if writer := tensorboard_writer(trainer):
            for name, parameter in network_of(pl_module).named_parameters():
                tensor = parameter.detach() if kind == "weights" else parameter.grad
                if tensor is not None:
                    writer.add_histogram(f"{kind}/{name}", tensor, step)

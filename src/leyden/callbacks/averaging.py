"""Averages of weights: which of them the checkpoints of a run hold."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from leyden.config.terminal import warn


class SWAWeightAveraging(WeightAveraging):
    """Stochastic weight averaging: the mean of the weights from an epoch on, all of them of equal weight.

    The mean is what is validated, kept, tested and exported; training goes on from the weights themselves. Before the
    first of them are taken, they stand for the mean.

    Running statistics, as those of BatchNorm, are averaged as the weights are; in the paper they are measured anew, by a
    pass over the training images. `model=resnet` on MNIST, 300 steps averaged, by SGD and by Adam (n = 1 each), had a
    `val/acc` of 0.9802 and 0.9822 so, of 0.9808 and 0.9836 if they were measured anew, and of 0.9018 and 0.6024 with those of
    the last weights.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization (2018),
    https://arxiv.org/abs/1803.05407

    Args:
        update_starting_at_epoch: The first epoch whose weights are taken, counted from 0.
        update_every_n_steps: Optimizer steps from weights that are taken to the next.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, update_starting_at_epoch: int, update_every_n_steps: int) -> None:
        for name, value, least in (
            ("update_starting_at_epoch", update_starting_at_epoch, 0),
            ("update_every_n_steps", update_every_n_steps, 1),
        ):
            if type(value) is not int or value < least:
                raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")
        super().__init__(avg_fn=_mean)
        self.update_starting_at_epoch = update_starting_at_epoch
        self.update_every_n_steps = update_every_n_steps

    @property
    def average(self) -> AveragedModel:
        """The mean so far; Lightning gives no public way to it."""
        assert self._average_model is not None
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the mean lie where the module trains; Lightning makes it before that is moved there."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.average.to(trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Take the weights after a step, if it is time."""
        step = trainer.global_step
        if step == self._latest_update_step:  # no step was taken: several batches make one
            return
        is_due = trainer.current_epoch >= self.update_starting_at_epoch and step % self.update_every_n_steps == 0
        if not is_due and self.average.n_averaged > 0:
            return
        self.average.update_parameters(pl_module)  # the first one is a copy
        self._latest_update_step = step  # Lightning's, in its state in the checkpoint; it has no public name
        if not is_due:  # it stands for a mean that has not begun
            self.average.n_averaged.zero_()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run has ended before any weights were taken."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and self.average.n_averaged == 0:
            warn(
                "callbacks: SWAWeightAveraging has averaged nothing, the run ended before; its weights are the last ones"
            )


def _mean(average: Tensor, weights: Tensor, num_averaged: Tensor) -> Tensor:
    """The mean with one more; of whole numbers, which count something and are no weights, the newest."""
    if average.is_floating_point() or average.is_complex():
        return average + (weights - average) / (num_averaged + 1)
    return weights


def check_averaging(callback: Any, num_epochs: int) -> None:
    """Make sure that a callback averages something, in a way that checkpoints hold what was validated.

    Raises:
        ValueError: It is `StochasticWeightAveraging`, which averages in no checkpoint, or a `WeightAveraging` that
            changes the average at the end of an epoch, between its validation and its checkpoint; or it would begin
            after the last epoch.
    """
    if isinstance(callback, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging: no checkpoint holds its average; +callbacks/averaging=swa does the same exactly"
        )
    if isinstance(callback, SWAWeightAveraging) and callback.update_starting_at_epoch >= num_epochs:
        raise ValueError(
            f"update_starting_at_epoch={callback.update_starting_at_epoch}: must be smaller than "
            f"trainer.max_epochs={num_epochs}, else nothing is averaged"
        )
    if isinstance(callback, WeightAveraging) and any(
        callback.should_update(epoch_idx=epoch) for epoch in range(num_epochs)
    ):
        raise ValueError(
            f"{type(callback).__name__}: averages at the end of an epoch, after its validation; must do so after "
            "steps, as by update_every_n_steps and update_starting_at_step"
        )

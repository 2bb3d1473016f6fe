"""Averages of weights: which of them the checkpoints of a run hold."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from leyden.config.terminal import warn
from leyden.data.loaders import check_integers


class _LateAveraging(WeightAveraging, ABC):
    """An average that begins at some time; before, the weights themselves stand for it."""

    def __init__(self, update_every_n_steps: int, add: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        check_integers(update_every_n_steps=(update_every_n_steps, 1))
        super().__init__(avg_fn=partial(_add_weights, add))
        self.update_every_n_steps = update_every_n_steps

    @abstractmethod
    def has_begun(self, step: int, epoch: int) -> bool:
        """Whether the weights after so many steps, in this epoch, belong to the average."""

    @property
    def average(self) -> AveragedModel:
        """The average so far; Lightning gives no public way to it."""
        assert self._average_model is not None
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let the average lie where the module trains; Lightning makes it before that is moved there."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.average.to(trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Take the weights after a step, if it is time."""
        step = trainer.global_step
        if step == self._latest_update_step:  # no step was taken: several batches make one
            return
        is_due = self.has_begun(step, trainer.current_epoch) and step % self.update_every_n_steps == 0
        if not is_due and self.average.n_averaged > 0:
            return
        self.average.update_parameters(pl_module)  # the first one is a copy
        self._latest_update_step = step  # Lightning's, in its state in the checkpoint; it has no public name
        if not is_due:  # it stands for an average that has not begun
            self.average.n_averaged.zero_()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say so if the run has ended before any weights were taken."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and self.average.n_averaged == 0:
            name = type(self).__name__
            warn(f"callbacks: {name} has averaged nothing, the run ended before; its weights are the last ones")


class EMAWeightAveraging(_LateAveraging):
    """Exponential moving average of the weights, from a step on.

    The average is what is validated, kept, tested and exported; training goes on from the weights themselves. Before the
    first of them are taken, they stand for the average. Running statistics are averaged as the weights are.

    Args:
        decay: What remains of the average at each update, from 0 to 1.
        update_starting_at_step: The weights after fewer optimizer steps are not taken.
        update_every_n_steps: Optimizer steps from weights that are taken to the next.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, decay: float, update_starting_at_step: int, update_every_n_steps: int) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: must be from 0 to 1")
        check_integers(update_starting_at_step=(update_starting_at_step, 0))
        super().__init__(update_every_n_steps, partial(_move_mean, decay))
        self.update_starting_at_step = update_starting_at_step

    def has_begun(self, step: int, epoch: int) -> bool:
        """Whether they are the weights of such a step."""
        return step >= self.update_starting_at_step


class SWAWeightAveraging(_LateAveraging):
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
        check_integers(update_starting_at_epoch=(update_starting_at_epoch, 0))
        super().__init__(update_every_n_steps, _add_to_mean)
        self.update_starting_at_epoch = update_starting_at_epoch

    def has_begun(self, step: int, epoch: int) -> bool:
        """Whether they are the weights of such an epoch."""
        return epoch >= self.update_starting_at_epoch


def _add_to_mean(average: Tensor, weights: Tensor, num_averaged: Tensor) -> Tensor:
    return average + (weights - average) / (num_averaged + 1)


def _move_mean(decay: float, average: Tensor, weights: Tensor, num_averaged: Tensor) -> Tensor:
    return average.lerp(weights, 1 - decay)


def _add_weights(
    add: Callable[[Tensor, Tensor, Tensor], Tensor], average: Tensor, weights: Tensor, num_averaged: Tensor
) -> Tensor:
    """The average with one more; of whole numbers, which count something and are no weights, the newest."""
    if average.is_floating_point() or average.is_complex():
        return add(average, weights, num_averaged)
    return weights


def check_averaging(callback: Any, num_epochs: int) -> None:
    """Make sure that a callback averages something, in a way that checkpoints hold what was validated.

    Raises:
        ValueError: It is `StochasticWeightAveraging`, which averages in no checkpoint, or a `WeightAveraging` that
            changes the average at the end of an epoch, between its validation and its checkpoint, or whose checkpoints
            hold the initial weights until it begins; or it would begin after the last epoch.
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
    if not isinstance(callback, WeightAveraging):
        return
    if any(callback.should_update(epoch_idx=epoch) for epoch in range(num_epochs)):
        raise ValueError(
            f"{type(callback).__name__}: averages at the end of an epoch, after its validation; must do so after "
            "steps, as by update_every_n_steps and update_starting_at_step"
        )
    if not isinstance(callback, _LateAveraging) and not callback.should_update(step_idx=0):
        raise ValueError(
            f"{type(callback).__name__}: the initial weights are validated and kept until it begins; must begin at the "
            "first step, or be ours, as +callbacks/averaging=ema"
        )

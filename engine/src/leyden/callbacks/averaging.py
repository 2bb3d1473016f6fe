"""Weight averaging: callbacks whose averages are in the checkpoints."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from leyden.config.terminal import warn
from leyden.data.transforms import check_integers


class _DelayedAveraging(WeightAveraging, ABC):
    """Average that begins at a later step or epoch; before that, it equals the current weights."""

    def __init__(self, update_every_n_steps: int, update: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        check_integers(update_every_n_steps=(update_every_n_steps, 1))
        super().__init__(avg_fn=partial(_updated_average, update))
        self.update_every_n_steps = update_every_n_steps

    @abstractmethod
    def has_begun(self, step: int, epoch: int) -> bool:
        """Return whether the average includes the weights after this step, in this epoch."""

    @property
    def average(self) -> AveragedModel:
        """The average so far; Lightning has no public name for it."""
        assert self._average_model is not None
        return self._average_model

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Move the average to the device of the training; Lightning creates it before the module is moved there."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            self.average.to(trainer.strategy.root_device)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Update the average after a step, if an update is due."""
        step = trainer.global_step
        if step == self._latest_update_step:  # no optimizer step, due to gradient accumulation
            return
        is_due = self.has_begun(step, trainer.current_epoch) and step % self.update_every_n_steps == 0
        if not is_due and self.average.n_averaged > 0:
            return
        self.average.update_parameters(pl_module)  # the first update copies the weights
        self._latest_update_step = step  # part of Lightning's state in the checkpoint; it has no public name
        if not is_due:  # a copy made before the average begins does not count
            self.average.n_averaged.zero_()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if the run has ended before the average began."""
        super().on_train_end(trainer, pl_module)
        if trainer.is_global_zero and self.average.n_averaged == 0:
            name = type(self).__name__
            warn(
                f"callbacks: {name} has averaged nothing, since the run ended before its start; the last weights are used"
            )


class EMAWeightAveraging(_DelayedAveraging):
    """Exponential moving average of the weights, from a given step on.

    Validation, checkpoints, tests and exports use the average; training continues from the weights themselves.
    Until the average begins, it equals the current weights. Running statistics are averaged like weights.

    Args:
        decay: Factor that the average is multiplied by at each update, from 0 to 1.
        update_starting_at_step: First optimizer step whose weights are averaged.
        update_every_n_steps: Optimizer steps between updates of the average.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, decay: float, update_starting_at_step: int, update_every_n_steps: int) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"decay={decay}: must be from 0 to 1")
        check_integers(update_starting_at_step=(update_starting_at_step, 0))
        super().__init__(update_every_n_steps, partial(_update_ema, decay))
        self.update_starting_at_step = update_starting_at_step

    def has_begun(self, step: int, epoch: int) -> bool:
        """Return whether the step is at or after `update_starting_at_step`."""
        return step >= self.update_starting_at_step


class SWAWeightAveraging(_DelayedAveraging):
    """Stochastic weight averaging: the unweighted mean of the weights, from a given epoch on.

    Validation, checkpoints, tests and exports use the mean; training continues from the weights themselves. Until
    the average begins, it equals the current weights.

    Running statistics, such as those of BatchNorm, are averaged like weights; the paper recomputes them in a pass
    over the training images instead. For `model=resnet` on MNIST, averaged over 300 steps, with SGD and with Adam
    (n = 1 each), `val/acc` was 0.9802 and 0.9822 with averaged statistics, 0.9808 and 0.9836 with recomputed ones,
    and 0.9018 and 0.6024 with those of the last weights.

    Source: Izmailov et al., Averaging weights leads to wider optima and better generalization (2018),
    https://arxiv.org/abs/1803.05407

    Args:
        update_starting_at_epoch: First epoch whose weights are averaged, counted from 0.
        update_every_n_steps: Optimizer steps between updates of the average.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, update_starting_at_epoch: int, update_every_n_steps: int) -> None:
        check_integers(update_starting_at_epoch=(update_starting_at_epoch, 0))
        super().__init__(update_every_n_steps, _update_mean)
        self.update_starting_at_epoch = update_starting_at_epoch

    def has_begun(self, step: int, epoch: int) -> bool:
        """Return whether the epoch is at or after `update_starting_at_epoch`."""
        return epoch >= self.update_starting_at_epoch


def _update_mean(average: Tensor, weights: Tensor, num_averaged: Tensor) -> Tensor:
    return average + (weights - average) / (num_averaged + 1)


def _update_ema(decay: float, average: Tensor, weights: Tensor, num_averaged: Tensor) -> Tensor:
    return average.lerp(weights, 1 - decay)


def _updated_average(
    update: Callable[[Tensor, Tensor, Tensor], Tensor], average: Tensor, weights: Tensor, num_averaged: Tensor
) -> Tensor:
    """Return the updated average; integer buffers, which are counters, take the newest value."""
    if average.is_floating_point() or average.is_complex():
        return update(average, weights, num_averaged)
    return weights


def check_averaging(callback: Any, num_epochs: int) -> None:
    """Check that a callback averages something, and that checkpoints contain the validated weights.

    Raises:
        ValueError: The average is in no checkpoint (Lightning's `StochasticWeightAveraging`); is updated at the end
            of an epoch, between validation and checkpoint; consists of the initial weights until it begins; or
            begins after the last epoch.
    """
    if isinstance(callback, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging: its average is not saved in checkpoints; use +callbacks/averaging=swa"
        )
    if isinstance(callback, SWAWeightAveraging) and callback.update_starting_at_epoch >= num_epochs:
        raise ValueError(
            f"update_starting_at_epoch={callback.update_starting_at_epoch}: must be smaller than "
            f"trainer.max_epochs={num_epochs}, or nothing is averaged"
        )
    if not isinstance(callback, WeightAveraging):
        return
    if any(callback.should_update(epoch_idx=epoch) for epoch in range(num_epochs)):
        raise ValueError(
            f"{type(callback).__name__}: averages at the end of an epoch, after its validation; must do so after "
            "steps, such as by update_every_n_steps and update_starting_at_step"
        )
    if not isinstance(callback, _DelayedAveraging) and not callback.should_update(step_idx=0):
        raise ValueError(
            f"{type(callback).__name__}: until it begins, the initial weights are validated and saved; must begin at the "
            "first step, or be one of Leyden's, such as +callbacks/averaging=ema"
        )

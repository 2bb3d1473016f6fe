"""An exponential moving average of the weights."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_avg_fn

from leyden.data.transforms import check_integers
from leyden.exact.lightning import place_average


class EMA(WeightAveraging):
    """Exponential moving average of the weights and running statistics, from the first step on.

    Counters, indices and masks, which have no average, are those of the last update.

    Validation, checkpoints, tests and exports use the average; training continues from the weights
    themselves.

    Args:
        decay: Factor that the average is multiplied by at each update, from 0 to 1.
        update_every_n_steps: Optimizer steps between updates of the average.
    """

    def __init__(self, *, decay: float, update_every_n_steps: int) -> None:
        check_integers(update_every_n_steps=(update_every_n_steps, 1))
        self.update_every_n_steps = update_every_n_steps
        moving = get_ema_avg_fn(decay)  # type: ignore[no-untyped-call]

        def average(old: Tensor, new: Tensor, number: Any) -> Tensor:
            has_average = old.is_floating_point() or old.is_complex()
            return moving(old, new, number) if has_average else new

        super().__init__(avg_fn=average)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether so many steps were taken since the last update.

        Several optimizers take several at once.
        """
        if step_idx is None:
            return False
        latest: int = self.state_dict()["latest_update_step"]
        return latest == 0 or step_idx + 1 - latest >= self.update_every_n_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Place the average on the device of the training.

        Lightning places it where the module was made.
        """
        place_average(self, trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)


def check_averaging(callback: Any, num_epochs: int) -> None:
    """Check that checkpoints contain the validated weights of a callback that averages.

    Raises:
        ValueError: The average is in no checkpoint (Lightning's `StochasticWeightAveraging`); is
            updated at the end of an epoch, between validation and checkpoint; or consists of the
            initial weights until it begins.
    """
    if isinstance(callback, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging: its average is not saved in checkpoints; use "
            "+callbacks/averaging=ema"
        )
    if not isinstance(callback, WeightAveraging):
        return
    is_by_epoch = any(callback.should_update(epoch_idx=epoch) for epoch in range(num_epochs))
    if is_by_epoch or not callback.should_update(step_idx=0):
        raise ValueError(
            f"{type(callback).__name__}: must average after steps, from the first one on, as "
            "+callbacks/averaging=ema; at the end of an epoch its validation is over, and before "
            "the average begins the initial weights are validated"
        )

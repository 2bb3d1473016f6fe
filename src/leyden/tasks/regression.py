"""Numbers: squared error.

Shapes: N samples of a batch, T targets of each.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from leyden.tasks.task import Outcome, Task


class Regression(Task):
    """Trains a network to give numbers, shape (N,) or (N, T), as the targets are.

    It logs the mean absolute error as `train/mae`, beside the loss.

    Args:
        loss: Takes predictions and targets and gives the mean loss; None: the mean squared error.
        further: As `Task` has it: `network`, `optimizer`, `scheduler`, `metrics`.
    """

    kind = "values"
    sums = {"mae": 0.0}  # noqa: RUF012 - a constant of the class

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **further: Any) -> None:
        super().__init__(**further)
        self.loss = F.mse_loss if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Predictions and loss of inputs and targets."""
        inputs, targets = batch
        predictions = self(inputs)
        if targets.ndim == 1 and predictions.shape[1:] == (1,):
            predictions = predictions[:, 0]
        if predictions.shape != targets.shape:
            raise ValueError(
                f"predictions of shape {tuple(predictions.shape)} for targets of {tuple(targets.shape)}"
            )
        errors = (predictions.detach() - targets).abs()
        return Outcome(
            self.loss(predictions, targets),
            predictions,
            targets,
            {"mae": errors.mean() * len(targets)},
        )

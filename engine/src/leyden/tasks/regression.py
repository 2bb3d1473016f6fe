"""Regression: squared error.

Shapes: N samples of a batch, T targets per sample.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from leyden.tasks.task import Outcome, Task


class Regression(Task):
    """Trains a network to predict numbers, shape (N,) or (N, T), like the targets.

    Logs the mean absolute error as `train/mae`, beside the loss.

    Args:
        loss: Function of predictions and targets that returns the mean loss; None: the mean squared error.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.
    """

    kind = "values"
    sums = {"mae": 0.0}  # noqa: RUF012 - class constant

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss = F.mse_loss if loss is None else loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return predictions and loss for inputs and targets."""
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

"""Quantiles of numbers.

Shapes: N samples of a batch, T targets, Q quantiles.
"""

from collections.abc import Sequence
from typing import Any

import torch
from leyden.data import Facts
from leyden.tasks import Outcome, Task
from torch import Tensor, nn


class Quantiles(Task):
    """Predicts quantiles of each target: the network's number, and a learned distance from it for each quantile.

    Logs the part of the targets between the first quantile and the last as `train/coverage`, and the mean absolute error
    of the middle one as `train/mae`.

    Source: Koenker and Bassett, Regression quantiles (1978).

    Args:
        quantiles: Increasing probabilities, in (0, 1).
        num_outputs: Number of targets, supplied by the data.
        kwargs: Arguments of `Task`.

    Raises:
        ValueError: `quantiles` are out of their range.

    Example:
        >>> task = Quantiles(network=nn.Identity(), quantiles=[0.9], num_outputs=1)
        >>> [round(task.step((torch.zeros(1, 1), torch.tensor([target]))).loss.item(), 2) for target in (1.0, -1.0)]
        [0.9, 0.1]
        >>> task.predict_rows(torch.zeros(1, 1), Facts(target_names=("level",)))
        [{'level at 0.9': 0.0}]
    """

    quantiles_Q: Tensor

    kind = "values"
    sums = {"mae": 0.0, "coverage": 0.0}  # noqa: RUF012 - class constant

    def __init__(self, *, quantiles: Sequence[float], num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        chosen = list(quantiles)
        are_numbers = all(isinstance(each, float) and 0 < each < 1 for each in chosen)
        if not chosen or not are_numbers or sorted({*chosen}) != chosen:
            raise ValueError(f"quantiles={chosen}: must be increasing numbers between 0 and 1")
        self.register_buffer("quantiles_Q", torch.tensor(chosen))
        self.distances_TQ = nn.Parameter(torch.zeros(num_outputs, len(chosen)))

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return the quantile loss, and the middle quantile for metrics and pictures."""
        inputs, targets = batch
        forecasts_NTQ = self._forecasts(inputs)
        errors_NTQ = targets.reshape(forecasts_NTQ.shape[:2])[..., None] - forecasts_NTQ
        above_NTQ = self.quantiles_Q * errors_NTQ
        below_NTQ = (self.quantiles_Q - 1) * errors_NTQ
        loss = torch.maximum(above_NTQ, below_NTQ).mean()
        are_inside_NT = (errors_NTQ[..., 0] >= 0) & (errors_NTQ[..., -1] <= 0)
        middle = len(self.quantiles_Q) // 2
        mae_N = errors_NTQ[..., middle].detach().abs().mean(dim=1)
        sums = {"mae": mae_N.sum(), "coverage": are_inside_NT.float().mean(dim=1).sum()}
        predictions = forecasts_NTQ[..., middle].reshape(targets.shape)
        return Outcome(loss, predictions, targets, sums)

    def predict_rows(self, inputs: Tensor, facts: Facts) -> list[dict[str, Any]]:
        """Return the quantiles of each target."""
        names = facts.target_names or ()
        quantiles = self.quantiles_Q.tolist()
        keys = [f"{name} at {quantile:.3g}" for name in names for quantile in quantiles]
        rows = self._forecasts(inputs).flatten(1).tolist()
        return [dict(zip(keys, row, strict=True)) for row in rows]

    def _forecasts(self, inputs: Tensor) -> Tensor:
        return self(inputs)[..., None] + self.distances_TQ

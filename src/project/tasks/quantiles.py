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
    """Predicts quantiles of each target: the network's number plus a learned distance for each.

    Logs the part of the targets between the first quantile and the last as `train/coverage`, and
    the mean absolute error of the middle one as `train/mae`.

    Source: Koenker and Bassett, Regression quantiles (1978).

    Args:
        quantiles: Increasing probabilities, in (0, 1).
        num_outputs: Number of targets, supplied by the data.
        kwargs: Arguments of `Task`.

    Raises:
        ValueError: `quantiles` are out of their range.

    Example:
        >>> task = Quantiles(network=nn.Identity(), quantiles=[0.9], num_outputs=1)
        >>> inputs = torch.zeros(1, 1)
        >>> round(task.step((inputs, torch.tensor([1.0]))).loss.item(), 2)
        0.9
        >>> task.predict_rows(inputs, Facts(target_names=("level",)))
        [{'level at 0.9': 0.0}]
    """

    quantiles_Q: Tensor

    kind = "values"
    sums = {"mae": 0.0, "coverage": 0.0}  # noqa: RUF012 - class constant

    def __init__(self, *, quantiles: Sequence[float], num_outputs: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        chosen = list(quantiles)
        are_numbers = all(isinstance(each, float) and 0 < each < 1 for each in chosen)
        is_increasing = are_numbers and sorted({*chosen}) == chosen
        if not chosen or not is_increasing:
            raise ValueError(f"quantiles={chosen}: must be increasing numbers between 0 and 1")
        self.register_buffer("quantiles_Q", torch.tensor(chosen))
        zeros_TQ = torch.zeros(num_outputs, len(chosen))
        self.distances_TQ = nn.Parameter(zeros_TQ)

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return the quantile loss, and the middle quantile for metrics and pictures."""
        inputs, targets = batch
        forecasts_NTQ = self._forecasts(inputs)
        targets_NT1 = targets.reshape(len(targets), -1, 1)
        errors_NTQ = targets_NT1 - forecasts_NTQ
        above_NTQ = self.quantiles_Q * errors_NTQ
        below_NTQ = (self.quantiles_Q - 1) * errors_NTQ
        loss = torch.maximum(above_NTQ, below_NTQ).mean()
        first_NT = errors_NTQ[..., 0]
        last_NT = errors_NTQ[..., -1]
        is_above_first_NT = first_NT >= 0
        is_below_last_NT = last_NT <= 0
        is_inside_NT = is_above_first_NT & is_below_last_NT
        coverage_N = is_inside_NT.float().mean(dim=1)
        middle = len(self.quantiles_Q) // 2
        errors_NT = errors_NTQ[..., middle].detach()
        mae_N = errors_NT.abs().mean(dim=1)
        sums = {"mae": mae_N.sum(), "coverage": coverage_N.sum()}
        predictions = forecasts_NTQ[..., middle].reshape(targets.shape)
        return Outcome(loss, predictions, targets, sums)

    def predict_rows(self, inputs: Tensor, facts: Facts) -> list[dict[str, Any]]:
        """Return the quantiles of each target."""
        keys = []
        for name in facts.target_names or ():
            for quantile in self.quantiles_Q.tolist():
                keys.append(f"{name} at {quantile:.3g}")
        forecasts_NTQ = self._forecasts(inputs)
        rows = []
        for forecasts in forecasts_NTQ.flatten(1).tolist():
            row = dict(zip(keys, forecasts, strict=True))
            rows.append(row)
        return rows

    def _forecasts(self, inputs: Tensor) -> Tensor:
        numbers_NT = self(inputs)
        return numbers_NT[..., None] + self.distances_TQ

"""Means over samples, whatever the sizes of the batches."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class Means(Metric):
    """Means of several values over samples (not over batches), over all processes.

    The sums stay tensors on the device, so that an update neither waits for it nor costs much. They are states of a
    metric, which the checkpoint of a run holds.

    Args:
        zeros: The sum of no samples by name, 0.0 or, of what is counted, 0.

    Example:
        >>> means = Means({"loss": 0.0})
        >>> means.update({"loss": torch.tensor(3.0)}, num_samples=2)
        >>> means.compute()
        {'loss': tensor(1.5000)}
    """

    full_state_update = False
    num_samples: Tensor

    def __init__(self, zeros: Mapping[str, float]) -> None:
        super().__init__()
        self.names = tuple(zeros)
        for name, zero in zeros.items():
            self.add_state(f"{name}_sum", torch.tensor(zero), dist_reduce_fx="sum")
        self.add_state("num_samples", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, sums: Mapping[str, Tensor], num_samples: int) -> None:
        """Add a batch: the sum of each value over its samples, and their number."""
        for name in self.names:
            sum_ = getattr(self, f"{name}_sum")
            sum_ += sums[name]
        self.num_samples += num_samples

    def compute(self) -> dict[str, Tensor]:
        """Means over all processes since the last reset."""
        return {name: getattr(self, f"{name}_sum") / self.num_samples for name in self.names}

    def since(self, before: "Means", reduce: Any) -> dict[str, Tensor]:
        """Means over all processes of what was added since `before` had these sums, which it gets."""
        names = [*(f"{name}_sum" for name in self.names), "num_samples"]
        added = {name: reduce(getattr(self, name) - getattr(before, name), reduce_op="sum") for name in names}
        for name in names:
            setattr(before, name, getattr(self, name).clone())
        return {name: added[f"{name}_sum"] / added["num_samples"] for name in self.names}

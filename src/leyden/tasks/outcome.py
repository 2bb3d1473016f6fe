"""What comes of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor


class Outcome(NamedTuple):
    """What a task makes of a batch.

    Args:
        loss: Mean over the samples of the batch; training goes down on it.
        predictions: What metrics and pictures take, one per sample.
        targets: What they are compared with.
        sums: Further values, each summed over the samples: their means are logged beside the loss.
    """

    loss: Tensor
    predictions: Tensor
    targets: Tensor
    sums: Mapping[str, Tensor] = {}

    @property
    def shown(self) -> dict[str, Tensor]:
        """Predictions and targets, as validation and test steps give them."""
        return {"predictions": self.predictions, "targets": self.targets}

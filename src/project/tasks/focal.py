"""Focal loss.

Shapes: N samples in a batch, K classes.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FocalLoss(nn.Module):
    """Focal loss, cross-entropy with less weight on well-classified samples: (1 - p)^γ · -log p.

    Source: Lin, Goyal, Girshick, He and Dollár, Focal loss for dense object detection (2017).

    Args:
        num_classes: Number of classes, supplied by the data.
        gamma: γ, 0 or larger; 0 is cross-entropy.
        class_weights: A positive factor per class; None for 1 each.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> loss = FocalLoss(num_classes=2, gamma=2.0, class_weights=None)
        >>> round(loss(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # (1 - ½)² · log 2
        0.1733
    """

    weights_K: Tensor

    def __init__(
        self, *, num_classes: int, gamma: float, class_weights: Sequence[float] | None
    ) -> None:
        super().__init__()
        if not isinstance(gamma, int | float) or not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma={gamma}: must be a number, 0 or larger")
        if class_weights is None:
            class_weights = [1.0] * num_classes
        weights = list(class_weights)
        are_positive = all(isinstance(weight, int | float) and weight > 0 for weight in weights)
        if len(weights) != num_classes or not are_positive:
            raise ValueError(
                f"class_weights={class_weights}: must be {num_classes} positive numbers, or null"
            )
        self.gamma = gamma
        weights_K = torch.tensor(weights, dtype=torch.float32)
        self.register_buffer("weights_K", weights_K)

    def forward(self, logits_NK: Tensor, labels_N: Tensor) -> Tensor:
        """Return the mean loss for logits, shape (N, K), and class indices, shape (N,)."""
        losses_N = F.cross_entropy(logits_NK, labels_N, reduction="none")
        probabilities_N = torch.exp(-losses_N)
        focus_N = (1 - probabilities_N) ** self.gamma
        weights_N = self.weights_K[labels_N]
        weighted_N = weights_N * focus_N * losses_N
        return weighted_N.mean()

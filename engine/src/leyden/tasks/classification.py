"""Classification: cross-entropy and accuracy.

Shapes: N samples of a batch, K classes.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from leyden.tasks.task import Outcome, Task


class Classification(Task):
    """Trains a network to predict classes: logits, shape (N, K), for class indices, shape (N,).

    Logs the accuracy as `train/acc`, beside the loss.

    Args:
        label_smoothing: Part of a label's weight that is spread over all classes, in training only, in [0, 1).
        loss: Function of logits and class indices that returns the mean loss; None: cross-entropy.
        kwargs: Arguments of `Task`: `network`, `optimizer`, `scheduler`, `metrics`.

    Raises:
        ValueError: `label_smoothing` is out of its range, or combined with a custom loss.
    """

    kind = "classes"
    sums = {"acc": 0}  # noqa: RUF012 - class constant

    def __init__(
        self,
        *,
        label_smoothing: float = 0.0,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not isinstance(label_smoothing, int | float) or not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing}: must be a number in [0, 1)")
        if label_smoothing and loss is not None:
            raise ValueError(
                f"label_smoothing={label_smoothing}: applies to cross-entropy only, not to a custom loss"
            )
        self.label_smoothing, self.loss = label_smoothing, loss

    def step(self, batch: tuple[Tensor, Tensor]) -> Outcome:
        """Return logits and loss for normalised images, shape (N, C, H, W), and their classes, shape (N,)."""
        inputs, labels_N = batch
        logits_NK = self(inputs)
        if self.loss is not None:
            loss = self.loss(logits_NK, labels_N)
        else:
            smoothing = self.label_smoothing if self.training else 0.0
            loss = F.cross_entropy(logits_NK, labels_N, label_smoothing=smoothing)
        num_correct = (logits_NK.argmax(dim=1) == labels_N).sum()
        return Outcome(loss, logits_NK, labels_N, {"acc": num_correct})

"""What a trained network says of a split of classes. Shapes: N samples, K classes."""

from dataclasses import dataclass

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.evaluation import NAMES, OnEvaluation


@dataclass
class ClassEvaluation:
    """A split, in the order of the data set, and the probabilities that the network gives to its classes."""

    split: str
    labels_N: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def title(self) -> str:
        """What it is about, and how often the network is right."""
        accuracy = (self.probabilities_NK.argmax(axis=1) == self.labels_N).mean()
        return f"{NAMES[self.split]}, {len(self.labels_N):,} samples, accuracy {accuracy:.4f}"


class OnClasses(OnEvaluation):
    """Base of those that draw from the evaluation of classes; a subclass has `draw_classes`.

    Args:
        class_names: Of the data.
    """

    kind = "classes"

    def __init__(self, *, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw from logits, shape (N, K), and classes, shape (N,)."""
        probabilities_NK = predictions.float().softmax(dim=1).numpy()
        self.draw_classes(trainer, ClassEvaluation(split, targets.numpy(), probabilities_NK, self.class_names))

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw, in the first process."""
        raise NotImplementedError

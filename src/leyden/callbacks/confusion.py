"""Which classes are taken for which."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from leyden.callbacks.classes import ClassEvaluation, OnClasses
from leyden.callbacks.writer import add_image
from leyden.images.render import render

MAX_WRITTEN = 20  # classes up to which the numbers are written into the cells


class Confusion(OnClasses):
    """Draws the confusion matrix of the evaluation at the end: `confusion.png`, and the loggers' images."""

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw the matrix into both."""
        pixels = render(figure(evaluation), Path(trainer.default_root_dir) / "confusion.png")
        add_image(trainer, f"confusion/{evaluation.split}", pixels, trainer.global_step)


def counts(evaluation: ClassEvaluation) -> NDArray[np.int64]:
    """Number of images by true and predicted class, shape (K, K)."""
    num_classes = len(evaluation.class_names)
    pairs = evaluation.labels_N * num_classes + evaluation.probabilities_NK.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def figure(evaluation: ClassEvaluation) -> Figure:
    """One row per true class, one column per predicted class, coloured by the share of the row."""
    counts_KK = counts(evaluation)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    num_classes = len(counts_KK)
    longest = max(map(len, evaluation.class_names)) if num_classes <= MAX_WRITTEN else 3
    margin = 0.08 + 0.013 * longest  # a layout engine would draw twice
    made = Figure(figsize=(6, 6))
    axes: Any = made.add_axes((margin, margin, 0.95 - margin, 0.95 - margin))
    # By the root of the root, so that a mistake of one in a hundred has a colour.
    axes.imshow(shares_KK, cmap="Blues", norm=PowerNorm(0.25, vmin=0, vmax=1))
    if num_classes <= MAX_WRITTEN:
        names = evaluation.class_names
        axes.set_xticks(range(num_classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(num_classes), names)
        for (row, column), count in np.ndenumerate(counts_KK):
            if count:
                colour = "white" if shares_KK[row, column] > 0.1 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.set_title(evaluation.title, fontsize=10)
    return made

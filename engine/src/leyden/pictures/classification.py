"""Pictures of a classifier: confusion matrix and worst errors.

Shapes: N samples, K classes.
"""

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from leyden.data.contract import DataModule
from leyden.pictures.base import SPLIT_NAMES, OnEvaluation, add_image, save_picture, sheet


@dataclass
class ClassEvaluation:
    """Labels and predicted probabilities of a split, in the dataset's order."""

    split: str
    labels_N: NDArray[np.int64]
    probabilities_NK: NDArray[np.float32]
    class_names: tuple[str, ...]

    @property
    def title(self) -> str:
        """Title with the split, its size, and the accuracy."""
        accuracy = (self.probabilities_NK.argmax(axis=1) == self.labels_N).mean()
        return f"{SPLIT_NAMES[self.split]}, {len(self.labels_N):,} samples, accuracy {accuracy:.4f}"


class OnClassEvaluation(OnEvaluation):
    """Base of pictures of a classification evaluation; a subclass defines `draw_classes`.

    Args:
        class_names: Class names of the data.
    """

    kind = "classes"

    def __init__(self, *, class_names: tuple[str, ...]) -> None:
        self.class_names = class_names

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw from logits, shape (N, K), and classes, shape (N,)."""
        probabilities_NK = predictions.float().softmax(dim=1).numpy()
        self.draw_classes(trainer, ClassEvaluation(split, targets.numpy(), probabilities_NK, self.class_names))

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw; called in the process of rank 0."""
        raise NotImplementedError


MAX_COUNTED_CLASSES = 20  # maximum number of classes for which counts are written into the cells


class Confusion(OnClassEvaluation):
    """Draws the confusion matrix of the final evaluation, as `confusion.png` and in the loggers."""

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Write the matrix to the file and the loggers."""
        pixels = save_picture(trainer, confusion_figure(evaluation), "confusion.png")
        add_image(trainer, f"confusion/{evaluation.split}", pixels, trainer.global_step)


def confusion_counts(evaluation: ClassEvaluation) -> NDArray[np.int64]:
    """Return the number of samples by true and predicted class, shape (K, K)."""
    num_classes = len(evaluation.class_names)
    pairs = evaluation.labels_N * num_classes + evaluation.probabilities_NK.argmax(axis=1)
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def confusion_figure(evaluation: ClassEvaluation) -> Figure:
    """Return a confusion matrix: rows are true classes, columns predicted ones, coloured by the row's share."""
    counts_KK = confusion_counts(evaluation)
    shares_KK = counts_KK / np.maximum(counts_KK.sum(axis=1, keepdims=True), 1)
    num_classes = len(counts_KK)
    longest = max(map(len, evaluation.class_names)) if num_classes <= MAX_COUNTED_CLASSES else 3
    margin = 0.08 + 0.013 * longest  # without a layout engine, which would draw twice
    figure = Figure(figsize=(6, 6))
    axes: Any = figure.add_axes((margin, margin, 0.95 - margin, 0.95 - margin))
    # Fourth root, so that one error in a hundred is visible.
    axes.imshow(shares_KK, cmap="Blues", norm=PowerNorm(0.25, vmin=0, vmax=1))
    if num_classes <= MAX_COUNTED_CLASSES:
        names = evaluation.class_names
        axes.set_xticks(range(num_classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(num_classes), names)
        for (row, column), count in np.ndenumerate(counts_KK):
            if count:
                colour = "white" if shares_KK[row, column] > 0.1 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("predicted (colour: fourth root of the share of the row)")
    axes.set_ylabel("true")
    axes.set_title(evaluation.title, fontsize=10)
    return figure


ERROR_COLUMNS = 6  # few, so that captions are readable in a paper's column


class Errors(OnClassEvaluation):
    """Shows the most confident errors of the final evaluation, as `errors.png` and in the loggers.

    Args:
        num_images: Maximum number of images.
        class_names: Class names of the data.
    """

    def __init__(self, *, num_images: int, class_names: tuple[str, ...]) -> None:
        super().__init__(class_names=class_names)
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.num_images = num_images

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw the errors, the most confident first, with both classes and the probability of the wrong one."""
        indices = most_confident(evaluation)[: self.num_images]
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        images_NCHW = data.inputs(evaluation.split, indices).numpy()
        pixels = save_picture(trainer, errors_figure(evaluation, indices, images_NCHW), "errors.png")
        add_image(trainer, f"errors/{evaluation.split}", pixels, trainer.global_step)


def errors_figure(evaluation: ClassEvaluation, indices: NDArray[Any], images_NCHW: NDArray[Any]) -> Figure:
    """Return a sheet of misclassified images, each with its class, the predicted class, and that class's probability.

    Args:
        evaluation: The evaluation.
        indices: Indices of the images in the split, shape (N,).
        images_NCHW: The images, shape (N, C, H, W).
    """
    names, probabilities_NK = evaluation.class_names, evaluation.probabilities_NK
    # The longest line is "predicted NAME", if that is readable in a tile's width; else the title has the words.
    are_short = max(map(len, names)) <= 4
    captions = []
    for n in indices:
        k = probabilities_NK[n].argmax()
        true, predicted = names[evaluation.labels_N[n]], names[k]
        words = f"true {true} →\npredicted {predicted}" if are_short else f"{true} →\n{predicted}"
        captions.append(f"{words}\n{probabilities_NK[n, k]:.3f}")
    title = f"{evaluation.title}\nmost confident mistakes: true class → predicted class, its probability"
    return sheet(images_NCHW, captions, title, num_columns=ERROR_COLUMNS)


def most_confident(evaluation: ClassEvaluation) -> NDArray[Any]:
    """Return the indices of misclassified samples, the most confident first."""
    predicted = evaluation.probabilities_NK.argmax(axis=1)
    wrong = np.flatnonzero(predicted != evaluation.labels_N)
    order = np.argsort(-evaluation.probabilities_NK[wrong, predicted[wrong]], kind="stable")
    return wrong[order]

"""Pictures of outputs: a classifier's confusion matrix and worst errors, and one per other kind of task.

Shapes: N samples, K classes, T targets or tokens.
"""

from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.data.contract import DataModule
from leyden.data.text import text_of
from leyden.exact.lightning import logged_steps
from leyden.pictures.base import SPLIT_NAMES, OnEvaluation, positive, publish, sheet, tensorboard_writer, wrapped
from leyden.run.result import plain
from leyden.tasks.language import generate
from leyden.tasks.task import Task


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
        publish(trainer, confusion_figure(evaluation), "confusion", evaluation.split)


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
        names = [*map(plain, evaluation.class_names)]
        axes.set_xticks(range(num_classes), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(num_classes), names)
        for (row, column), count in np.ndenumerate(counts_KK):
            if count:
                colour = "white" if shares_KK[row, column] > 0.1 else "black"
                axes.text(column, row, count, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xlabel("predicted (colour: fourth root of the share of the row)")
    axes.set_ylabel("true")
    axes.set_title(plain(evaluation.title), fontsize=10)
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
        self.num_images = positive(num_images=num_images)

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw the errors, the most confident first, with both classes and the probability of the wrong one."""
        indices = most_confident(evaluation)[: self.num_images]
        data: DataModule = trainer.datamodule  # type: ignore[attr-defined]
        if not callable(getattr(data, "inputs", None)):  # its samples are not tensors of one shape
            return
        images_NCHW = data.inputs(evaluation.split, indices).numpy()
        publish(trainer, errors_figure(evaluation, indices, images_NCHW), "errors", evaluation.split)


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


class Reconstructions(OnEvaluation):
    """Shows the first images of the final evaluation with their reconstructions.

    Draws `reconstructions.png` and logs the picture. Data that are not images have no such picture.

    Args:
        num_images: Number of images.
    """

    kind = "reconstruction"

    def __init__(self, *, num_images: int) -> None:
        self.max_samples = positive(num_images=num_images)

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw images, shape (C, H, W), each above its reconstruction."""
        if targets.ndim != 4 or targets.shape[1] not in (1, 3):
            return
        pairs_NCHW = torch.cat([targets, predictions.to(targets)], dim=2).float().numpy()
        figure = sheet(pairs_NCHW, (), f"{SPLIT_NAMES[split]}: each image above its reconstruction")
        publish(trainer, figure, "reconstructions", split)


MAX_PANELS = 6
MAX_POINTS = 2_000  # more points would hide each other; their density is drawn instead


class Predicted(OnEvaluation):
    """Draws predicted against true values of the final evaluation, as `predicted.png` and in the loggers.

    Args:
        target_names: Target names of the data.
    """

    kind = "values"

    def __init__(self, *, target_names: tuple[str, ...]) -> None:
        self.target_names = target_names

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw from numbers, both of shape (N,) or (N, T)."""
        predicted_NT, true_NT = (
            values.float().reshape(len(values), -1).numpy() for values in (predictions, targets)
        )
        figure = prediction_figure(
            predicted_NT, true_NT, self.target_names, f"{SPLIT_NAMES[split]}, {len(targets):,} samples"
        )
        publish(trainer, figure, "predicted", split)


def prediction_figure(
    predicted_NT: NDArray[Any], true_NT: NDArray[Any], names: tuple[str, ...], title: str
) -> Figure:
    """Return one panel per target, with equal axes, the diagonal of exact predictions, and R²."""
    num = min(len(names), MAX_PANELS)
    is_density = len(true_NT) > MAX_POINTS
    figure = Figure(figsize=((4.9 if is_density else 4.1) * num, 4.5), layout="constrained")
    figure.suptitle(wrapped(title, figure.get_figwidth(), 10), fontsize=10)
    for t, name in enumerate(names[:num]):
        axes: Any = figure.add_subplot(1, num, t + 1)
        true, predicted = true_NT[:, t], predicted_NT[:, t]
        if is_density:
            cells = axes.hexbin(true, predicted, gridsize=60, bins="log", cmap="Blues", mincnt=1, linewidths=0.1)
            figure.colorbar(cells, ax=axes, label="samples per cell", format="{x:g}", fraction=0.046, pad=0.03)
        else:
            axes.scatter(true, predicted, s=8, alpha=0.5, linewidths=0)
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        axes.plot([low, high], [low, high], color="#d95f02", linewidth=1, linestyle="--", label="exact")
        axes.legend(loc="upper left", fontsize=8)
        spread = np.square(true - true.mean()).sum()
        r2 = f"R² {1 - np.square(predicted - true).sum() / spread:.4f}" if spread > 0 else ""
        axes.set_title(r2, fontsize=10)
        axes.set_xlabel(plain(f"true {name}"))
        axes.set_ylabel(plain(f"predicted {name}"))
        margin = 0.03 * ((high - low) or 1.0)
        axes.set(xlim=(low - margin, high + margin), ylim=(low - margin, high + margin), box_aspect=1)
        axes.grid(alpha=0.3)
    return figure


class Generated(DisplayCallback):
    """Writes a generated text to TensorBoard after each epoch, always sampled with the same seed.

    The prompt is a newline, if it is in the vocabulary, otherwise the vocabulary's first token.

    Args:
        num_tokens: Length of the text.
        temperature: Sampling temperature; near 0, the most likely token is chosen.
        vocabulary: Text of each token.
        input_shape: Shape of one sample, (T,): the maximum number of tokens that the network accepts.
    """

    def __init__(
        self, *, num_tokens: int, temperature: float, vocabulary: tuple[str, ...], input_shape: tuple[int, ...]
    ) -> None:
        if not isinstance(temperature, int | float) or not temperature > 0:
            raise ValueError(f"temperature={temperature}: must be a positive number")
        self.num_tokens, self.temperature = positive(num_tokens=num_tokens), temperature
        self.vocabulary, self.max_context = vocabulary, input_shape[0]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the text for this epoch."""
        writer = tensorboard_writer(trainer)
        if writer is None or not isinstance(pl_module, Task) or pl_module.kind != "text":
            return
        first = self.vocabulary.index("\n") if "\n" in self.vocabulary else 0
        network = pl_module.network
        was_training = network.training
        network.eval()
        try:
            tokens_T = generate(
                network,
                torch.tensor([first], device=pl_module.device),
                num_tokens=self.num_tokens,
                max_context=self.max_context,
                temperature=self.temperature,
                seed=0,
            )
        finally:
            network.train(was_training)
        text = text_of(tokens_T, self.vocabulary)
        verbatim = "\n".join(f"    {line}" for line in text.splitlines())  # as Markdown shows it
        writer.add_text("generated", verbatim, logged_steps(trainer) - 1)

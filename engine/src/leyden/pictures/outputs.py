"""Pictures of outputs: their files, loggers and sheets, a classifier's confusion matrix and worst errors, and one per other kind of task.

Shapes: N samples, K classes, T targets or tokens.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.data.text import text_of
from leyden.data.transforms import check_integers
from leyden.exact.files import replacing
from leyden.exact.lightning import logged_steps
from leyden.run.directory import Run
from leyden.run.lock import check_held
from leyden.run.result import plain, save_pdf
from leyden.tasks import generate
from leyden.tasks.task import Task


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """Return the run's `SummaryWriter`; None without TensorBoard, and in processes of rank above 0."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def publish(trainer: L.Trainer, figure: Figure, name: str, split: str) -> None:
    """Write a figure as `NAME.png`, and log it to TensorBoard and each logger with a `log_image` like `WandbLogger`'s."""
    pixels_HWC, tag, step = save_picture(trainer, figure, f"{name}.png"), f"{name}/{split}", trainer.global_step
    for logger in trainer.loggers if trainer.is_global_zero else ():
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, pixels_HWC, step, dataformats="HWC")
        elif hasattr(logger, "log_image"):
            logger.log_image(key=tag, images=[pixels_HWC], step=step)


def save_picture(trainer: L.Trainer, figure: Figure, name: str) -> NDArray[np.uint8]:
    """Write a figure to the run directory, in the format `picture_format`, and return its pixels, shape (H, W, 3).

    Args:
        trainer: Lightning's trainer.
        figure: The figure.
        name: Name of the file, such as `curves.png`.
    """
    directory = Path(trainer.default_root_dir)
    return render(figure, directory / name, file_format=Run(directory).config.get("picture_format", "png"))


def render(figure: Figure, path: Path | None = None, *, file_format: str = "png") -> NDArray[np.uint8]:
    """Draw a figure and return its pixels, shape (H, W, 3); also write a PNG file if `path` is set.

    Args:
        figure: The figure.
        path: Path of the PNG file; None for no file.
        file_format: `pdf` to write a PDF file beside the PNG file.
    """
    figure.set_dpi(120)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: NDArray[Any] = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    if path is not None:
        check_held(path.parent)
        with replacing(path) as file:
            imsave(file, pixels, format="png")
        if file_format == "pdf":
            with replacing(path.with_suffix(".pdf")) as file:
                save_pdf(figure, file)
    return pixels


def wrapped(title: str, width_inches: float, font_size: float) -> str:
    """Return a title with line breaks, so that it fits a figure of this width."""
    characters = max(
        10, int(width_inches * 72 / (0.55 * font_size))
    )  # the mean width of a character is 0.55 of its size
    return plain("\n".join(textwrap.fill(line, characters) for line in title.split("\n")))


TILE_INCHES = 0.8
LINE_INCHES = 0.16  # height of a caption's line
FONT_SIZE, TITLE_SIZE = 8, 9
LINE_CHARACTERS = 13  # characters per line at this font size; longer lines use a smaller font
GAP = 0.1  # between tiles, as a fraction of the tile
MIN_INCHES = 3.5  # minimum figure width, for the title


def sheet(images_NCHW: NDArray[Any], captions: Sequence[str], title: str, *, num_columns: int = 8) -> Figure:
    """Return a figure with images in rows, each below its caption.

    Args:
        images_NCHW: Images, shape (N, C, H, W), of any range; the smallest value of all is black, the largest
            white.
        captions: N captions, or none.
        title: Title of the sheet.
        num_columns: Images per row.
    """
    num, _, height, width = images_NCHW.shape
    num_columns = max(1, min(num_columns, num))
    num_rows = max(1, -(-num // num_columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    # One image for all tiles, since creating axes costs as much as a hundred tiles.
    gap_x = round(width * GAP)
    gap_y = round(height * GAP + width * lines * LINE_INCHES / TILE_INCHES)
    canvas = np.ones((num_rows * (height + gap_y) + gap_x, num_columns * (width + gap_x) + gap_x, 3))
    places = (divmod(n, num_columns) for n in range(num))
    corners = [(row * (height + gap_y) + gap_y, column * (width + gap_x) + gap_x) for row, column in places]
    for (top, left), image in zip(corners, as_colours(images_NCHW), strict=True):
        canvas[top : top + height, left : left + width] = image
    sheet_height, sheet_width = (size * TILE_INCHES / width for size in canvas.shape[:2])
    figure_width = max(sheet_width, MIN_INCHES)
    title = wrapped(title, figure_width, TITLE_SIZE)
    title_height = 0.1 + 0.2 * (title.count("\n") + 1)
    figure = Figure(figsize=(figure_width, sheet_height + title_height))
    axes = figure.add_axes((0.0, 0.0, 1.0, sheet_height / (sheet_height + title_height)))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    longest = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    size = FONT_SIZE * min(1.0, LINE_CHARACTERS / max(longest, 1))
    for (top, left), caption in zip(corners, captions, strict=bool(captions)):
        axes.text(left + width / 2, top - height * GAP / 2, plain(caption), ha="center", va="bottom", fontsize=size)
    figure.text(0.5, 1 - 0.05 / (sheet_height + title_height), title, ha="center", va="top", fontsize=TITLE_SIZE)
    return figure


def as_colours(images_NCHW: NDArray[Any]) -> NDArray[Any]:
    """Return images as RGB in [0, 1], shape (N, H, W, 3), scaled from the smallest to the largest value.

    Three channels are RGB; any other number of channels is averaged to grey.
    """
    images = images_NCHW.astype(np.float32)
    if images.shape[1] != 3:
        images = images.mean(axis=1, keepdims=True).repeat(3, axis=1)
    low, high = (images.min(), images.max()) if images.size else (0.0, 1.0)
    return ((images - low) / ((high - low) or 1.0)).transpose(0, 2, 3, 1)


SPLIT_NAMES = {"val": "validation split", "test": "test set"}


class OnEvaluation(DisplayCallback):
    """Base of callbacks that draw from the evaluation of the best weights at the end of a run.

    This is the test evaluation, if the run has one, otherwise that of the validation split; no callback evaluates
    on the test set by itself. Validation during training is ignored. A subclass defines `draw`, and the `kind` of
    tasks for which it draws.
    """

    at_end = True
    kind: str  # `Task.kind` of the supported tasks
    max_samples: int | None = None  # samples to keep for the picture; None: all

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw; called in the process of rank 0.

        Args:
            trainer: Lightning's trainer.
            split: `val` or `test`.
            predictions: Predictions in the dataset's order, shape (N, ...), on the CPU.
            targets: Targets in the same order, shape (N, ...), on the CPU.
        """
        raise NotImplementedError

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Keep a batch, if this is the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module, *args)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the predictions and targets of a batch."""
        if batch_idx == 0 and dataloader_idx == 0:
            self._batches: list[tuple[Tensor, Tensor]] = []
        is_full = self.max_samples is not None and sum(len(each) for each, _ in self._batches) >= self.max_samples
        if isinstance(pl_module, Task) and pl_module.kind == self.kind and not is_full and outputs:
            self._batches.append((outputs["predictions"].cpu(), outputs["targets"].cpu()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if this was the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self._draw_evaluation(trainer, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw from the test evaluation."""
        self._draw_evaluation(trainer, "test")

    def _draw_evaluation(self, trainer: L.Trainer, split: str) -> None:
        batches, self._batches = getattr(self, "_batches", []), []
        if not batches:
            return
        predictions, targets = (gather(list(part), trainer.world_size) for part in zip(*batches, strict=True))
        if trainer.is_global_zero:
            self.draw(trainer, split, predictions[: self.max_samples], targets[: self.max_samples])


def gather(batches: list[Tensor], world_size: int) -> Tensor:
    """Return the batches of all processes as one tensor, in the dataset's order.

    Each process has every `world_size`-th sample of each batch.
    """
    if world_size == 1:
        return torch.cat(batches)
    batches_by_rank: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(batches_by_rank, batches)
    num = min(map(len, batches_by_rank))  # a process with smaller parts may have kept one more batch
    return interleave([each[:num] for each in batches_by_rank])


def interleave(batches: list[list[Tensor]]) -> Tensor:
    """Merge tensors, given by process and batch, so that the processes alternate within each batch."""
    merged = []
    for parts in zip(*batches, strict=True):
        whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
        merged.append(whole)
    return torch.cat(merged)


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
        check_integers(num_images=(num_images, 1))
        self.num_images = num_images

    def draw_classes(self, trainer: L.Trainer, evaluation: ClassEvaluation) -> None:
        """Draw the errors, the most confident first, with both classes and the probability of the wrong one."""
        indices = most_confident(evaluation)[: self.num_images]
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
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
        check_integers(num_images=(num_images, 1))
        self.max_samples = num_images

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
        check_integers(num_tokens=(num_tokens, 1))
        self.num_tokens, self.temperature = num_tokens, temperature
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

"""Pictures and measurements of a run, which change no bit of it.

Shapes: N samples, K classes, T targets or tokens.
"""

import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer
from torchvision.utils import make_grid

from leyden.base.figures import plain, save_pdf, use_log_scale
from leyden.base.metric_names import chart_of
from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.samples import samples_per_batch
from leyden.config.values import flatten
from leyden.data.contract import Names
from leyden.data.text import text_of_tokens
from leyden.data.transforms import check_integers
from leyden.exact.files import replacing
from leyden.exact.lightning import logged_steps
from leyden.exact.loaders import gather_from_processes
from leyden.exact.stages import stages_of
from leyden.run.curves import read_curves
from leyden.run.directory import Run
from leyden.run.lock import check_held
from leyden.tasks import Task, evaluated_stage, generate

__all__ = [
    "Confusion",
    "Curves",
    "Errors",
    "Generated",
    "LoggedConfig",
    "Monitor",
    "OnEvaluation",
    "Predicted",
    "Reconstructions",
    "publish",
    "save_picture",
]


def publish(
    trainer: L.Trainer,
    figure: Figure,
    name: str,
    split: str,
) -> None:
    """Write a figure as `NAME.png`, and log it wherever pictures can be logged."""
    pixels_HWC = save_picture(trainer, figure, f"{name}.png")
    if not trainer.is_global_zero:
        return
    tag = f"{name}/{split}"
    step = trainer.global_step
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, pixels_HWC, step, dataformats="HWC")
        elif hasattr(logger, "log_image"):
            logger.log_image(key=tag, images=[pixels_HWC], step=step)


def save_picture(trainer: L.Trainer, figure: Figure, name: str) -> NDArray[np.uint8]:
    """Write a figure to the run directory, with `picture_format=pdf` also as PDF.

    Return its pixels, (H, W, 3).

    Args:
        trainer: Lightning's trainer.
        figure: The figure.
        name: Name of the file, such as `curves.png`.
    """
    path = Path(trainer.default_root_dir, name)
    pixels_HWC = render(figure)
    check_held(path.parent)
    with replacing(path) as file:
        imsave(file, pixels_HWC, format="png")
    if Run(path.parent).config.get("picture_format") == "pdf":
        with replacing(path.with_suffix(".pdf")) as file:
            save_pdf(figure, file)
    return pixels_HWC


def render(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure and return its pixels, shape (H, W, 3)."""
    figure.set_dpi(120)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels_HWC: NDArray[Any] = np.asarray(canvas.buffer_rgba())
    return pixels_HWC[:, :, :3].copy()


def wrapped(title: str, width_inches: float, font_size: float) -> str:
    """Return a title with line breaks, so that it fits a figure of this width."""
    # The mean width of a character is 0.55 of its size.
    num = int(width_inches * 72 / (0.55 * font_size))
    lines = [textwrap.fill(line, max(10, num)) for line in title.splitlines()]
    return plain("\n".join(lines))


TILE_INCHES = 0.8
LINE_INCHES = 0.16  # height of a caption's line
FONT_SIZE = 8
TITLE_SIZE = 9
LINE_CHARACTERS = 13  # characters per line at this font size; longer lines use a smaller font
TILE_GAP = 0.1  # between tiles, as a fraction of the tile's width
MIN_INCHES = 3.5  # minimum figure width, for the title


def sheet(
    images_NCHW: Tensor,
    captions: Sequence[str],
    title: str,
    *,
    num_columns: int = 8,
) -> Figure:
    """Return a figure with images in rows, each below its caption.

    Args:
        images_NCHW: Images, shape (N, C, H, W), of any range; the smallest value of all is black,
            the largest white.
        captions: A caption for each image, all of as many lines; or none.
        title: Title of the sheet.
        num_columns: Images per row.
    """
    num, _, height, width = images_NCHW.shape
    inches = TILE_INCHES / width  # of a pixel
    lines = "\n".join(captions).splitlines()
    num_lines = len(lines) // max(1, len(captions))
    gap = round(width * TILE_GAP)
    head = round(num_lines * LINE_INCHES / inches)
    tiles = as_colours(images_NCHW) if num else torch.ones(1, 3, height, width)
    tiles = F.pad(tiles, (0, 0, head, 0), value=1.0)  # room for the caption
    # One image for all tiles, since creating axes costs as much as a hundred tiles.
    canvas_CHW = make_grid(tiles, nrow=num_columns, padding=gap, pad_value=1.0)
    canvas_HWC = canvas_CHW.permute(1, 2, 0)
    figure_width = max(canvas_HWC.shape[1] * inches, MIN_INCHES)
    title = wrapped(title, figure_width, TITLE_SIZE)
    sheet_height = len(canvas_HWC) * inches
    figure_height = sheet_height + 0.3 + 0.2 * title.count("\n")
    figure = Figure(figsize=(figure_width, figure_height))
    axes = figure.add_axes((0.0, 0.0, 1.0, sheet_height / figure_height))
    axes.imshow(canvas_HWC.numpy(), interpolation="nearest")
    axes.set_axis_off()
    longest = max(map(len, lines), default=1)
    size = FONT_SIZE * min(1, LINE_CHARACTERS / longest)
    for n, caption in enumerate(captions):
        row, column = divmod(n, num_columns)
        x = gap + column * (width + gap) + width / 2
        y = (row + 1) * (gap + head) + row * height - gap / 2
        axes.text(x, y, plain(caption), ha="center", va="bottom", fontsize=size)
    top = 1 - 0.05 / figure_height
    figure.text(0.5, top, title, ha="center", va="top", fontsize=TITLE_SIZE)
    return figure


def as_colours(images_NCHW: Tensor) -> Tensor:
    """Return images as RGB, shape (N, 3, H, W), scaled so that their values fill [0, 1].

    Three channels are RGB; any other number of channels is averaged to grey.
    """
    images = images_NCHW.float()
    if images.shape[1] != 3:
        grey = images.mean(dim=1, keepdim=True)
        images = grey.expand(-1, 3, -1, -1)
    low = images.min()
    span = images.max() - low
    return (images - low) / (span or 1.0)


SPLIT_NAMES = {"val": "validation split", "test": "test set"}


class OnEvaluation(DisplayCallback):
    """Base of callbacks that draw from the evaluation of the best weights at the end of a run.

    This is the test evaluation, if the run has one, otherwise that of the validation split; no
    callback evaluates on the test set by itself. Validation during training is ignored. A subclass
    defines `draw`, and the `kind` of tasks for which it draws.
    """

    at_end = True
    kind: str  # `Task.kind` of the supported tasks
    max_samples: int | None = None  # samples to keep for the picture; None: all

    def draws(self, module: L.LightningModule) -> bool:
        """Return whether the picture is one of a module's predictions."""
        return isinstance(module, Task) and module.kind == self.kind

    def draw(
        self,
        trainer: L.Trainer,
        split: str,
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Draw; called in the process of rank 0.

        Args:
            trainer: Lightning's trainer.
            split: `val` or `test`.
            predictions: Predictions in the dataset's order, shape (N, ...), on the CPU.
            targets: Targets in the same order, shape (N, ...), on the CPU.
        """
        raise NotImplementedError

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        *args: Any,
    ) -> None:
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
            self._batches: list[list[dict[str, Tensor]]] = []  # each by virtual rank
            self._num_kept = 0
        if not outputs or not self.draws(pl_module):
            return
        if self.max_samples is not None and self._num_kept >= self.max_samples:
            return
        by_rank = getattr(trainer.strategy, "outputs", {0: outputs})  # of virtual ranks
        kept = []
        for each in by_rank.values():
            kept.append({name: each[name].cpu() for name in ("predictions", "targets")})
            self._num_kept += len(each["predictions"])
        self._batches.append(kept)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if this was the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self._draw_evaluation(trainer, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw from the test evaluation."""
        if evaluated_stage(trainer) == "test":
            self._draw_evaluation(trainer, "test")

    def _draw_evaluation(self, trainer: L.Trainer, split: str) -> None:
        batches = getattr(self, "_batches", [])
        self._batches = []
        if not batches:
            return
        by_rank = list(zip(*batches, strict=True))
        gathered = {}
        for name in ("predictions", "targets"):
            own = []
            for of_rank in by_rank:
                own.append([batch[name] for batch in of_rank])
            gathered[name] = gather(own)[: self.max_samples]
        if trainer.is_global_zero:
            self.draw(trainer, split, gathered["predictions"], gathered["targets"])


def gather(own: list[list[Tensor]]) -> Tensor:
    """Return the batches of all processes as one tensor, in the dataset's order.

    Each process, or each of its virtual ranks, has every `n`-th sample of each batch.

    Args:
        own: The batches of this process's ranks.
    """
    batches_by_rank: list[list[Tensor]] = []
    for each in gather_from_processes(own):
        batches_by_rank += each
    num_ranks = len(batches_by_rank)
    merged = []
    # A process with smaller parts may have kept one more batch.
    for parts in zip(*batches_by_rank, strict=False):
        num = sum(map(len, parts))
        whole = parts[0].new_empty(num, *parts[0].shape[1:])
        for rank, part in enumerate(parts):
            whole[rank::num_ranks] = part
        merged.append(whole)
    return torch.cat(merged)


MAX_COUNTED_CLASSES = 20  # maximum number of classes for which counts are written into the cells


class Confusion(OnEvaluation):
    """Draws the confusion matrix of the final evaluation, as `confusion.png` and in the loggers.

    Args:
        class_names: Class names of the data.
    """

    kind = "classes"

    def __init__(self, *, class_names: Names) -> None:
        self.class_names = class_names

    def draw(
        self,
        trainer: L.Trainer,
        split: str,
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Draw from logits, shape (N, K), and classes, shape (N,)."""
        predicted_N = predictions.argmax(dim=1)
        num = len(self.class_names)
        pairs_N = targets * num + predicted_N
        counts = pairs_N.bincount(minlength=num**2)
        counts_KK = counts.reshape(num, num).numpy()
        title = _title_with_accuracy(split, predicted_N, targets)
        figure = confusion_figure(counts_KK, self.class_names, title)
        publish(trainer, figure, "confusion", split)


def _title_with_accuracy(split: str, predicted_N: Tensor, labels_N: Tensor) -> str:
    are_right_N = predicted_N == labels_N
    accuracy = are_right_N.double().mean()
    return f"{SPLIT_NAMES[split]}, {len(labels_N):,} samples, accuracy {accuracy:.4f}"


def confusion_figure(
    counts_KK: NDArray[np.int64],
    class_names: Names,
    title: str,
) -> Figure:
    """Return a confusion matrix: rows are true classes, coloured by each prediction's share."""
    num_classes = len(counts_KK)
    has_counts = num_classes <= MAX_COUNTED_CLASSES
    totals_K1 = counts_KK.sum(axis=1, keepdims=True)
    shares_KK = counts_KK / np.maximum(totals_K1, 1)
    longest = 3
    if has_counts:
        longest = max(map(len, class_names))
    margin = 0.08 + 0.013 * longest  # without a layout engine, which would draw twice
    figure = Figure(figsize=(6, 6))
    width = 0.95 - margin
    axes: Any = figure.add_axes((margin, margin, width, width))
    # Fourth root, so that one error in a hundred is visible.
    root = PowerNorm(0.25, vmin=0, vmax=1)
    axes.imshow(shares_KK, cmap="Blues", norm=root)
    if has_counts:
        names = [plain(name) for name in class_names]
        turned = 0
        if longest > 2:
            turned = 90
        axes.set_xticks(range(num_classes), names, rotation=turned)
        axes.set_yticks(range(num_classes), names)
        middle = {
            "ha": "center",
            "va": "center",
            "fontsize": 8,
        }
        for (row, column), count in np.ndenumerate(counts_KK):
            if count:
                colour = "black"
                if shares_KK[row, column] > 0.1:
                    colour = "white"
                axes.text(column, row, count, color=colour, **middle)
    axes.set_xlabel("predicted (colour: fourth root of the share of the row)")
    axes.set_ylabel("true")
    axes.set_title(plain(title), fontsize=10)
    return figure


ERROR_COLUMNS = 6  # few, so that captions are readable in a paper's column


class Errors(OnEvaluation):
    """Shows the most confident errors of the final evaluation, as `errors.png` and in the loggers.

    Args:
        num_images: Maximum number of images.
        class_names: Class names of the data.
    """

    kind = "classes"

    def __init__(
        self,
        *,
        num_images: int,
        class_names: Names,
    ) -> None:
        check_integers(num_images=(num_images, 1))
        self.num_images = num_images
        self.class_names = class_names

    def draw(
        self,
        trainer: L.Trainer,
        split: str,
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Draw the most confident errors, with both classes and the wrong one's probability."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not callable(getattr(data, "inputs", None)):  # its samples are not tensors of one shape
            return
        probabilities_NK = predictions.float().softmax(dim=1)
        probabilities_N, predicted_N = probabilities_NK.max(dim=1)
        are_wrong_N = predicted_N != targets
        wrong = are_wrong_N.nonzero()[:, 0]
        order = probabilities_N[wrong].argsort(descending=True, stable=True)
        indices = wrong[order][: self.num_images]
        inputs = data.inputs(split, indices.numpy())
        if inputs.ndim != 4:  # rows of a table, not images
            return
        captions = []
        for n in indices.tolist():
            true = self.class_names[targets[n]]
            predicted = self.class_names[predicted_N[n]]
            captions.append(f"{true} →\n{predicted}\n{probabilities_N[n]:.3f}")
        title = _title_with_accuracy(split, predicted_N, targets)
        title += "\nmost confident mistakes: true class → predicted class, its probability"
        figure = sheet(inputs, captions, title, num_columns=ERROR_COLUMNS)
        publish(trainer, figure, "errors", split)


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

    def draw(
        self,
        trainer: L.Trainer,
        split: str,
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Draw images, shape (C, H, W), each above its reconstruction."""
        if targets.ndim != 4 or targets.shape[1] not in (1, 3):
            return
        made_NCHW = predictions.to(targets)
        pairs_NCHW = torch.cat([targets, made_NCHW], dim=2)
        title = f"{SPLIT_NAMES[split]}: each image above its reconstruction"
        figure = sheet(pairs_NCHW, (), title)
        publish(trainer, figure, "reconstructions", split)


MAX_TARGETS = 6  # with a panel each


class Predicted(OnEvaluation):
    """Draws predicted against true values of the final evaluation, as `predicted.png`.

    Args:
        target_names: Target names of the data.
    """

    kind = "values"

    def __init__(self, *, target_names: Names) -> None:
        self.target_names = target_names

    def draw(
        self,
        trainer: L.Trainer,
        split: str,
        predictions: Tensor,
        targets: Tensor,
    ) -> None:
        """Draw from numbers, both of shape (N,) or (N, T)."""
        num = len(targets)
        predicted_NT = predictions.float().reshape(num, -1)
        true_NT = targets.float().reshape(num, -1)
        title = f"{SPLIT_NAMES[split]}, {num:,} samples"
        names = self.target_names
        figure = prediction_figure(predicted_NT.numpy(), true_NT.numpy(), names, title)
        publish(trainer, figure, "predicted", split)


def prediction_figure(
    predicted_NT: NDArray[Any],
    true_NT: NDArray[Any],
    names: Names,
    title: str,
) -> Figure:
    """Return a panel per target: density, the diagonal of exact predictions, and R²."""
    num = min(len(names), MAX_TARGETS)
    figure = Figure(figsize=(4.9 * num, 4.5), layout="constrained")
    title = wrapped(title, figure.get_figwidth(), 10)
    figure.suptitle(title, fontsize=10)
    for t, name in enumerate(names[:num]):
        axes: Any = figure.add_subplot(1, num, t + 1)
        true = true_NT[:, t]
        predicted = predicted_NT[:, t]
        # Points would hide each other.
        cells = axes.hexbin(true, predicted, gridsize=60, cmap="viridis", mincnt=1, linewidths=0.1)
        figure.colorbar(cells, ax=axes, label="samples per cell", fraction=0.046, pad=0.03)
        low = min(true.min(), predicted.min())
        high = max(true.max(), predicted.max())
        axes.axline(
            (low, low), slope=1, color="#d95f02", linewidth=1, linestyle="--", label="exact"
        )
        axes.legend(loc="upper left", fontsize=8)
        variance = true.var()
        if variance > 0:
            r2 = 1 - np.square(predicted - true).mean() / variance
            axes.set_title(f"R² {r2:.4f}", fontsize=10)
        axes.set_xlabel(plain(f"true {name}"))
        axes.set_ylabel(plain(f"predicted {name}"))
        margin = 0.03 * ((high - low) or 1.0)
        limits = (low - margin, high + margin)
        axes.set(xlim=limits, ylim=limits, box_aspect=1)
        axes.grid(alpha=0.3)
    return figure


class Generated(DisplayCallback):
    """Writes a generated text to TensorBoard after each epoch, always sampled with the same seed.

    The prompt is a newline, if it is in the vocabulary, otherwise the vocabulary's first token.

    Args:
        num_tokens: Length of the text.
        temperature: Sampling temperature; near 0, the most likely token is chosen.
        vocabulary: Text of each token.
        input_shape: Shape of one sample, (T,): the maximum number of tokens that the network
            accepts.
    """

    def __init__(
        self,
        *,
        num_tokens: int,
        temperature: float,
        vocabulary: Names,
        input_shape: tuple[int, ...],
    ) -> None:
        check_integers(num_tokens=(num_tokens, 1))
        self.num_tokens = num_tokens
        self.temperature = temperature
        self.vocabulary = vocabulary
        self.max_context = input_shape[0]

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the text for this epoch."""
        if not isinstance(pl_module, Task) or pl_module.kind != "text":
            return
        if not trainer.is_global_zero:
            return
        loggers = [each for each in trainer.loggers if isinstance(each, TensorBoardLogger)]
        if not loggers:
            return
        first = 0
        if "\n" in self.vocabulary:
            first = self.vocabulary.index("\n")
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
        text = text_of_tokens(tokens_T, self.vocabulary)
        verbatim = textwrap.indent(text, "    ", lambda _: True)  # as Markdown shows it
        step = logged_steps(trainer) - 1
        loggers[0].experiment.add_text("generated", verbatim, step)


MAX_PANELS = 4  # of curves
# Lines and markers differ in grey, too. Step values lie behind the means of epochs.
STYLES: dict[str, dict[str, Any]] = {
    "train": {"color": "#1f77b4", "linestyle": "-", "marker": "o"},
    "val": {"color": "#d95f02", "linestyle": "--", "marker": "s"},
    "step": {"color": "#c6d8ea", "linestyle": "-"},
}


class Curves(DisplayCallback):
    """Draws `curves.png` from all starts' `metrics.csv`, when training ends or fails.

    Without `metrics.csv` there is no picture.
    """

    at_end = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        if not trainer.is_global_zero:
            return
        directory = Path(trainer.default_root_dir)
        stages = stages_of(trainer).names
        curves = read_curves(directory / "metrics.csv")
        curves = {name: points for name, points in curves.items() if name in stages}
        if curves:
            figure = draw_curves(curves, stages, f"{directory.parent.name}/{directory.name}")
            save_picture(trainer, figure, "curves.png")

    def on_exception(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        exception: BaseException,
    ) -> None:
        """Draw the curves, unless the run was interrupted from outside and will resume."""
        if isinstance(exception, Exception):
            self.on_fit_end(trainer, pl_module)


def draw_curves(
    curves: dict[str, list[tuple[int, float]]], stages: Mapping[str, str], run: str
) -> Figure:
    """Return a panel per metric, the loss first: training and validation over optimizer steps.

    Args:
        curves: Points of each curve, as from `read_curves`.
        stages: Stage that logged each metric.
        run: Name of the run, the figure's title.
    """
    panels: dict[str, list[str]] = {}
    for name in curves:
        panels.setdefault(chart_of(name), []).append(name)
    titles = sorted(panels, key=lambda title: title != "loss")[:MAX_PANELS]
    width = max(9, 4.5 * len(titles))
    run = wrapped(run, width, 10)
    figure = Figure(figsize=(width, 3.5))
    # Without a layout engine, which would draw twice.
    top = 0.9 - 0.05 * run.count("\n")
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=top, wspace=0.2)
    figure.suptitle(run, fontsize=10)
    for number, title in enumerate(titles, start=1):
        axes: Any = figure.add_subplot(1, len(titles), number)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(plain(title))
        axes.grid(alpha=0.3)
        names = sorted(panels[title], key=lambda name: (not name.endswith("_step"), stages[name]))
        for name in names:
            is_step = name.endswith("_step") and len(names) > 1
            style = dict(STYLES["step" if is_step else stages[name]])
            points = sorted(curves[name])
            if len(points) > 20:
                style["marker"] = ""
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=plain(name), markersize=3, **style)
        if title == "loss":
            losses = [value for name in names for _, value in curves[name]]
            if all(loss > 0 for loss in losses):
                use_log_scale(axes, "y")
        axes.legend()
    return figure


class Monitor(L.Callback):
    """Logs learning rate, gradient norm and speed, at the steps at which a task logs its loss.

    - `lr`: the learning rate of the next update; `lr_0`, `lr_1` etc. for several parameter groups,
      in one optimizer or more.
    - `grad_norm`: the Euclidean norm of all gradients, over all processes, before clipping;
      `grad_norm_0`, `grad_norm_1` etc. for the parameters of each optimizer, if a module steps
      several manually. These are logged every `log_every_n_steps` batches.
    - `time/samples_per_second`: training samples per second since the previous such step of the
      epoch; omitted if their number is unknown.
    - `time/epoch_seconds`: duration of an epoch with its validation, since the start of the
      program.

    Times differ between equal runs, so all of them have the prefix `time/`.
    """

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clocks, also where a run resumes within an epoch."""
        self._start = self._since = time.monotonic()
        self._num_batches = 0  # since the last logged step

    on_train_epoch_start = on_train_start

    def on_train_batch_start(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch."""
        self._num_batches += 1

    def on_before_optimizer_step(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Log, if it is due, before this step's checkpoint: a resumed run does not log it again."""
        several = len(trainer.optimizers) > 1
        # Count batches: with steps, which optimizers take in turns, some optimizers would never be
        # logged.
        num = trainer.fit_loop.total_batch_idx if several else trainer.global_step
        if (num + 1) % trainer.log_every_n_steps != 0:  # type: ignore[attr-defined]
            return
        groups = [group for each in trainer.optimizers for group in each.param_groups]
        values = {f"lr_{n}": float(group["lr"]) for n, group in enumerate(groups)}
        if len(groups) == 1:
            values = {"lr": values["lr_0"]}
        name = "grad_norm"
        parameters = [*pl_module.parameters()]
        if several:
            # By its parameter groups, as Lightning may have wrapped the optimizer.
            own = optimizer.param_groups
            are_own = [each.param_groups is own for each in trainer.optimizers]
            name = f"grad_norm_{are_own.index(True)}"
            parameters = [parameter for group in own for parameter in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        if hasattr(norm, "full_tensor"):  # of a sharded network
            norm = norm.full_tensor()
        values[name] = norm.item()
        now = time.monotonic()
        num_samples = samples_per_batch(trainer)
        if num_samples:
            seconds = now - self._since
            values["time/samples_per_second"] = num_samples * self._num_batches / seconds
        self._num_batches = 0
        self._since = now
        _log_directly(trainer, values, logged_steps(trainer))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the epoch's duration."""
        seconds = time.monotonic() - self._start
        step = logged_steps(trainer) - 1
        _log_directly(trainer, {"time/epoch_seconds": seconds}, step)


def _log_directly(trainer: L.Trainer, values: dict[str, float], step: int) -> None:
    # Not `pl_module.log`, which would make them metrics of the run, like loss and accuracy.
    for logger in trainer.loggers:
        logger.log_metrics(values, step)


class LoggedConfig(DisplayCallback):
    """Logs the resolved configuration to each logger."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it at each start."""
        if not trainer.is_global_zero:
            return
        run = Run(trainer.default_root_dir)
        config = dict(flatten(run.config))
        if config:
            for logger in trainer.loggers:
                logger.log_hyperparams(config)

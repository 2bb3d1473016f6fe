"""Base of the pictures: their files and loggers, sheets of images, and outputs of the network on a split.

Shapes: N samples.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.exact.files import replacing
from leyden.run.directory import Run
from leyden.run.lock import check_held
from leyden.run.result import plain, save_pdf
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


def positive(**settings: int) -> int:
    """Return a setting that must be a positive whole number.

    Raises:
        ValueError: It is none.
    """
    ((name, value),) = settings.items()
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}={value}: must be a positive whole number")
    return value


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

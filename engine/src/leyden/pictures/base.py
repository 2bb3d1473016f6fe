"""Base of the pictures: loggers that accept images, and outputs of the trained network on a split.

Shapes: N samples.
"""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.pictures.figures import render
from leyden.run.directory import Run
from leyden.tasks.task import Task


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """Return the run's `SummaryWriter`; None without TensorBoard, and in processes of rank above 0."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def image_loggers(trainer: L.Trainer) -> list[Logger]:
    """Return the loggers that accept images: TensorBoard, and those with a `log_image` like `WandbLogger`'s."""
    if not trainer.is_global_zero:
        return []
    return [each for each in trainer.loggers if isinstance(each, TensorBoardLogger) or hasattr(each, "log_image")]


def add_image(trainer: L.Trainer, tag: str, pixels_HWC: NDArray[np.uint8], step: int) -> None:
    """Log an image to each logger that accepts images."""
    for logger in image_loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, pixels_HWC, step, dataformats="HWC")
        else:
            logger.log_image(key=tag, images=[pixels_HWC], step=step)  # type: ignore[attr-defined]


def save_picture(trainer: L.Trainer, figure: Figure, name: str) -> NDArray[np.uint8]:
    """Write a figure to the run directory, in the format `picture_format`, and return its pixels, shape (H, W, 3).

    Args:
        trainer: Lightning's trainer.
        figure: The figure.
        name: Name of the file, such as `curves.png`.
    """
    directory = Path(trainer.default_root_dir)
    return render(figure, directory / name, file_format=Run(directory).config.get("picture_format", "png"))


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
        if isinstance(pl_module, Task) and pl_module.kind == self.kind and not is_full:
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

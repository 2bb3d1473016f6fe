"""Loggers that pictures go to, and the trained network's outputs on a split. Shapes: N samples."""

from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.display import DisplayCallback
from leyden.tasks.task import Task


def tensorboard_writer(trainer: L.Trainer) -> Any:
    """The `SummaryWriter` of the run, None where it does not log to TensorBoard or another process does."""
    if not trainer.is_global_zero:
        return None
    return next((logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)), None)


def image_loggers(trainer: L.Trainer) -> list[Logger]:
    """Return the loggers that take images: TensorBoard's, and those with a `log_image` as Lightning's `WandbLogger` has it."""
    if not trainer.is_global_zero:
        return []
    return [each for each in trainer.loggers if isinstance(each, TensorBoardLogger) or hasattr(each, "log_image")]


def add_image(trainer: L.Trainer, tag: str, pixels_HWC: NDArray[np.uint8], step: int) -> None:
    """Show a picture in each logger that takes images."""
    for logger in image_loggers(trainer):
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, pixels_HWC, step, dataformats="HWC")
        else:
            logger.log_image(key=tag, images=[pixels_HWC], step=step)  # type: ignore[attr-defined]


def logged_steps(trainer: L.Trainer) -> int:
    """Return the step at which `self.log` logs now: the batches after which an optimizer has stepped.

    Where several optimizers step in a batch, `trainer.global_step` counts each. Lightning has no public name for the other one.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


NAMES = {"val": "validation split", "test": "test set"}


class OnEvaluation(DisplayCallback):
    """Base of callbacks that draw from the evaluation of the best weights at the end of a run.

    That is the one of the test set, if the run evaluates on it, else of the validation split: no callback looks at
    the test set by itself. Validation within training is left alone. A subclass has `draw`. Where the task is one of
    another kind, nothing is drawn.
    """

    at_end = True
    kind: str  # of the tasks that it suits
    max_samples: int | None = None  # kept for the picture; None: all

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw, in the first process.

        Args:
            trainer: Lightning's.
            split: `val` or `test`.
            predictions: In the order of the data set, shape (N, ...), on the CPU.
            targets: The same.
        """
        raise NotImplementedError

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Keep a batch of the validation at the end of the run."""
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
        """Keep a batch: predictions and targets."""
        if batch_idx == 0 and dataloader_idx == 0:
            self._batches: list[tuple[Tensor, Tensor]] = []
        is_full = self.max_samples is not None and sum(len(each) for each, _ in self._batches) >= self.max_samples
        if isinstance(pl_module, Task) and pl_module.kind == self.kind and not is_full:
            self._batches.append((outputs["predictions"].cpu(), outputs["targets"].cpu()))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw, if it was the validation at the end of the run."""
        if trainer.state.fn == "validate":
            self._end(trainer, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what the test set has come to."""
        self._end(trainer, "test")

    def _end(self, trainer: L.Trainer, split: str) -> None:
        batches, self._batches = getattr(self, "_batches", []), []
        if not batches:
            return
        predictions, targets = (gather(list(part), trainer.world_size) for part in zip(*batches, strict=True))
        if trainer.is_global_zero:
            self.draw(trainer, split, predictions[: self.max_samples], targets[: self.max_samples])


def gather(batches: list[Tensor], world_size: int) -> Tensor:
    """The batches of all processes as one tensor, in the order of the data set.

    Each process has every `world_size`-th sample of each batch.
    """
    if world_size == 1:
        return torch.cat(batches)
    every: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(every, batches)
    num = min(map(len, every))  # one that has the smaller parts may have kept a batch more
    return interleave([each[:num] for each in every])


def interleave(batches: list[list[Tensor]]) -> Tensor:
    """Tensors by process and batch, put together so that the processes take turns within each batch."""
    merged = []
    for parts in zip(*batches, strict=True):
        whole = parts[0].new_empty(sum(map(len, parts)), *parts[0].shape[1:])
        for rank, part in enumerate(parts):
            whole[rank :: len(parts)] = part
        merged.append(whole)
    return torch.cat(merged)

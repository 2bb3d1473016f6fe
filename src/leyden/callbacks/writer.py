"""Where pictures go: to TensorBoard, and to each other logger that takes images."""

from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from numpy.typing import NDArray


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

"""What the network sees."""

from typing import Any

import lightning as L

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import add_image, image_loggers
from leyden.images.render import render
from leyden.images.sheet import sheet


class Samples(Showing):
    """Shows the first images that a network is trained on, as it sees them, with their classes.

    Args:
        num_images: How many, at most a batch.
        class_names: Of the data.
    """

    def __init__(self, *, num_images: int, class_names: tuple[str, ...]) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.num_images, self.class_names = num_images, class_names

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the sheet from the very first batch."""
        if trainer.global_step != 0 or batch_idx != 0 or not image_loggers(trainer):
            return
        if not isinstance(batch, list | tuple) or [getattr(part, "ndim", None) for part in batch] != [4, 1]:
            return
        images_NCHW, labels_N = (part[: self.num_images].cpu() for part in batch)
        low, high = images_NCHW.min(), images_NCHW.max()
        title = f"first training images, values from {low:.2f} to {high:.2f}"
        figure = sheet(images_NCHW.numpy(), [self.class_names[k] for k in labels_N.tolist()], title)
        add_image(trainer, "samples/train", render(figure), 0)

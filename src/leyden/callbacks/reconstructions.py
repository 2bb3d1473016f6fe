"""What comes out of an autoencoder, beside what went in."""

from pathlib import Path

import lightning as L
import torch
from torch import Tensor

from leyden.callbacks.evaluation import NAMES, OnEvaluation
from leyden.callbacks.writer import add_image
from leyden.images.render import render
from leyden.images.sheet import sheet


class Reconstructions(OnEvaluation):
    """Shows the first images of the evaluation at the end, each with its reconstruction: `reconstructions.png`.

    The same stands in the loggers' images. What is no image has no such picture.

    Args:
        num_images: How many.
    """

    kind = "reconstruction"

    def __init__(self, *, num_images: int) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.max_samples = num_images

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw pairs: an image, shape (C, H, W), and right of it its reconstruction."""
        if targets.ndim != 4 or targets.shape[1] not in (1, 3):
            return
        pairs_NCHW = torch.stack([targets, predictions.to(targets)], dim=1).flatten(0, 1)
        title = f"{NAMES[split]}: each image and its reconstruction"
        pixels = render(
            sheet(pairs_NCHW.float().numpy(), ["image", "output"] * len(targets), title),
            Path(trainer.default_root_dir) / "reconstructions.png",
        )
        add_image(trainer, f"reconstructions/{split}", pixels, trainer.global_step)

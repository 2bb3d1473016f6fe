"""What the first layer looks for."""

from typing import Any

import lightning as L
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from leyden.callbacks.showing import Showing
from leyden.callbacks.writer import add_image, image_loggers, logged_steps
from leyden.tasks.task import network_of

NUM_COLUMNS = 8
MIN_PIXELS = 28  # a side of a tile; smaller ones are enlarged


class Weights(Showing):
    """Shows the weights of the first layer as images, after each epoch, where that layer sees pixels.

    Blue is negative, white is zero, red is positive; weights to three channels are shown as colours.

    Args:
        num_images: How many units, the first ones.
        input_shape: Of one image, (C, H, W).
    """

    def __init__(self, *, num_images: int, input_shape: tuple[int, int, int]) -> None:
        if type(num_images) is not int or num_images < 1:
            raise ValueError(f"num_images={num_images}: must be a positive whole number")
        self.num_images, self.input_shape = num_images, input_shape

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw those of the epoch."""
        if not image_loggers(trainer):
            return
        weights_NCHW = first_weights(network_of(pl_module), self.input_shape)
        if weights_NCHW is not None:
            tiles = mosaic(colours(weights_NCHW[: self.num_images].float().cpu().numpy()))
            add_image(trainer, "weights/first_layer", tiles, logged_steps(trainer) - 1)


def first_weights(network: nn.Module, input_shape: tuple[int, int, int]) -> Tensor | None:
    """Weights of the first layer, shape (N, C, H, W); None if it does not see the pixels of an image."""
    if len(input_shape) != 3:
        return None
    channels, height, width = input_shape
    layers = (module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    first = next(layers, None)
    if isinstance(first, nn.Linear) and first.in_features == channels * height * width:
        return first.weight.detach().reshape(-1, channels, height, width)
    if isinstance(first, nn.Conv2d) and first.in_channels == channels and first.groups == 1:
        return first.weight.detach()
    return None


def colours(weights_NCHW: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB of weights, shape (N, H, W, 3); the largest, of whatever sign, has the full colour."""
    scaled = weights_NCHW / (np.abs(weights_NCHW).max() or 1.0)
    if scaled.shape[1] == 3:
        rgb = (scaled.transpose(0, 2, 3, 1) + 1) / 2
    else:
        w = scaled.mean(axis=1)
        rgb = np.stack([1 - np.maximum(-w, 0), 1 - np.abs(w), 1 - np.maximum(w, 0)], axis=-1)
    return (rgb * 255).astype(np.uint8)


def mosaic(tiles_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tiles in rows with grey lines between them, shape (H, W, 3)."""
    factor = max(1, -(-MIN_PIXELS // max(tiles_NHWC.shape[1:3])))
    tiles_NHWC = tiles_NHWC.repeat(factor, axis=1).repeat(factor, axis=2)
    num, height, width, _ = tiles_NHWC.shape
    num_columns = min(NUM_COLUMNS, num)
    num_rows = -(-num // num_columns)
    picture = np.full((num_rows * (height + 1) + 1, num_columns * (width + 1) + 1, 3), 128, dtype=np.uint8)
    for n, tile in enumerate(tiles_NHWC):
        top, left = n // num_columns * (height + 1) + 1, n % num_columns * (width + 1) + 1
        picture[top : top + height, left : left + width] = tile
    return picture

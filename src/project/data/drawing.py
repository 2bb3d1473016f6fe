"""Drawings and photographs of digits, prepared as the digits of MNIST were."""

from pathlib import Path

import numpy as np
import torch
from leyden import UserError
from leyden.data import open_image
from PIL import Image
from torch import Tensor

SIDE, BOX = 28, 20  # pixels: of an image of MNIST, and of the box that its digit fits into
INK = 0.3  # share of the strongest difference from the ground; weaker ones are shadows and noise


def read_digit(path: Path) -> Tensor:
    """Return a digit as MNIST has it: light on black, cut out, scaled, and centered by its mass.

    The ground is the median of the image's border; the ink is what is darker than it, or lighter, whichever is more. The
    ink is cut out, scaled to fit a box of 20 of 28 pixels, and placed with its center of mass in the middle, as Le Cun
    describes it (http://yann.lecun.com/exdb/mnist). An image of 28 x 28 pixels on dark ground is one of MNIST's already.

    Args:
        path: An image file.

    Returns:
        Pixels, shape (1, 28, 28), uint8.

    Raises:
        UserError: The file is not an image, can't be read, or is of one colour.
    """
    grey_HW = np.asarray(open_image(path, 1), dtype=np.float64)
    ground = np.median(np.concatenate([grey_HW[0], grey_HW[-1], grey_HW[:, 0], grey_HW[:, -1]]))
    if grey_HW.shape == (SIDE, SIDE) and ground < 128:
        return torch.from_numpy(grey_HW.astype(np.uint8))[None]
    sides = np.maximum(grey_HW - ground, 0), np.maximum(ground - grey_HW, 0)
    ink_HW = max(sides, key=lambda side: float(np.square(side).sum()))
    if not ink_HW.any():
        raise UserError(f"{path}: has one colour; a digit is drawn on a ground")
    ink_HW = np.where(ink_HW < INK * ink_HW.max(), 0, ink_HW / ink_HW.max())
    rows, columns = (np.flatnonzero(ink_HW.any(axis=axis)) for axis in (1, 0))
    cut_HW = ink_HW[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(cut_HW.shape)
    size = max(1, round(cut_HW.shape[1] * scale)), max(1, round(cut_HW.shape[0] * scale))
    image = Image.fromarray((255 * cut_HW).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
    small_HW = np.asarray(image, dtype=np.float64)
    small_HW *= 255 / small_HW.max()
    pixels_HW = np.zeros((SIDE, SIDE), dtype=np.uint8)
    place = []
    for axis in (0, 1):
        weights, num = small_HW.sum(axis=1 - axis), small_HW.shape[axis]
        start = round((SIDE - 1) / 2 - float(weights @ np.arange(num)) / float(weights.sum()))
        place.append(slice(begin := min(max(start, 0), SIDE - num), begin + num))
    pixels_HW[place[0], place[1]] = small_HW.round()
    return torch.from_numpy(pixels_HW)[None]

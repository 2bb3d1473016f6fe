"""Drawings and photographs of digits, prepared as the digits of MNIST were."""

from pathlib import Path

import numpy as np
import torch
from leyden import UserError
from leyden.data import open_image
from PIL import Image
from torch import Tensor

SIDE = 28  # pixels of an image of MNIST
BOX = 20  # pixels of the box that its digit fits into
INK = 0.3  # share of the strongest difference from the ground; weaker ones are shadows and noise


def read_digit(path: Path) -> Tensor:
    """Return a digit as MNIST has it: light on black, cut out, scaled, and centered by its mass.

    The ground is the median of the image's border; the ink is what is darker than it, or lighter,
    whichever is more. The ink is cut out, scaled to fit a box of 20 of 28 pixels, and placed with
    its center of mass in the middle, as Le Cun describes it (http://yann.lecun.com/exdb/mnist). An
    image of 28 x 28 pixels on dark ground is one of MNIST's already.

    Args:
        path: An image file.

    Returns:
        Pixels, shape (1, 28, 28), uint8.

    Raises:
        UserError: The file is not an image, can't be read, or is of one colour.
    """
    image = open_image(path, 1)
    grey_HW = np.asarray(image, dtype=np.float64)
    top_and_bottom = [grey_HW[0], grey_HW[-1]]
    sides = [grey_HW[:, 0], grey_HW[:, -1]]
    border = np.concatenate(top_and_bottom + sides)
    ground = np.median(border)
    has_size = grey_HW.shape == (SIDE, SIDE)
    if has_size and ground < 128:  # it is prepared already
        return _as_tensor(grey_HW)
    ink_HW = _ink(grey_HW - ground)
    strongest = ink_HW.max()
    if strongest == 0:
        raise UserError(f"{path}: has one colour; a digit is drawn on a ground")
    is_noise_HW = ink_HW < INK * strongest
    ink_HW = np.where(is_noise_HW, 0, ink_HW / strongest)
    has_ink_H = np.any(ink_HW, axis=1)
    has_ink_W = np.any(ink_HW, axis=0)
    cut_HW = ink_HW[_extent(has_ink_H), _extent(has_ink_W)]
    small_HW = _scaled(cut_HW)
    # Its center of mass comes to the middle, as far as the image allows.
    rows = _centered(small_HW.sum(axis=1))
    columns = _centered(small_HW.sum(axis=0))
    pixels_HW = np.zeros((SIDE, SIDE))
    pixels_HW[rows, columns] = small_HW.round()
    return _as_tensor(pixels_HW)


def _as_tensor(pixels_HW: np.ndarray) -> Tensor:
    stored_HW = pixels_HW.astype(np.uint8)
    pixels = torch.from_numpy(stored_HW)
    return pixels[None]


def _ink(difference_HW: np.ndarray) -> np.ndarray:
    """Return the stronger side of a difference from the ground: what is lighter, or darker."""
    lighter_HW = np.maximum(difference_HW, 0)
    darker_HW = np.maximum(-difference_HW, 0)
    lighter = np.square(lighter_HW).sum()
    darker = np.square(darker_HW).sum()
    if lighter >= darker:
        return lighter_HW
    return darker_HW


def _extent(has_ink: np.ndarray) -> slice:
    """Return the slice from the first row (or column) with ink to the last one."""
    (found,) = has_ink.nonzero()
    return slice(found[0], found[-1] + 1)


def _scaled(ink_HW: np.ndarray) -> np.ndarray:
    """Return ink in [0, 1], scaled to the box and to 255 where it is strongest."""
    num_rows, num_columns = ink_HW.shape
    scale = BOX / max(num_rows, num_columns)
    height = max(1, round(num_rows * scale))
    width = max(1, round(num_columns * scale))
    stored_HW = (255 * ink_HW).astype(np.uint8)
    image = Image.fromarray(stored_HW)
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    small_HW = np.asarray(small, dtype=np.float64)
    return small_HW * (255 / small_HW.max())


def _centered(weights: np.ndarray) -> slice:
    """Return where rows (or columns) of such weights have their mean in the middle."""
    num = len(weights)
    moment = float(weights @ np.arange(num))
    mean = moment / float(weights.sum())
    start = round((SIDE - 1) / 2 - mean)
    last = SIDE - num
    start = min(max(start, 0), last)
    return slice(start, start + num)

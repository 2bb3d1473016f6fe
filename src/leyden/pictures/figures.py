"""Figures as image files, and sheets of small images with a caption each."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from leyden.run.files import replacing
from leyden.run.lock import check_held

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


def render(figure: Figure, path: Path | None = None) -> NDArray[np.uint8]:
    """Draw a figure once: the pixels, shape (H, W, 3), and a PNG file of them, if there is a path."""
    figure.set_dpi(120)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: NDArray[Any] = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    if path is not None:
        check_held(path.parent)
        with replacing(path) as file:
            imsave(file, pixels, format="png")
    return pixels


TILE_INCHES = 0.8
LINE_INCHES = 0.16  # of a caption
FONT_SIZE = 8
LINE_LETTERS = 13  # that fit into a line of this size; longer ones are written smaller
GAP = 0.1  # between tiles, as a part of a tile
MIN_INCHES = 3.5  # across, so that a title has room


def sheet(images_NCHW: "NDArray[Any]", captions: Sequence[str], title: str, *, num_columns: int = 8) -> "Figure":
    """Draw images in rows, a caption above each.

    Args:
        images_NCHW: Shape (N, C, H, W), any numbers: black is the smallest of all, white the largest.
        captions: N texts of one number of lines.
        title: Of the whole sheet.
        num_columns: Images in a row.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state

    num, _, height, width = images_NCHW.shape
    num_columns = max(1, min(num_columns, num))
    num_rows = max(1, -(-num // num_columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    # One picture of all, since each set of axes costs as much as a hundred images.
    gap_x = round(width * GAP)
    gap_y = round(height * (GAP + lines * LINE_INCHES / TILE_INCHES))
    num_pixels_x = num_columns * (width + gap_x) + gap_x
    canvas = np.ones((num_rows * (height + gap_y) + gap_x, num_pixels_x, 3))
    places = [
        (n // num_columns * (height + gap_y) + gap_y, n % num_columns * (width + gap_x) + gap_x) for n in range(num)
    ]
    for (top, left), image in zip(places, as_colours(images_NCHW), strict=True):
        canvas[top : top + height, left : left + width] = image
    inches_a_pixel = TILE_INCHES / width
    sides = num_pixels_x * inches_a_pixel, canvas.shape[0] * inches_a_pixel
    head = 0.1 + 0.2 * (title.count("\n") + 1)
    figure_width = max(sides[0], MIN_INCHES)
    figure = Figure(figsize=(figure_width, sides[1] + head))
    axes = figure.add_axes((0.0, 0.0, 1.0, sides[1] / (sides[1] + head)))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    longest = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    size = FONT_SIZE * min(1.0, LINE_LETTERS / max(longest, 1))
    for (top, left), caption in zip(places, captions, strict=True):
        axes.text(left + width / 2, top - height * GAP / 2, caption, ha="center", va="bottom", fontsize=size)
    figure.text(0.5, 1 - 0.05 / (sides[1] + head), title, ha="center", va="top", fontsize=9)
    return figure


def as_colours(images_NCHW: "NDArray[Any]") -> "NDArray[Any]":
    """Images as RGB in [0, 1], shape (N, H, W, 3), from the smallest value to the largest.

    Three channels are RGB; the mean of any other number of them is grey.
    """
    images = images_NCHW.astype(np.float32)
    if images.shape[1] != 3:
        images = images.mean(axis=1, keepdims=True).repeat(3, axis=1)
    low, high = (images.min(), images.max()) if images.size else (0.0, 1.0)
    return ((images - low) / ((high - low) or 1.0)).transpose(0, 2, 3, 1)

"""Rendering of figures to image files, and sheets of captioned images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from leyden.run.files import replacing
from leyden.run.lock import check_held


def render(figure: Figure, path: Path | None = None) -> NDArray[np.uint8]:
    """Draw a figure and return its pixels, shape (H, W, 3); also write a PNG file if `path` is set."""
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
LINE_INCHES = 0.16  # height of a caption's line
FONT_SIZE = 8
LINE_CHARACTERS = 13  # characters per line at this font size; longer lines use a smaller font
GAP = 0.1  # between tiles, as a fraction of the tile
MIN_INCHES = 3.5  # minimum figure width, for the title


def sheet(images_NCHW: NDArray[Any], captions: Sequence[str], title: str, *, num_columns: int = 8) -> Figure:
    """Return a figure with images in rows, each below its caption.

    Args:
        images_NCHW: Images, shape (N, C, H, W), of any range; the smallest value of all is black, the largest
            white.
        captions: N captions with the same number of lines.
        title: Title of the sheet.
        num_columns: Images per row.
    """
    num, _, height, width = images_NCHW.shape
    num_columns = max(1, min(num_columns, num))
    num_rows = max(1, -(-num // num_columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=1)
    # One image for all tiles, since creating axes costs as much as a hundred tiles.
    gap_x = round(width * GAP)
    gap_y = round(height * (GAP + lines * LINE_INCHES / TILE_INCHES))
    num_pixels_x = num_columns * (width + gap_x) + gap_x
    canvas = np.ones((num_rows * (height + gap_y) + gap_x, num_pixels_x, 3))
    places = [
        (n // num_columns * (height + gap_y) + gap_y, n % num_columns * (width + gap_x) + gap_x) for n in range(num)
    ]
    for (top, left), image in zip(places, as_colours(images_NCHW), strict=True):
        canvas[top : top + height, left : left + width] = image
    inches_per_pixel = TILE_INCHES / width
    sheet_width, sheet_height = num_pixels_x * inches_per_pixel, canvas.shape[0] * inches_per_pixel
    title_height = 0.1 + 0.2 * (title.count("\n") + 1)
    figure_width = max(sheet_width, MIN_INCHES)
    figure = Figure(figsize=(figure_width, sheet_height + title_height))
    axes = figure.add_axes((0.0, 0.0, 1.0, sheet_height / (sheet_height + title_height)))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    longest = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    size = FONT_SIZE * min(1.0, LINE_CHARACTERS / max(longest, 1))
    for (top, left), caption in zip(places, captions, strict=True):
        axes.text(left + width / 2, top - height * GAP / 2, caption, ha="center", va="bottom", fontsize=size)
    figure.text(0.5, 1 - 0.05 / (sheet_height + title_height), title, ha="center", va="top", fontsize=9)
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

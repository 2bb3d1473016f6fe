"""Rendering of figures to image files, and sheets of captioned images."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

from leyden.run.charts import save_pdf
from leyden.run.files import replacing
from leyden.run.lock import check_held


def render(figure: Figure, path: Path | None = None, *, file_format: str = "png") -> NDArray[np.uint8]:
    """Draw a figure and return its pixels, shape (H, W, 3); also write a PNG file if `path` is set.

    Args:
        figure: The figure.
        path: Path of the PNG file; None for no file.
        file_format: `pdf` to write a PDF file beside the PNG file.
    """
    figure.set_dpi(120)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    pixels: NDArray[Any] = np.asarray(canvas.buffer_rgba())[:, :, :3].copy()
    if path is not None:
        check_held(path.parent)
        with replacing(path) as file:
            imsave(file, pixels, format="png")
        if file_format == "pdf":
            with replacing(path.with_suffix(".pdf")) as file:
                save_pdf(figure, file)
    return pixels


def wrapped(title: str, width_inches: float, font_size: float) -> str:
    """Return a title with line breaks, so that it fits a figure of this width."""
    characters = max(
        10, int(width_inches * 72 / (0.55 * font_size))
    )  # the mean width of a character is 0.55 of its size
    return "\n".join(textwrap.fill(line, characters) for line in title.split("\n"))


TILE_INCHES = 0.8
LINE_INCHES = 0.16  # height of a caption's line
FONT_SIZE, TITLE_SIZE = 8, 9
LINE_CHARACTERS = 13  # characters per line at this font size; longer lines use a smaller font
GAP = 0.1  # between tiles, as a fraction of the tile
MIN_INCHES = 3.5  # minimum figure width, for the title


def sheet(images_NCHW: NDArray[Any], captions: Sequence[str], title: str, *, num_columns: int = 8) -> Figure:
    """Return a figure with images in rows, each below its caption.

    Args:
        images_NCHW: Images, shape (N, C, H, W), of any range; the smallest value of all is black, the largest
            white.
        captions: N captions, or none.
        title: Title of the sheet.
        num_columns: Images per row.
    """
    num, _, height, width = images_NCHW.shape
    num_columns = max(1, min(num_columns, num))
    num_rows = max(1, -(-num // num_columns))
    lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    # One image for all tiles, since creating axes costs as much as a hundred tiles.
    gap_x = round(width * GAP)
    gap_y = round(height * GAP + width * lines * LINE_INCHES / TILE_INCHES)
    canvas = np.ones((num_rows * (height + gap_y) + gap_x, num_columns * (width + gap_x) + gap_x, 3))
    places = (divmod(n, num_columns) for n in range(num))
    corners = [(row * (height + gap_y) + gap_y, column * (width + gap_x) + gap_x) for row, column in places]
    for (top, left), image in zip(corners, as_colours(images_NCHW), strict=True):
        canvas[top : top + height, left : left + width] = image
    sheet_height, sheet_width = (size * TILE_INCHES / width for size in canvas.shape[:2])
    figure_width = max(sheet_width, MIN_INCHES)
    title = wrapped(title, figure_width, TITLE_SIZE)
    title_height = 0.1 + 0.2 * (title.count("\n") + 1)
    figure = Figure(figsize=(figure_width, sheet_height + title_height))
    axes = figure.add_axes((0.0, 0.0, 1.0, sheet_height / (sheet_height + title_height)))
    axes.imshow(canvas, interpolation="nearest")
    axes.set_axis_off()
    longest = max((len(line) for caption in captions for line in caption.split("\n")), default=0)
    size = FONT_SIZE * min(1.0, LINE_CHARACTERS / max(longest, 1))
    for (top, left), caption in zip(corners, captions, strict=bool(captions)):
        axes.text(left + width / 2, top - height * GAP / 2, caption, ha="center", va="bottom", fontsize=size)
    figure.text(0.5, 1 - 0.05 / (sheet_height + title_height), title, ha="center", va="top", fontsize=TITLE_SIZE)
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

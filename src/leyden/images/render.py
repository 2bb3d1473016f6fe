"""From figures to pictures."""

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

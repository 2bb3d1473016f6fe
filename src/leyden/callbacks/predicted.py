"""Predicted numbers against true ones."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from leyden.callbacks.evaluation import NAMES, OnEvaluation
from leyden.callbacks.writer import add_image
from leyden.images.render import render

MAX_PANELS = 6
MAX_POINTS = 2_000  # beyond that, a point is no longer seen: colours count them


class Predicted(OnEvaluation):
    """Draws predicted against true values of the evaluation at the end: `predicted.png`, and the loggers' images.

    Args:
        target_names: Of the data.
    """

    kind = "values"

    def __init__(self, *, target_names: tuple[str, ...]) -> None:
        self.target_names = target_names

    def draw(self, trainer: L.Trainer, split: str, predictions: Tensor, targets: Tensor) -> None:
        """Draw from numbers, both of shape (N,) or (N, T)."""
        predicted_NT, true_NT = (
            values.float().reshape(len(values), -1).numpy() for values in (predictions, targets)
        )
        made = figure(predicted_NT, true_NT, self.target_names, f"{NAMES[split]}, {len(targets):,} samples")
        pixels = render(made, Path(trainer.default_root_dir) / "predicted.png")
        add_image(trainer, f"predicted/{split}", pixels, trainer.global_step)


def figure(predicted_NT: NDArray[Any], true_NT: NDArray[Any], names: tuple[str, ...], title: str) -> Figure:
    """One panel per target, on equal axes, with the line on which a right prediction lies, and R²."""
    num = min(len(names), MAX_PANELS)
    made = Figure(figsize=(4.2 * num, 4.4), layout="constrained")
    made.suptitle(title, fontsize=10)
    for t, name in enumerate(names[:num]):
        axes: Any = made.add_subplot(1, num, t + 1)
        true, predicted = true_NT[:, t], predicted_NT[:, t]
        if len(true) > MAX_POINTS:
            axes.hexbin(true, predicted, gridsize=60, bins="log", cmap="Blues", mincnt=1, linewidths=0.1)
        else:
            axes.scatter(true, predicted, s=8, alpha=0.5, linewidths=0)
        low, high = min(true.min(), predicted.min()), max(true.max(), predicted.max())
        axes.plot([low, high], [low, high], color="#d95f02", linewidth=1)
        spread = np.square(true - true.mean()).sum()
        r2 = f", R² {1 - np.square(predicted - true).sum() / spread:.4f}" if spread > 0 else ""
        axes.set_title(f"{name}{r2}", fontsize=10)
        axes.set_xlabel("true")
        axes.set_ylabel("predicted")
        axes.set_aspect("equal", adjustable="datalim")
        axes.grid(alpha=0.3)
    return made

"""The curves of a run as a picture."""

import csv
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.figure import Figure

from leyden.callbacks.render import render
from leyden.callbacks.sparse import Sparse

# Panels, and their curves from back to front with their colours.
PANELS = {
    "loss": {"train/loss_step": "#c6d8ea", "train/loss": "#1f77b4", "val/loss": "#d95f02"},
    "accuracy": {"train/acc_step": "#c6d8ea", "train/acc": "#1f77b4", "val/acc": "#d95f02"},
}


class Curves(Sparse):
    """Draws `curves.png` when training ends, well or not, from all of `metrics.csv`, earlier starts included.

    Where nothing logs to `metrics.csv` there is no picture.
    """

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw it."""
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (points := read(directory / "metrics.csv")):
            render(draw(points), directory / "curves.png")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw it, unless the run was stopped from outside and is to go on."""
        if isinstance(exception, Exception):
            self.on_fit_end(trainer, pl_module)


def read(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value) of each curve, those only that are finite numbers."""
    points = defaultdict(list)
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if math.isfinite(value := float(row["value"])):
                    points[row["metric"]].append((int(row["step"]), value))
    return points


def draw(points: dict[str, list[tuple[int, float]]]) -> Figure:
    """A panel for the loss, one for the accuracy, over optimizer steps."""
    figure = Figure(figsize=(9, 3.5))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=0.97, wspace=0.2)  # a layout engine draws twice
    for number, (panel, curves) in enumerate(PANELS.items(), start=1):
        axes: Any = figure.add_subplot(1, len(PANELS), number)
        for name, colour in curves.items():
            if name in points:
                steps, values = zip(*sorted(points[name]), strict=True)
                few = len(steps) <= 20 and not name.endswith("_step")
                axes.plot(steps, values, color=colour, label=name, marker="o" if few else None, markersize=3)
        if panel == "loss" and all(value > 0 for name in curves for _, value in points.get(name, [])):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="both", labelsize=8)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(panel)
        axes.grid(alpha=0.3)
        if any(name in points for name in curves):
            axes.legend()
    return figure

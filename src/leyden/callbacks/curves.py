"""The curves of a run as a picture."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.figure import Figure

from leyden.callbacks.layout import LABELS
from leyden.callbacks.showing import Showing
from leyden.images.render import render
from leyden.run.points import points

MAX_PANELS = 4
# From back to front; `_epoch` is Lightning's name for a mean that is logged at steps, too.
COLOURS = {"train/{}_step": "#c6d8ea", "train/{}_epoch": "#1f77b4", "train/{}": "#1f77b4", "val/{}": "#d95f02"}


class Curves(Showing):
    """Draws `curves.png` when training ends, well or not, from all of `metrics.csv`, earlier starts included.

    Where nothing logs to `metrics.csv` there is no picture.
    """

    at_end = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves of all starts."""
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (found := read(directory / "metrics.csv")):
            render(draw(found), directory / "curves.png")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw them, unless the run was stopped from outside and is to go on."""
        if isinstance(exception, Exception):
            self.on_fit_end(trainer, pl_module)


def read(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value) of each curve, those only that are finite numbers."""
    curves = defaultdict(list)
    for step, metric, value in points(path):
        if math.isfinite(value):
            curves[metric].append((step, value))
    return curves


def draw(found: dict[str, list[tuple[int, float]]]) -> Figure:
    """One panel per metric, the loss first, of training and validation over optimizer steps."""
    logged = [name.partition("/")[2] for name in found if name.startswith(("train/", "val/"))]
    names = dict.fromkeys(name.removesuffix("_step").removesuffix("_epoch") for name in logged)
    panels = sorted(names, key=lambda name: name != "loss")[:MAX_PANELS] or ["loss"]
    figure = Figure(figsize=(max(9, 4.5 * len(panels)), 3.5))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=0.97, wspace=0.2)  # a layout engine draws twice
    for number, panel in enumerate(panels, start=1):
        axes: Any = figure.add_subplot(1, len(panels), number)
        curves = {curve.format(panel): colour for curve, colour in COLOURS.items()}
        for name, colour in curves.items():
            if name in found:
                steps, values = zip(*sorted(found[name]), strict=True)
                few = len(steps) <= 20 and not name.endswith("_step")
                axes.plot(steps, values, color=colour, label=name, marker="o" if few else None, markersize=3)
        if panel == "loss" and all(value > 0 for name in curves for _, value in found.get(name, [])):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="both", labelsize=8)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(LABELS.get(panel, panel))
        axes.grid(alpha=0.3)
        if any(name in found for name in curves):
            axes.legend()
    return figure

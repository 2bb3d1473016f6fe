"""The curves of a run as a picture."""

import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.figure import Figure

from leyden.callbacks.layout import LABELS
from leyden.callbacks.showing import Showing
from leyden.callbacks.stages import panel, stages_of
from leyden.images.render import render
from leyden.run.points import points

MAX_PANELS = 4
COLOURS = {"train": "#1f77b4", "val": "#d95f02"}
OF_STEPS = "#c6d8ea"  # beside a mean over the epoch, which is in front of it


class Curves(Showing):
    """Draws `curves.png` when training ends, well or not, from all of `metrics.csv`, earlier starts included.

    Where nothing logs to `metrics.csv` there is no picture.
    """

    at_end = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves of all starts."""
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (found := read(directory / "metrics.csv")):
            render(draw(found, stages_of(trainer).names), directory / "curves.png")

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


def draw(found: dict[str, list[tuple[int, float]]], stages: Mapping[str, str]) -> Figure:
    """One panel per metric, the loss first, of training and validation over optimizer steps.

    Args:
        found: Points of each curve, as `read` returns them.
        stages: The stage that has logged each metric; the others are not drawn.
    """
    panels: dict[str, list[str]] = {}
    for name in found:
        if name in stages:
            panels.setdefault(panel(name), []).append(name)
    titles = sorted(panels, key=lambda title: title != "loss")[:MAX_PANELS] or ["loss"]
    figure = Figure(figsize=(max(9, 4.5 * len(titles)), 3.5))
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=0.97, wspace=0.2)  # a layout engine draws twice
    for number, title in enumerate(titles, start=1):
        axes: Any = figure.add_subplot(1, len(titles), number)
        names = sorted(panels.get(title, ()), key=lambda name: (not name.endswith("_step"), stages[name]))
        for name in names:
            steps, values = zip(*sorted(found[name]), strict=True)
            is_step = name.endswith("_step") and len(names) > 1
            few = len(steps) <= 20 and not is_step
            colour = OF_STEPS if is_step else COLOURS[stages[name]]
            axes.plot(steps, values, color=colour, label=name, marker="o" if few else None, markersize=3)
        if title == "loss" and all(value > 0 for name in names for _, value in found[name]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="both", labelsize=8)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(LABELS.get(title, title))
        axes.grid(alpha=0.3)
        if names:
            axes.legend()
    return figure

"""Learning curves: the picture `curves.png`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from matplotlib.figure import Figure

from leyden.callbacks.display import DisplayCallback
from leyden.exact.logged_metrics import stages_of
from leyden.pictures.base import save_picture, wrapped
from leyden.run.result import chart_of, read_curves, use_log_scale

LABELS = {"acc": "accuracy"}


MAX_PANELS = 4
COLOURS = {"train": "#1f77b4", "val": "#d95f02"}
STYLES = {"train": ("-", "o"), "val": ("--", "s")}  # lines and markers, which differ in grey, too
STEP_COLOUR = "#c6d8ea"  # curve of step values, behind the curve of epoch means


class Curves(DisplayCallback):
    """Draws `curves.png` from the whole `metrics.csv`, including earlier starts, when training ends or fails.

    Without `metrics.csv` there is no picture.
    """

    at_end = True

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw the curves."""
        directory = Path(trainer.default_root_dir)
        if trainer.is_global_zero and (curves := _finite(read_curves(directory / "metrics.csv"))):
            title = f"{directory.parent.name}/{directory.name}"
            save_picture(trainer, draw_curves(curves, stages_of(trainer).names, title), "curves.png")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Draw the curves, unless the run was interrupted from outside and will resume."""
        if isinstance(exception, Exception):
            self.on_fit_end(trainer, pl_module)


def _finite(curves: Mapping[str, list[tuple[int, float]]]) -> dict[str, list[tuple[int, float]]]:
    """Return the curves' finite points, without curves that have none."""
    found = {name: [point for point in points if math.isfinite(point[1])] for name, points in curves.items()}
    return {name: points for name, points in found.items() if points}


def draw_curves(curves: dict[str, list[tuple[int, float]]], stages: Mapping[str, str], run: str = "") -> Figure:
    """Return one panel per metric, the loss first, with training and validation over optimizer steps.

    Args:
        curves: Finite points of each curve, as from `read_curves`.
        stages: Stage that logged each metric; metrics without one are not drawn.
        run: Name of the run, the figure's title.
    """
    panels: dict[str, list[str]] = {}
    for name in curves:
        if name in stages:
            panels.setdefault(chart_of(name), []).append(name)
    titles = sorted(panels, key=lambda title: title != "loss")[:MAX_PANELS] or ["loss"]
    width = max(9, 4.5 * len(titles))
    run = wrapped(run, width, 10)
    figure = Figure(figsize=(width, 3.5))
    # Without a layout engine, which would draw twice.
    top = 0.9 - 0.05 * run.count("\n")
    figure.subplots_adjust(left=0.07, right=0.99, bottom=0.14, top=top, wspace=0.2)
    figure.suptitle(run, fontsize=10)
    for number, title in enumerate(titles, start=1):
        axes: Any = figure.add_subplot(1, len(titles), number)
        names = sorted(panels.get(title, ()), key=lambda name: (not name.endswith("_step"), stages[name]))
        for name in names:
            steps, values = zip(*sorted(curves[name]), strict=True)
            is_step = name.endswith("_step") and len(names) > 1
            line, marker = ("-", None) if is_step else STYLES[stages[name]]
            colour = STEP_COLOUR if is_step else COLOURS[stages[name]]
            marker = marker if len(steps) <= 20 else None
            axes.plot(steps, values, line, color=colour, label=name, marker=marker, markersize=3)
        if title == "loss" and all(value > 0 for name in names for _, value in curves[name]):
            use_log_scale(axes, "y")
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(LABELS.get(title, title))
        axes.grid(alpha=0.3)
        if names:
            axes.legend()
    return figure

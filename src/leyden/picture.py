"""A picture of what choices do to an objective."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_TICKS = 6  # values that are written at the axis one by one


def draw(points: Sequence[tuple[dict[str, Any], float]], metric: str, path: Path) -> None:
    """Draw the objective against each choice that varies: a point a run, a line through the means.

    Args:
        points: Choices (the same keys everywhere) and objective of each run.
        metric: Name of the objective.
        path: The PNG file to write.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state

    keys = list(points[0][0]) if points else []
    keys = [key for key in keys if key != "seed" and len({str(choices[key]) for choices, _ in points}) > 1] or [
        "seed"
    ]
    figure = Figure(figsize=(4 * len(keys), 3.5), layout="constrained")
    for number, key in enumerate(keys, start=1):
        axes = figure.add_subplot(1, len(keys), number)
        _scatter(axes, [(choices.get(key), value) for choices, value in points])
        axes.set_xlabel(key)
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def _scatter(axes: Any, points: Sequence[tuple[Any, float]]) -> None:
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x, _ in points)
    named = [(x if numeric else str(x), y) for x, y in points]
    order: list[Any] = sorted({x for x, _ in named})
    place = {x: x if numeric else number for number, x in enumerate(order)}
    axes.scatter([place[x] for x, _ in named], [y for _, y in named], s=18, alpha=0.7)
    axes.plot(
        [place[x] for x in order], [statistics.fmean(y for z, y in named if z == x) for x in order], alpha=0.6
    )
    if not numeric:
        axes.set_xticks(range(len(order)), order, rotation=20)
    # Values that span about a decade or more were chosen by orders of magnitude.
    elif order and order[0] > 0 and order[-1] / order[0] > 9:
        axes.set_xscale("log")
        if len(order) <= NUM_TICKS:
            axes.set_xticks(order, [f"{x:g}" for x in order])
            axes.set_xticks([], minor=True)

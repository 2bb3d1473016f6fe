"""A picture of what choices do to objectives."""

import io
import statistics
from collections.abc import Collection, Sequence
from typing import Any

NUM_TICKS = 6  # values that are written at the axis one by one
MAX_LABEL = 24  # characters; of longer texts, as paths, the end tells more


def draw(
    points: Sequence[tuple[dict[str, Any], Sequence[float]]],
    metrics: Sequence[str],
    *,
    log: Collection[str] | None,
    averaged: Collection[str],
) -> bytes:
    """Draw each objective against each choice that varies: one point per run, a line through the means.

    Several objectives are drawn against the first one, too.

    Args:
        points: Choices (the same keys everywhere) and objectives of each run.
        metrics: Names of the objectives.
        log: The choices with a logarithmic axis; None: those whose values span about a decade or more.
        averaged: Those that are no settings, and have no axis where there is another one.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state

    choices = [chosen for chosen, _ in points]
    varied = [key for key in (choices[0] if choices else ()) if len({str(c[key]) for c in choices}) > 1]
    keys = [key for key in varied if key not in averaged] or varied or ["seed"]
    num_columns = len(keys) + (len(metrics) > 1)
    figure = Figure(figsize=(4 * num_columns, 3.5 * len(metrics)), layout="constrained")
    for row, metric in enumerate(metrics):
        reached = [values[row] for _, values in points]
        panels = [(key, [chosen.get(key) for chosen in choices]) for key in keys]
        if row:
            panels.append((metrics[0], [values[0] for _, values in points]))
        for column, (name, along) in enumerate(panels):
            axes = figure.add_subplot(len(metrics), num_columns, row * num_columns + column + 1)
            _scatter(axes, along, reached, log=None if log is None else name in log, line=name in keys)
            axes.set_xlabel(name)
            axes.set_ylabel(metric)
            axes.grid(alpha=0.3)
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    return content.getvalue()


def _scatter(axes: Any, along: Sequence[Any], reached: Sequence[float], *, log: bool | None, line: bool) -> None:
    there = [(x, y) for x, y in zip(along, reached, strict=True) if x != ""]  # some runs have no such key
    along, reached = [x for x, _ in there], [y for _, y in there]
    numeric = all(isinstance(x, int | float) and not isinstance(x, bool) for x in along)
    points = [(x if numeric else str(x), y) for x, y in zip(along, reached, strict=True)]
    order: list[Any] = sorted({x for x, _ in points})
    place = {x: x if numeric else number for number, x in enumerate(order)}
    axes.scatter([place[x] for x, _ in points], [y for _, y in points], s=18, alpha=0.7)
    if line:
        means = [statistics.fmean(y for z, y in points if z == x) for x in order]
        axes.plot([place[x] for x in order], means, alpha=0.6)
    if not numeric:
        labels = [text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}" for text in order]
        axes.set_xticks(range(len(order)), labels, rotation=20)
    elif order and order[0] > 0 and (order[-1] / order[0] > 9 if log is None else log):
        axes.set_xscale("log")
        if len(order) <= NUM_TICKS:
            axes.set_xticks(order, [f"{x:g}" for x in order])
            axes.set_xticks([], minor=True)

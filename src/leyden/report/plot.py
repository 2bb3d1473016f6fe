"""A picture of what choices do to objectives."""

import io
import statistics
from collections.abc import Callable, Collection, Sequence
from typing import Any

from leyden.report.ranking import varied

NUM_TICKS = 6  # values that are written at the axis one by one
MAX_LABEL = 24  # characters; of longer texts, as paths, the end tells more


def draw(
    points: Sequence[tuple[dict[str, Any], Sequence[float]]],
    metrics: Sequence[str],
    *,
    log: Collection[str] | None,
    averaged: Collection[str],
    further: Sequence[Callable[[Any], None]] = (),
) -> bytes:
    """Draw each objective against each choice that varies: one point per run, a line through the means.

    Several objectives are drawn against the first one, too. A run without a choice has no point in its panel.

    Args:
        points: Choices and objectives of each run.
        metrics: Names of the objectives.
        log: The choices with a logarithmic axis; None: those whose values span about a decade or more.
        averaged: Those that are no settings, and have no axis where there is another one.
        further: Draw panels of their own, each on the axes that it is given; they stand in the last row.

    Returns:
        A PNG file.
    """
    from matplotlib.figure import Figure  # no pyplot: it keeps state

    choices = [chosen for chosen, _ in points]
    several = [key for key in varied(choices) if len({str(c[key]) for c in choices if key in c}) > 1]
    keys = [key for key in several if key not in averaged] or several
    if not keys:
        choices, keys = [{"run": number + 1} for number in range(len(points))], ["run"]
    num_columns = max(len(keys) + (len(metrics) > 1), len(further))
    num_rows = len(metrics) + bool(further)
    figure = Figure(figsize=(4 * num_columns, 3.5 * num_rows), layout="constrained")
    for row, metric in enumerate(metrics):
        panels = [
            (key, [(c[key], v[row]) for c, (_, v) in zip(choices, points, strict=True) if key in c]) for key in keys
        ]
        if row:
            panels.append((metrics[0], [(values[0], values[row]) for _, values in points]))
        for column, (name, along) in enumerate(panels):
            axes = figure.add_subplot(num_rows, num_columns, row * num_columns + column + 1)
            _scatter(axes, along, log=None if log is None else name in log, line=name in keys)
            axes.set_xlabel(name)
            axes.set_ylabel(metric)
            axes.grid(alpha=0.3)
    for column, draw_panel in enumerate(further):
        draw_panel(figure.add_subplot(num_rows, num_columns, len(metrics) * num_columns + column + 1))
    content = io.BytesIO()
    figure.savefig(content, dpi=120)
    return content.getvalue()


def shorten(text: str) -> str:
    """The end of a text that is too long for an axis."""
    return text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}"


def _scatter(axes: Any, points: Sequence[tuple[Any, float]], *, log: bool | None, line: bool) -> None:
    numeric = all(_is_number(x) for x, _ in points)
    order = sorted({_text(x): x for x, _ in points}.items(), key=lambda item: _rank(item[1]))
    place = {text: x if numeric else number for number, (text, x) in enumerate(order)}
    axes.scatter([place[_text(x)] for x, _ in points], [y for _, y in points], s=18, alpha=0.7)
    if line:
        means = [statistics.fmean(y for x, y in points if _text(x) == text) for text, _ in order]
        axes.plot(list(place.values()), means, alpha=0.6)
    values = list(place.values())
    if not numeric:
        axes.set_xticks(values, [shorten(text) for text in place], rotation=20)
    elif values and values[0] > 0 and (values[-1] / values[0] > 9 if log is None else log):
        axes.set_xscale("log")
        if len(values) <= NUM_TICKS:
            axes.set_xticks(values, [f"{x:g}" for x in values])
            axes.set_xticks([], minor=True)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _text(x: Any) -> str:
    return "null" if x is None else str(x)


def _rank(x: Any) -> tuple[bool, float, str]:
    """Numbers by size, then texts."""
    return (False, x, "") if _is_number(x) else (True, 0.0, _text(x))

"""The picture of a sweep: each objective against what was tried."""

import io
import itertools
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.report.ranking import varying_keys
from leyden.run.result import save_pdf, use_log_scale

MAX_MEANS = 12  # up to this many values of a key get a mean each
MAX_TICKS = 8  # up to this many numbers are the ticks of an axis
MIN_HEATED = 3  # values of each of two numbers that are crossed, for a heat map
DOTS, MEANS, PRUNED = "#1f77b4", "#d95f02", "#7f7f7f"
MAX_LABEL = 24  # characters; longer texts, such as paths, keep their end
PLUS_MINUS = "mean ± standard deviation of its runs,\nover all other settings and seeds"  # as wide as one panel


@dataclass(frozen=True)
class Point:
    """A run in the picture.

    Args:
        choices: Values of the settings that vary, by key; keys that the run lacks are absent.
        values: Value of each objective.
        is_pruned: True for a run that was stopped early, whose values are those of its last epoch.
    """

    choices: Mapping[str, Any]
    values: Sequence[float]
    is_pruned: bool = False


def draw_summary(
    points: Sequence[Point],
    metrics: Sequence[str],
    *,
    log: Collection[str] | None,
    averaged: Collection[str],
    file_format: str = "png",
) -> bytes:
    """Draw each objective against each varying setting: a dot per run, a cross per pruned run, and a grid's means.

    Settings whose values go together, such as those of a row of `sweep.settings`, share a panel. Two numbers of a grid with three values
    each or more get a heat map of the first objective. With several objectives, each is also drawn against the first
    one. A run that lacks a setting has no point in that panel.

    Args:
        points: The runs.
        metrics: Names of the objectives.
        log: Keys with a logarithmic axis, of a search; None for a grid, where those get one whose values span about a
            decade or more.
        averaged: Keys that are averaged over; they get a panel only if no other key varies.
        file_format: `png` or `pdf`.

    Returns:
        The content of a file of this format.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state

    choices = [point.choices for point in points]
    varying = [key for key in varying_keys(choices) if len({str(c[key]) for c in choices if key in c}) > 1]
    keys = [key for key in varying if key not in averaged] or varying
    if not keys:
        points = [Point({"run": n}, point.values, point.is_pruned) for n, point in enumerate(points, start=1)]
        choices, keys = [point.choices for point in points], ["run"]
    axes_of = _together(choices, keys, is_grid=log is None)
    heated = _crossed([point.choices for point in points if not point.is_pruned], keys) if log is None else None
    num_columns = len(axes_of) + (len(metrics) > 1 or heated is not None)
    figure = Figure(figsize=(4 * num_columns, 3.5 * len(metrics)), layout="constrained")
    for row, metric in enumerate(metrics):
        for column, together in enumerate(axes_of):
            axes = figure.add_subplot(len(metrics), num_columns, row * num_columns + column + 1)
            along = [
                (_value(point.choices, together), point.values[row], point.is_pruned)
                for point in points
                if together[0] in point.choices
            ]
            _scatter(axes, along, log=None if log is None else together[0] in log, means=True)
            axes.set_xlabel(", ".join(together))
            if not column:
                axes.set_ylabel(metric)
            axes.grid(alpha=0.3)
        if row:
            axes = figure.add_subplot(len(metrics), num_columns, (row + 1) * num_columns)
            _scatter(axes, [(p.values[0], p.values[row], p.is_pruned) for p in points], log=False, means=False)
            axes.set_xlabel(metrics[0])
            axes.grid(alpha=0.3)
    handles = {
        label: bar for axes in figure.axes for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend([*handles.values()], [*handles], loc="outside upper left", fontsize=8, frameon=False)
    if heated:
        whole = [point for point in points if not point.is_pruned]
        _heat(figure, figure.add_subplot(len(metrics), num_columns, num_columns), whole, heated, metrics[0])
    content = io.BytesIO()
    if file_format == "pdf":
        save_pdf(figure, content)
    else:
        figure.savefig(content, dpi=120, format=file_format)
    return content.getvalue()


def _together(choices: Sequence[Mapping[str, Any]], keys: Sequence[str], *, is_grid: bool) -> list[list[str]]:
    """Return groups of keys whose values go together, as those of the rows of `sweep.settings` do; most groups have one key."""
    groups: list[list[str]] = []
    for key in keys:
        for group in groups:
            pairs = {(_label(c.get(group[0])), _label(c.get(key))) for c in choices}
            firsts, seconds = ({pair[n] for pair in pairs} for n in (0, 1))
            # The numbers of a search are all different, and so would go together by chance.
            if len(pairs) == len(firsts) == len(seconds) and (is_grid or len(pairs) < len(choices)):
                group.append(key)
                break
        else:
            groups.append([key])
    return groups


def _crossed(choices: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> tuple[str, str] | None:
    """Return the first two numeric keys of which each pair of values was tried, each with three or more; or None."""
    for x, y in itertools.combinations(keys, 2):
        pairs = {(c.get(x), c.get(y)) for c in choices if _is_number(c.get(x)) and _is_number(c.get(y))}
        xs, ys = ({pair[n] for pair in pairs} for n in (0, 1))
        are_numbers = all(_is_number(c.get(key)) for c in choices for key in (x, y))
        if are_numbers and min(len(xs), len(ys)) >= MIN_HEATED and len(pairs) == len(xs) * len(ys):
            return x, y
    return None


def _heat(figure: Any, axes: Any, points: Sequence[Point], keys: tuple[str, str], metric: str) -> None:
    """Draw the mean objective by two numbers, as colours with its value in each cell."""
    cells: dict[tuple[Any, Any], list[float]] = {}
    for point in points:
        cells.setdefault((point.choices[keys[0]], point.choices[keys[1]]), []).append(point.values[0])
    xs, ys = (sorted({pair[n] for pair in cells}) for n in (0, 1))
    means = [[statistics.fmean(cells[x, y]) for x in xs] for y in ys]
    image = axes.imshow(means, origin="lower", aspect="auto", cmap="viridis")
    low, high = image.get_clim()
    if len(xs) * len(ys) <= MAX_TICKS**2:
        for row, column in itertools.product(range(len(ys)), range(len(xs))):
            colour = "black" if means[row][column] > (low + high) / 2 else "white"
            axes.text(column, row, f"{means[row][column]:.4g}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
        axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axes.set_xlabel(keys[0])
    axes.set_ylabel(keys[1])
    figure.colorbar(image, ax=axes, label=f"mean of {metric}")


def shorten(text: str) -> str:
    """Return a text for an axis, reduced to its end if it is too long."""
    return text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}"


def _scatter(axes: Any, points: Sequence[tuple[Any, float, bool]], *, log: bool | None, means: bool) -> None:
    """Draw a dot per run over numeric or categorical x values; and, if requested, means with standard deviations.

    Means are drawn if each of a few x values has several runs, as in a grid: numeric ones are joined by a line.
    """
    numeric = all(_is_number(x) for x, *_ in points)
    order = sorted({_label(x): x for x, *_ in points}.items(), key=lambda item: _axis_order(item[1]))
    place = {text: x if numeric else number for number, (text, x) in enumerate(order)}
    for pruned, options in ((False, {"color": DOTS}), (True, {"color": PRUNED, "marker": "x", "label": "pruned"})):
        if here := [(place[_label(x)], y) for x, y, is_pruned in points if is_pruned == pruned]:
            axes.scatter(*zip(*here, strict=True), s=18, alpha=0.6, **options)
    groups = [[y for x, y, is_pruned in points if _label(x) == text and not is_pruned] for text, _ in order]
    if means and 1 < len(groups) <= MAX_MEANS and min(map(len, groups)) > 1:
        spread = [statistics.stdev(group) for group in groups]
        centers = list(map(statistics.fmean, groups))
        line = "o-" if numeric else "o"
        axes.errorbar(
            list(place.values()), centers, spread, fmt=line, color=MEANS, capsize=3, markersize=4, label=PLUS_MINUS
        )
    values = list(place.values())
    if not numeric:
        axes.set_xticks(values, [shorten(text) for text in place], rotation=20)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    is_log = values and values[0] > 0 and (values[-1] / values[0] > 9 if log is None else log)
    if is_log:
        use_log_scale(axes, "x")
    if means and len(values) <= MAX_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
    elif not is_log and all(isinstance(value, int) for value in values):
        axes.xaxis.get_major_locator().set_params(integer=True)


def _value(choices: Mapping[str, Any], together: Sequence[str]) -> Any:
    """Return a run's value on an axis; of several keys, their values as one text."""
    if len(together) == 1:
        return choices[together[0]]
    return ", ".join(_label(choices[key]) if key in choices else "-" for key in together)


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)


def _label(x: Any) -> str:
    return "null" if x is None else str(x)


def _axis_order(x: Any) -> tuple[bool, float, str]:
    """Return a sort key: numbers by value, then texts."""
    return (False, x, "") if _is_number(x) else (True, 0.0, _label(x))

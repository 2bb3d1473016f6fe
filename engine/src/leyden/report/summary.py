"""Summary of many runs: a table, a verdict and a picture of the objective against what was tried."""

import io
import itertools
import os
import shlex
import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from leyden.config.checks import Objective
from leyden.config.errors import UserError, as_line
from leyden.config.table import csv_text, json_text, print_table, short_names
from leyden.config.terminal import leyden_command, show, warn
from leyden.report.listing import select
from leyden.report.ranking import (
    Row,
    by_data,
    look_at,
    merge_rows,
    over_data_sets,
    plus_minus,
    read_sweep,
)
from leyden.report.records import (
    NOT_OWN,
    Record,
    are_own,
    position,
    read_records,
    test_set_remarks,
    threads_remark,
    varying_keys,
)
from leyden.run.conditions import condition_of
from leyden.run.files import write_whole
from leyden.run.identity import shown_choices
from leyden.run.result import plain, use_log_scale
from leyden.verdict.groups import MIN_VALUES
from leyden.verdict.ranking import MARK, Ranking


def best_remarks(rows: Sequence[Row], number: int, directory: Path) -> list[str]:
    """Return a line on the best setting, and the command that evaluates it; empty without a finished run.

    Args:
        rows: All rows of the table.
        number: Index of the best row.
        directory: Folder with the runs.
    """
    if not (runs := rows[number].distinct):
        return []
    num = len(runs)
    what = f"row {number + 1}, {num} runs" if num > 1 else runs[0].run.directory.name
    line = f"Best{' setting' * (num > 1)}: {what}."
    if runs[0].result and not runs[0].result.can_be_tested:
        return [line]
    chosen = shlex.quote(f"run={runs[0].run.directory}")
    if num > 1:
        chosen = shlex.quote(f"runs={directory}") + f" row={number + 1}" * (number > 0)
    then = f" The test evaluation{' of all, which counts as one' * (num > 1)}:"
    return [line + then, f"    {leyden_command('evaluate')} {chosen}"]


def _next_command(
    directory: Path,
    records: Sequence[Record],
    rows: Mapping[int, Row],
    like_best: Sequence[bool | None],
) -> list[str]:
    """Return the command that compares the best row with the next one that may be the best; empty if there is none.

    Args:
        directory: Folder with the runs.
        records: All runs there.
        rows: The rows of a data set, by index.
        like_best: As in `Ranking`, for all rows.
    """
    likely = [number for number in rows if like_best[number]][:2]
    if len(likely) < 2:
        return []
    sides = []
    for name, number in zip("ab", likely, strict=True):
        condition = condition_of(rows[number].choices)
        try:
            chosen, _ = select(records, condition, name)
        except UserError:  # a text with both kinds of quotes
            return []
        if {*map(id, chosen)} != {
            *map(id, rows[number].records)
        }:  # the row lacks a setting that others have
            return []
        sides.append(f"{name}={condition}")
    what = f"Rows {likely[0] + 1} and {likely[1] + 1} beside each other:"
    return [what, f"    {leyden_command('compare')} {shlex.join([str(directory), *sides])}"]


def unfinished_remarks(records: Sequence[Record], directory: Path) -> list[str]:
    """Return how to view a search, and a line for each run that did not finish."""
    lines = []
    if (study := directory / "study.journal").is_file():
        command = f"optuna-dashboard {shlex.quote(str(study.absolute()))}"
        lines.append(f"The search in a browser, after pip install optuna-dashboard: {command}")
    for state in ("failed", "diverged", "pruned", "queued", "running", "interrupted"):
        for record in records:
            if record.status == state:
                more = record.error or record.reason or position(record)
                lines.append(f"{state}: {record.run.directory.name}{f' ({more})' if more else ''}")
    return lines


NUM_SHOWN = 20  # rows in the terminal; the files contain all rows
MEASURED = ("objective", "deviation", "n", "epochs", "seconds", "status")  # names in `Row.measured`


def summarize(directory: Path, form: str = "table", over: str = "", *, trust: bool = False) -> None:
    """Write `summary.csv` and `summary.png` for the runs below a directory, and print the table.

    Nothing is written to a folder without a run of one's own.

    Args:
        directory: Any folder with runs in or below it.
        form: Format of the printed table, `table` or `json`.
        over: `data` to rank also over several data sets.
        trust: Whether the folder is one's own in any case, as that of a sweep that has run.

    Raises:
        UserError: There is no run.
    """
    records, sweep = read_records(directory), read_sweep(directory)
    rows = merge_rows(records, sweep["average_over"])
    objective = next((record.objective for record in records if record.objective), None)
    metric = objective.metric if objective else "objective"
    is_own = trust or are_own(records)
    marked = _contenders(rows, objective, directory if is_own else None, sweep["excluded"])
    if not is_own:
        marked.remarks.append(NOT_OWN)
    marked.remarks.extend(threads_remark(record.threads for record in records))
    if over and objective:
        found = over_data_sets(rows, objective.mode, directory if is_own else None)
        marked.remarks.extend(
            [*(f"mean rank {each}: {name}" for name, each in found.shown.items()), *found.remarks]
        )
    keys = varying_keys([row.choices for row in rows])
    points = [
        Point(shown_choices(record.choices), record.value, record.status == "pruned")
        for record in records
        if record.value is not None and record.status in ("finished", "pruned")
    ]
    likes = ["" if like is None else "yes" if like else "no" for like in marked.like_best]
    # What a row lacks is absent.
    cells = [
        {name: value for name, value in row.measured().items() if value is not None}
        | {**row.choices, "like_best": like}
        for row, like in zip(rows, likes, strict=True)
    ]
    if is_own:
        table = csv_text(cells, [*keys, *MEASURED, "like_best"])
        _write(directory / "summary.csv", table.encode(errors="backslashreplace"))
        try:
            picture = draw_summary(points, metric, sweep["log"], sweep["average_over"])
            _write(directory / "summary.png", picture)
        except (
            ArithmeticError,
            ValueError,
            TypeError,
        ) as error:  # such as a number beyond any axis
            warn(f"summary.png: could not be drawn ({as_line(error)})")
    evaluations = test_set_remarks(records)
    if form == "json":
        aim = {"metric": objective.metric, "mode": objective.mode} if objective else None
        content = [
            {"choices": row.choices, **row.measured(), "like_best": like}
            | {"runs": [record.directory for record in row.records]}
            for row, like in zip(rows, marked.like_best, strict=True)
        ]
        print(
            json_text(
                {"objective": aim, "rows": content, "remarks": [*marked.remarks, *evaluations]}
            )
        )
        return
    parts = by_data(rows) if objective else []
    best = [_first_tested(part) for part in parts]
    shown = [
        {**cell, **row.shown.choices, "row": number + 1, "n": row.shown.count}
        | {
            "objective": row.shown.measured
            + f" {MARK}" * (cell["like_best"] == "yes" and number not in best)
        }
        for number, (row, cell) in enumerate(zip(rows, cells, strict=True))
    ]
    columns = ["row", *keys, *(name for name in MEASURED if name != "deviation")]
    print_table(
        shown[:NUM_SHOWN], columns, names=short_names(keys, taken=columns) | {"objective": metric}
    )
    lines = [f"... and {len(rows) - NUM_SHOWN} more rows"] * (len(rows) > NUM_SHOWN)
    lines += [plus_minus(rows)] * any(
        row.shown.deviation is not None for row in rows
    ) + marked.remarks
    lines += [*unfinished_remarks(records, directory), *evaluations]
    lines += [f"written: {directory}/summary.csv, summary.png"] * is_own
    lines += [line for number in best for line in best_remarks(rows, number, directory)]
    lines += [
        line for part in parts for line in _next_command(directory, records, part, marked.like_best)
    ]
    show("\n".join(lines))


def _first_tested(rows: Mapping[int, Row]) -> int:
    """Return the index of the best row of a data set that has enough runs to be compared; if none has, of the best one."""
    return next(
        (number for number, row in rows.items() if len(row.setting.values) >= MIN_VALUES), min(rows)
    )


def _contenders(
    rows: Sequence[Row], objective: Objective | None, folder: Path | None, excluded: Sequence[str]
) -> Ranking:
    """Return which rows may be the best, and count this as a look; nothing while runs have not ended."""
    statuses = [record.status for row in rows for record in row.records]
    num_open = statuses.count("queued") + statuses.count("running")
    if objective and not num_open:
        return look_at(folder, rows, objective.mode, excluded)
    # With fewer runs, a verdict would be a look at the table that costs the next one some of its power.
    waits = f"Runs queued or running: {num_open}. Which rows may be the best is shown when all have ended."
    return Ranking([], [None] * len(rows), [waits] * bool(objective))


def _write(path: Path, content: bytes) -> None:
    """Write a file atomically, with a temporary name per process, since sweeps that share jobs can end together."""
    own = path.with_name(f"{path.name}.{os.getpid()}")
    write_whole(own, content)
    own.replace(path)


MAX_MEANS = 12  # up to this many values of a key get a mean each
MAX_TICKS = 8  # up to this many numbers are the ticks of an axis
MIN_HEATED = 3  # values of each of two numbers that are crossed, for a heat map
DOTS, MEANS, PRUNED = "#1f77b4", "#d95f02", "#7f7f7f"
MAX_LABEL = 24  # characters; longer texts, such as paths, keep their end
PLUS_MINUS = "mean ± standard deviation of its runs,\nover all other settings and seeds"  # as wide as one panel


class Point(NamedTuple):
    """A run in the picture.

    Args:
        choices: Values of the settings that vary, by key; keys that the run lacks are absent.
        value: Value of the objective.
        is_pruned: True for a run that was stopped early, whose value is that of its last epoch.
    """

    choices: Mapping[str, Any]
    value: float
    is_pruned: bool = False


def draw_summary(
    points: Sequence[Point], metric: str, log: Collection[str] | None, averaged: Collection[str]
) -> bytes:
    """Draw the objective against each varying setting: a dot per run, a cross per pruned run, and a grid's means.

    Settings whose values go together, such as those of a row of `sweep.settings`, share a panel. Two numbers of a grid with three values
    each or more get a heat map. A run that lacks a setting has no point in that panel.

    Args:
        points: The runs.
        metric: Name of the objective.
        log: Keys with a logarithmic axis, of a search; None for a grid, where those get one whose values span about a
            decade or more.
        averaged: Keys that are averaged over; they get a panel only if no other key varies.

    Returns:
        The content of a PNG file.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state

    choices = [point.choices for point in points]
    varying = [
        key for key in varying_keys(choices) if len({str(c[key]) for c in choices if key in c}) > 1
    ]
    keys = [key for key in varying if key not in averaged] or varying
    if not keys:
        points = [
            Point({"run": n}, point.value, point.is_pruned)
            for n, point in enumerate(points, start=1)
        ]
        choices, keys = [point.choices for point in points], ["run"]
    axes_of = _together(choices, keys, is_grid=log is None)
    heated = (
        _crossed([point.choices for point in points if not point.is_pruned], keys)
        if log is None
        else None
    )
    num_columns = len(axes_of) + (heated is not None)
    figure = Figure(figsize=(4 * num_columns, 3.5), layout="constrained")
    for column, together in enumerate(axes_of, start=1):
        axes = figure.add_subplot(1, num_columns, column)
        along = [
            (_value(point.choices, together), point.value, point.is_pruned)
            for point in points
            if together[0] in point.choices
        ]
        _scatter(axes, along, log=None if log is None else together[0] in log)
        axes.set_xlabel(plain(", ".join(together)))
        if column == 1:
            axes.set_ylabel(plain(metric))
        axes.grid(alpha=0.3)
    handles = {
        label: bar
        for axes in figure.axes
        for bar, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        figure.legend(
            [*handles.values()], [*handles], loc="outside upper left", fontsize=8, frameon=False
        )
    if heated:
        whole = [point for point in points if not point.is_pruned]
        _heat(figure, figure.add_subplot(1, num_columns, num_columns), whole, heated, metric)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # of a name, which the font has not
        figure.savefig(content, dpi=120, format="png")
    return content.getvalue()


def _together(
    choices: Sequence[Mapping[str, Any]], keys: Sequence[str], *, is_grid: bool
) -> list[list[str]]:
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
        pairs = {
            (c.get(x), c.get(y)) for c in choices if _is_number(c.get(x)) and _is_number(c.get(y))
        }
        xs, ys = ({pair[n] for pair in pairs} for n in (0, 1))
        are_numbers = all(_is_number(c.get(key)) for c in choices for key in (x, y))
        if are_numbers and min(len(xs), len(ys)) >= MIN_HEATED and len(pairs) == len(xs) * len(ys):
            return x, y
    return None


def _heat(
    figure: Any, axes: Any, points: Sequence[Point], keys: tuple[str, str], metric: str
) -> None:
    """Draw the mean objective by two numbers, as colours with its value in each cell."""
    cells: dict[tuple[Any, Any], list[float]] = {}
    for point in points:
        cells.setdefault((point.choices[keys[0]], point.choices[keys[1]]), []).append(point.value)
    xs, ys = (sorted({pair[n] for pair in cells}) for n in (0, 1))
    means = [[statistics.fmean(cells[x, y]) for x in xs] for y in ys]
    image = axes.imshow(means, origin="lower", aspect="auto", cmap="viridis")
    low, high = image.get_clim()
    for row, column in itertools.product(range(len(ys)), range(len(xs))):
        colour = "black" if means[row][column] > (low + high) / 2 else "white"
        axes.text(
            column,
            row,
            f"{means[row][column]:.4g}",
            ha="center",
            va="center",
            fontsize=7,
            color=colour,
        )
    axes.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
    axes.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
    axes.set_xlabel(plain(keys[0]))
    axes.set_ylabel(plain(keys[1]))
    figure.colorbar(image, ax=axes, label=plain(f"mean of {metric}"))


def _scatter(axes: Any, points: Sequence[tuple[Any, float, bool]], *, log: bool | None) -> None:
    """Draw a dot per run over numeric or categorical x values; and means with standard deviations.

    Means are drawn if each of a few x values has several runs, as in a grid: numeric ones are joined by a line.
    """
    numeric = all(_is_number(x) for x, *_ in points)
    order = sorted(
        {_label(x): x for x, *_ in points}.items(), key=lambda item: _axis_order(item[1])
    )
    place = {text: x if numeric else number for number, (text, x) in enumerate(order)}
    kinds = ({"color": DOTS, "label": "a run"}, {"color": PRUNED, "marker": "x", "label": "pruned"})
    for pruned, options in zip((False, True), kinds, strict=True):
        if here := [(place[_label(x)], y) for x, y, is_pruned in points if is_pruned == pruned]:
            axes.scatter(*zip(*here, strict=True), s=18, alpha=0.6, **options)
    groups = [
        [y for x, y, is_pruned in points if _label(x) == text and not is_pruned]
        for text, _ in order
    ]
    if 1 < len(groups) <= MAX_MEANS and min(map(len, groups)) > 1:
        spread = [statistics.stdev(group) for group in groups]
        centers = list(map(statistics.fmean, groups))
        given = {
            "fmt": "D-" if numeric else "D",
            "markerfacecolor": "white",
            "capsize": 3,
            "markersize": 5,
        }
        axes.errorbar([*place.values()], centers, spread, color=MEANS, label=PLUS_MINUS, **given)
    values = list(place.values())
    if not numeric:
        ends = [text if len(text) <= MAX_LABEL else f"…{text[1 - MAX_LABEL :]}" for text in place]
        axes.set_xticks(values, [*map(plain, ends)], rotation=20)
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    is_log = values and values[0] > 0 and (values[-1] / values[0] > 9 if log is None else log)
    if is_log:
        use_log_scale(axes, "x")
    if len(values) <= MAX_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)


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

"""Verdicts that `compare` and `summarize` print of a table in a file, and how verdicts are printed.

Of what `leyden` alone brings, it needs no more.
"""

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.base.errors import UserError
from leyden.base.table import json_text, print_table, short_names
from leyden.base.terminal import show, some_of
from leyden.config.values import ABSENT
from leyden.report.looks import at_its_look
from leyden.run.conditions import parse_condition
from leyden.verdict.comparison import (
    ComparisonOverSets,
    ControlComparison,
    ControlOverSets,
    Question,
    TableComparison,
)
from leyden.verdict.difference import Look
from leyden.verdict.groups import MIN_VALUES
from leyden.verdict.numbers import printable_value
from leyden.verdict.ranking import Ranking, RankingOverSets
from leyden.verdict.reports import Report
from leyden.verdict.tables import RunTable, column_names

AIM = {"metric": "", "mode": ""}  # options with their defaults
OF_TABLES = {"seed": "seed", "ignore": ""}  # those that runs don't have
PRINTED = {"format": "table", "pdf": ""}
ASKED = {  # what is compared with what, and how
    "a": "",
    "b": "",
    "control": "",
    "over": "",
    "margin": "0",
    "planned": "false",
    "pairs": "false",
    "estimand": "mean",
}
PRINT_FORMATS = ("table", "json", "markdown", "latex")
Comparison = TableComparison | ComparisonOverSets | ControlComparison | ControlOverSets
Options = Mapping[str, str]
FileRow = Mapping[str, Any]
FileRows = Sequence[FileRow]
OF_TABLES_ONLY = "is for a table in a file; runs record it"
BY_MEANS = "By their means; leyden compare says whether a difference is more than chance."


def is_table(place: Path) -> bool:
    """Return whether a path is a table's, and not that of a folder with runs."""
    return place.is_file() or place.suffix == ".csv"


def refuse_options(options: Options, defaults: Options, why: str = OF_TABLES_ONLY) -> None:
    """Raise a `UserError` for an option without effect, as one of tables for runs."""
    for key, default in defaults.items():
        if options[key] != default:
            raise UserError(f"{key}={options[key]}: {why}")


def asked_metrics(text: str, mode: str = "") -> dict[str, str]:
    """Return metrics with their better directions; `mode` is that of those that have none.

    Example:
        >>> asked_metrics("val/acc:max,num_parameters", "min")
        {'val/acc': 'max', 'num_parameters': 'min'}

    Raises:
        UserError: A name is empty, or stands twice.
    """
    found: dict[str, str] = {}
    for each in map(str.strip, text.split(",")):
        name, _, end = each.rpartition(":")
        if not name or end not in ("min", "max"):
            name = each
            end = mode
        if name in found:
            raise UserError(f"{text}: {name} stands twice")
        if text and not name:
            raise UserError(f"{text}: a name is empty")
        found[name] = end
    if mode and mode not in found.values():
        raise UserError(f"mode={mode}: has no effect, as {text} names the directions")
    return found


def compare_each(
    options: Options,
    asked: Question,
    compare_one: Callable[[dict[str, str], Question], Comparison],
    *,
    of_table: bool,
) -> list[Comparison]:
    """Return a comparison for each metric that the options name.

    Args:
        options: Those of the command, as typed.
        asked: What is asked of two settings, at the first look and without a mode.
        compare_one: Returns the comparison of one metric, of its options.
        of_table: Whether each metric is a column, which is no setting of the others.

    Raises:
        UserError: An option has no effect.
    """
    each = options_by_metric(options, of_table=of_table)
    number = len(each)
    if number > 1 and asked.margin:
        raise UserError(f"margin={options['margin']}: is of one metric; metric= names {number}")
    if options["control"]:
        others = dict(ASKED)
        del others["control"], others["over"]
        refuse_options(options, others, "has no effect beside control=")
    return [compare_one(one, asked) for one in each]


def options_by_metric(options: Options, *, of_table: bool) -> list[dict[str, str]]:
    """Return a command's options for each metric that they name.

    Args:
        options: Those of the command, as typed.
        of_table: Whether each metric is a column, which is no setting of the others.

    Raises:
        UserError: A metric's name is empty, or stands twice.
    """
    metrics = asked_metrics(options["metric"], options["mode"])
    found = []
    for name, mode in metrics.items():
        one = {**options, "metric": name, "mode": mode}
        if of_table and len(metrics) > 1:
            one["ignore"] = ",".join([options["ignore"], *metrics])
        found.append(one)
    return found


def compare_table(path: Path, options: Options, asked: Question) -> Comparison:
    """Return the comparison of a table's settings, whose look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over`, `control`, `a` and `b`, as typed.
        asked: What is asked of the two, at the first look; the mode is that in `options`.

    Raises:
        UserError: An option does not fit the table.
        TableError: The file is no table, or an option does not fit it.
    """
    rows = verdict.read(path)
    over = options["over"]
    given = {**_given(options, rows), "over": over}
    compare: Callable[..., Comparison] = verdict.compare
    if options["control"]:
        compare = verdict.compare_with_control
        given["control"] = _condition(options, "control", rows)
        name = f"control {compact(options['control'])}"
    else:
        given = {**vars(asked), **given}
        given["a"] = _condition(options, "a", rows)
        given["b"] = _condition(options, "b", rows)
        sides = sorted([compact(options["a"]), compact(options["b"])])
        name = " and ".join(sides)
    if over:
        name += f" over {over}"
    name = f"{options['metric']} {name}"
    found: Comparison = _at_its_look(path, name, over, compare, rows, given)
    return found


def _at_its_look(
    path: Path,
    name: str,
    over: str,
    ask: Callable[..., Any],
    rows: FileRows,
    given: Mapping[str, Any],
) -> Any:
    """Return a function's verdict on a table, at the look that it is."""

    def ask_at(look: Look) -> Report:
        found: Report = ask(rows, **{**given, "look": look.number, "looks": look.planned})
        return found

    least = MIN_VALUES
    if over:
        least = 1
    folder = path.resolve().parent
    found, _ = at_its_look(folder, lambda _: f"{path.name} {name}", ask_at, least)
    return found


def compact(condition: str) -> str:
    """Return a condition as it names a comparison, however it was spaced."""
    words = condition.replace("==", "=").split()
    return "".join(words)


def summarize_table(path: Path, options: Options) -> Ranking | RankingOverSets:
    """Return which settings of a table can't be told apart from the best; the look is counted.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore` and `over`, as typed.

    Raises:
        UserError: The metric is missing.
        TableError: The file is no table, or an option does not fit it.
    """
    rows = verdict.read(path)
    over = options["over"]
    given = {**_given(options, rows), "over": over}
    name = f"{options['metric']} {over}".rstrip()
    found: Ranking | RankingOverSets = _at_its_look(path, name, over, verdict.rank, rows, given)
    return found


def table_of(path: Path, options: Options) -> RunTable:
    """Return the settings of a table in a file.

    Args:
        path: The file.
        options: `metric`, `seed` and `ignore`, as typed.

    Raises:
        UserError: As in `summarize_table`.
        TableError: As in `summarize_table`.
    """
    rows = verdict.read(path)
    return RunTable.of(rows, options["metric"], options["seed"] or None, _ignored(options, rows))


def _given(options: Options, rows: FileRows) -> dict[str, Any]:
    """Return the options as arguments of `verdict`.

    Raises:
        UserError: The metric is missing, or no column is ignored by a name.
    """
    if not options["metric"]:
        raise UserError("metric= is missing: the column of the table that is compared")
    return {
        "metric": options["metric"],
        "mode": options["mode"],
        "seed": options["seed"] or None,
        "ignore": _ignored(options, rows),
    }


def _ignored(options: Options, rows: FileRows) -> list[str]:
    """Return the names, or patterns, of a table's columns that are no settings.

    Raises:
        UserError: The table has no such column.
    """
    columns = column_names(rows)
    ignore = [name for name in options["ignore"].split(",") if name]
    for name in ignore:
        if name not in columns and not fnmatch.filter(columns, name):
            raise UserError(f"no column is named {name}; there are {some_of(columns)}")
    return ignore


def _condition(options: Options, name: str, rows: FileRows) -> Callable[[FileRow], bool]:
    """Return a condition on the settings of a table.

    Raises:
        UserError: It is missing or wrong.
    """
    if not options[name]:
        raise UserError(f"{name}= is missing: the setting of this side, such as {name}=model=mlp")
    is_met, keys = parse_condition(options[name], name)
    columns = {*column_names(rows)} - {options["metric"], options["seed"]}
    for key in sorted(keys):
        if key not in columns:
            raise UserError(f"{name}: {key} is no column with a setting")

    def condition(row: FileRow) -> bool:
        return is_met(lambda key: row.get(key, ABSENT))

    condition.columns = keys  # type: ignore[attr-defined]
    return condition


def directions_of(options: Options) -> dict[str, str]:
    """Return the metrics of a front, with their better directions.

    Raises:
        UserError: A direction is missing.
    """
    metrics = asked_metrics(options["front"])
    if not all(metrics.values()):
        raise UserError("front: min or max is missing, as in front=val/acc:max,num_parameters:min")
    return metrics


def show_front_of_table(path: Path, options: Options) -> None:
    """Print the settings of a table that no other one beats by the means of several metrics.

    Args:
        path: The file.
        options: `front`, such as `val/acc:max,num_parameters:min`, `format`, `seed` and `ignore`.

    Raises:
        UserError: A direction is missing, or no column is ignored by a name.
        TableError: The file is no table, or lacks a metric.
    """
    metrics = directions_of(options)
    rows = verdict.read(path)
    ignore = [options["seed"], *_ignored(options, rows)]
    front = verdict.front(rows, metrics, ignore=ignore)
    print_front(front, metrics, options["format"])


def print_front(front: list[dict[str, Any]], metrics: Options, form: str) -> None:
    """Print the settings of a front, as `table` or `json`."""
    if form == "json":
        print(json_text(front))
        return
    shown = [dict(row) for row in front]
    for name in metrics:
        are_whole = all(float(row[name]).is_integer() for row in front)
        if are_whole:
            for row in shown:
                row[name] = int(row[name])
    names = short_names(front[0])
    print_table(shown, names=names)
    show(BY_MEANS)


def print_reports(reports: Sequence[Report], form: str, pdf: str = "") -> None:
    """Print verdicts, one per metric, in one of `PRINT_FORMATS`, and draw the first one.

    Raises:
        UserError: The picture can't be drawn or written.
    """
    if pdf:
        from leyden.report.diagrams import draw

        draw(reports[0], pdf)
    if form == "json":
        contents = [report.contents() for report in reports]
        print(json_text(contents if len(contents) > 1 else contents[0]))
    elif form == "table":
        for number, report in enumerate(reports):
            if number:
                print()
            _print_report(report)
    else:
        show("\n\n".join(report.in_format(form) for report in reports))


def _print_report(report: Report) -> None:
    """Print a verdict's table, as wide as the terminal, and its lines."""
    for name, part in report.parts().items():
        show(printable_value(name))
        _print_report(part)
        print()
    header, *cells = report.cells() or [()]
    if header:
        names = {str(number): name for number, name in enumerate(header)}
        print_table([dict(zip(names, row, strict=True)) for row in cells], names=names)
    show("\n".join(report.lines()))

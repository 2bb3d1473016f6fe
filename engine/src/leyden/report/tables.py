"""Verdicts that `compare` and `summarize` print of a table in a file, and how comparisons and fronts are printed.

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
from leyden.report.looks import count_look
from leyden.run.conditions import parse_condition
from leyden.verdict.comparison import (
    ComparisonOverSets,
    ControlComparison,
    Question,
    TableComparison,
)
from leyden.verdict.difference import Verdict
from leyden.verdict.groups import MIN_VALUES, Group
from leyden.verdict.ranking import RankingOverSets

AIM = {"metric": "", "mode": ""}  # options with their defaults
OF_TABLES = {"seed": "seed", "ignore": ""}  # those that runs don't have
ASKED = {  # what is compared with what, and how
    "a": "",
    "b": "",
    "control": "",
    "over": "",
    "margin": "0",
    "planned": "false",
    "pairs": "false",
}
Comparison = TableComparison | ComparisonOverSets | ControlComparison
Options = Mapping[str, str]
FileRow = Mapping[str, Any]
FileRows = Sequence[FileRow]
TableParts = Sequence[Sequence[Group]]
OF_TABLES_ONLY = "is for a table in a file; runs record it"
BY_MEANS = "By their means; leyden compare says whether a difference is more than chance."


def is_table(place: Path) -> bool:
    """Return whether a path is a table's, and not that of a folder with runs."""
    return place.is_file() or place.suffix == ".csv"


def refuse_options(options: Options, defaults: Options, why: str = OF_TABLES_ONLY) -> None:
    """Raise a `UserError` if one of some options is given where it has no effect, such as those of tables for runs."""
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
    metrics = asked_metrics(options["metric"], options["mode"])
    number = len(metrics)
    if number > 1 and asked.margin:
        why = f"is of one metric; metric= names {number}"
        raise UserError(f"margin={options['margin']}: {why}")
    if options["control"]:
        others = dict(ASKED)
        del others["control"]
        refuse_options(options, others, "has no effect beside control=")
    one = dict(options)
    if of_table:
        one["ignore"] = ",".join([options["ignore"], *metrics])
    found = []
    for name, mode in metrics.items():
        one["metric"] = name
        one["mode"] = mode
        found.append(compare_one(one, asked))
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
    given = _given(options, rows)
    over = options["over"]
    if options["control"]:
        given["control"] = _condition(options, "control", rows)
        name = f"control {compact(options['control'])}"
        compare: Callable[..., Comparison] = verdict.compare_with_control
    else:
        given = {**vars(asked), **given, "over": over}
        given["a"] = _condition(options, "a", rows)
        given["b"] = _condition(options, "b", rows)
        sides = sorted([compact(options["a"]), compact(options["b"])])
        name = " and ".join(sides)
        if over:
            name += f" over {over}"
        compare = verdict.compare
    given["look"] = 1
    found = compare(rows, **given)
    parts = _compared_groups(found)
    given["look"] = _count_look(path, f"{path.name} {options['metric']} {name}", parts, over)
    return found if given["look"] == 1 else compare(rows, **given)


def compact(condition: str) -> str:
    """Return a condition as it names a comparison, however it was spaced."""
    words = condition.replace("==", "=").split()
    return "".join(words)


def _count_look(path: Path, name: str, parts: TableParts, over: str) -> int:
    least = 1 if over else MIN_VALUES
    return count_look(path.resolve().parent, name, parts, least)


def _compared_groups(found: Comparison) -> TableParts:
    """Return the settings that a comparison looks at, those of each data set apart."""
    if isinstance(found, ControlComparison):
        return [[found.control, *found.settings]]
    if isinstance(found, ComparisonOverSets):
        return [each.sides for each in found.each.values()]
    return [found.sides]


def summarize_table(path: Path, options: Options) -> None:
    """Print which settings of a table can't be told apart from the best; the look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over` and `format`, as typed.

    Raises:
        UserError: The metric is missing, or the format is not `table`.
        TableError: The file is no table, or an option does not fit it.
    """
    if options["format"] != "table":
        why = "is for runs; verdict.rank in Python returns a table's verdict"
        raise UserError(f"format={options['format']}: {why}")
    rows = verdict.read(path)
    over = options["over"]
    given = _given(options, rows)
    found = verdict.rank(rows, over=over, **given)
    each = found.each.values() if isinstance(found, RankingOverSets) else [found]
    parts = [ranking.settings for ranking in each]
    name = f"{path.name} {options['metric']} {over}"
    look = _count_look(path, name.rstrip(), parts, over)
    if look > 1:
        found = verdict.rank(rows, over=over, look=look, **given)
    show(str(found))


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
    columns: dict[str, None] = {}
    for row in rows:
        columns |= dict.fromkeys(row)
    ignore = []
    for name in options["ignore"].split(","):
        if name and not fnmatch.filter(columns, name) and name not in columns:
            raise UserError(f"no column is named {name}; there are {some_of(list(columns))}")
        if name:
            ignore.append(name)
    return ignore


def _condition(options: Options, name: str, rows: FileRows) -> Callable[[FileRow], bool]:
    """Return a condition on the settings of a table.

    Raises:
        UserError: It is missing or wrong.
    """
    if not options[name]:
        raise UserError(f"{name}= is missing: the setting of this side, such as {name}=model=mlp")
    is_met, keys = parse_condition(options[name], name)
    outcomes = (options["metric"], options["seed"])
    for key in sorted(keys):
        is_column = any(key in row for row in rows)
        if key in outcomes or not is_column:
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


def print_comparisons(comparisons: Sequence[Comparison], form: str) -> None:
    """Print comparisons, one per metric, as `table` or `json`."""
    if form == "table":
        texts = [str(found) for found in comparisons]
        show("\n\n".join(texts))
        return
    contents = [_content(found) for found in comparisons]
    shown = contents if len(contents) > 1 else contents[0]
    print(json_text(shown))


def _content(compared: Comparison) -> dict[str, Any]:
    if isinstance(compared, ControlComparison):
        return _control_content(compared)
    if isinstance(compared, ComparisonOverSets):
        each = {}
        for name, of_set in compared.each.items():
            each[str(name)] = _content(of_set)
        return {"sets": each, "over": _content_over_sets(compared.over)}
    a, b = compared.sides
    return {
        "metric": compared.metric,
        "a": _side(a),
        "b": _side(b),
        **_found(compared.found, "a", "b"),
        "remarks": compared.remarks,
    }


def _content_over_sets(over: RankingOverSets) -> dict[str, Any]:
    best = over.like_best
    return {
        "better": best[0] if len(best) == 1 else "",
        "num_sets": over.num_sets,
        "p_value": over.p_value,
        "level": over.level,
        "remarks": over.remarks,
    }


def _found(found: Verdict, a: str, b: str) -> dict[str, Any]:
    confidence = 1 - found.level
    return {**vars(found), "confidence": confidence, "verdict": found.in_words(a, b)}


def _control_content(compared: ControlComparison) -> dict[str, Any]:
    settings = []
    for setting, found in zip(compared.settings, compared.found, strict=True):
        words = _found(found, "setting", "control")
        settings.append({**_side(setting), **words})
    return {
        "metric": compared.metric,
        "control": _side(compared.control),
        "settings": settings,
        "remarks": compared.remarks,
    }


def _side(side: Group) -> dict[str, Any]:
    mean = side.mean if side.values else None
    return {"choices": side.choices, "mean": mean, "n": len(side.values), "lost": side.lost}

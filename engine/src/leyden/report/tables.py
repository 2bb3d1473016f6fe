"""Verdicts on a table in a file, such as an export of another program, as `compare` and `summarize` print them."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.config.errors import UserError
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show
from leyden.config.values import ABSENT
from leyden.report.comparison import setting_content
from leyden.report.held_out import check_metrics
from leyden.report.listing import parse_condition
from leyden.report.ranking import assign_data, count_look, merge_rows, read_sweep_settings
from leyden.report.records import read_records
from leyden.verdict.tables import Setting, TableComparison, TableRanking, TablesRanking

OPTIONS = {"metric": "", "mode": "", "seed": "seed", "ignore": ""}  # of tables alone, with their defaults
NOT_OF_TABLES = "is for runs, not for a table"


def refuse_table_options(options: Mapping[str, str]) -> None:
    """Check that no option of tables is given for runs, which record their objective and their seeds.

    Raises:
        UserError: One is given.
    """
    _refuse(options, OPTIONS, "is for a table in a file; runs record it")


def _refuse(options: Mapping[str, str], defaults: Mapping[str, str], why: str) -> None:
    if given := next((key for key, default in defaults.items() if options[key] != default), None):
        raise UserError(f"{given}={options[given]}: {why}")


def metrics_of(text: str, mode: str = "") -> list[tuple[str, str]]:
    """Return metrics and their better directions, as in `val/acc:max,num_parameters:min`.

    Args:
        text: The metrics, as typed.
        mode: The direction of those that have none.
    """
    parts = [(each, *each.rpartition(":")) for each in text.split(",")]
    return [(name, end) if name and end in ("min", "max") else (each, mode) for each, name, _, end in parts]


def compare_table(path: Path, options: Mapping[str, str], *, margin: float, planned: bool) -> TableComparison:
    """Return the comparison of two settings of a table.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `a` and `b`, as typed.
        margin: Largest difference that does not matter; 0 for none.
        planned: Whether the two settings were named before the results were seen.

    Raises:
        UserError: The file is no table, or an option does not fit it.
    """
    _refuse(options, {"failed": "drop"}, NOT_OF_TABLES)
    given, rows = _given(options), _read(path)
    a, b = (_condition(options, name, rows) for name in "ab")

    def compared(look: int) -> TableComparison:
        return verdict.compare(rows, a=a, b=b, margin=margin, planned=planned, look=look, **given)

    typed = sorted("".join(options[name].replace("==", "=").split()) for name in "ab")
    name = f"{path.name} {options['metric']} {' and '.join(typed)}"
    found: TableComparison = _look_again(path, name, compared, lambda each: [each.sides])
    return found


def show_front(place: Path, options: Mapping[str, str], form: str) -> None:
    """Print the settings of runs or of a table that no other one beats by the means of several metrics.

    Args:
        place: A folder with runs, or a file.
        options: `front`, the metrics with their better direction, such as `val/acc:max,num_parameters:min`; of a table
            `seed` and `ignore`.
        form: `table` or `json`.

    Raises:
        UserError: There is no such metric, a direction is missing, no run has finished, the runs have different data, or
            an option has no effect.
    """
    text = options["front"]
    metrics = dict(metrics_of(text))
    _refuse(options, {"metric": "", "mode": "", "failed": "drop", "over": "seeds"}, "has no effect on front=")
    if place.is_file():
        rows, ignore = _read(place), [options["seed"], *options["ignore"].split(",")]
    else:
        refuse_table_options(options)
        rows, ignore = _rows_of_runs(place, metrics), []
    try:
        found = verdict.front(rows, metrics, ignore=ignore)
    except verdict.TableError as error:
        raise UserError(f"front={text}: {error}; for example front=val/acc:max,num_parameters:min") from error
    if form == "json":
        print(json_text(found))
        return
    print_table(
        [{key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in row.items()} for row in found]
    )
    show(
        "No other setting is better by the means of these; leyden compare says whether a difference is more than chance."
    )


def _rows_of_runs(directory: Path, metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return choices and metrics of each finished run, but of those that repeat each other one.

    Raises:
        UserError: One of the metrics is of the test set, no run has finished, or the runs have different data.
    """
    records, (_, averaged) = read_records(directory), read_sweep_settings(directory)
    check_metrics("front", metrics, records)
    rows = [row for row in merge_rows(records, averaged) if row.finished]
    if not rows:
        raise UserError(f"{directory}: none of {len(records)} runs has finished")
    if keys := assign_data(rows, averaged):
        raise UserError(
            f"front: the runs' data differ in {' and '.join(keys)}; name a folder with runs of one data set"
        )
    return [
        {**row.choices, **{name: record.result.metrics.get(name) for name in metrics}}
        for row in rows
        for record in row.distinct(averaged)
        if record.result
    ]


def summarize_table(path: Path, options: Mapping[str, str]) -> None:
    """Print which settings of a table can't be told apart from the best.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over` and `format`, as typed; `over` may be a column.

    Raises:
        UserError: The file is no table, or an option does not fit it.
    """
    _refuse(options, {"failed": "drop"}, NOT_OF_TABLES)
    over = options["over"] if options["over"] != "seeds" else ""
    given, rows = _given(options), _read(path)

    def ranked(look: int) -> TableRanking | TablesRanking:
        return verdict.rank(rows, over=over, look=look, **given)

    def settings(found: TableRanking | TablesRanking) -> list[list[Setting]]:
        each = found.each.values() if isinstance(found, TablesRanking) else [found]
        return [ranking.settings for ranking in each]

    found = _look_again(path, f"{path.name} {options['metric']} {over}".rstrip(), ranked, settings)
    if options["format"] == "json":
        each = found.each.items() if isinstance(found, TablesRanking) else [("", found)]
        rows = [
            {over or "table": name, **setting_content(setting), "like_best": like}
            for name, ranking in each
            for setting, like in zip(ranking.settings, ranking.ranking.like_best, strict=True)
        ]
        content = {"rows": rows, "remarks": [line for _, ranking in each for line in ranking.ranking.remarks]}
        if isinstance(found, TablesRanking):
            content |= {"mean_ranks": found.overall.mean_ranks, "overall": found.overall.remarks}
        print(json_text(content))
        return
    show(str(found))


def _look_again(path: Path, name: str, make: Callable[[int], Any], parts: Callable[[Any], Any]) -> Any:
    """Return a verdict at the level of its look, which is counted in a list beside the table.

    Raises:
        UserError: The table can't be read or compared.
    """
    try:
        found = make(1)
        look = count_look(path.resolve().parent, name, parts(found))
        return found if look == 1 else make(look)
    except verdict.TableError as error:
        raise UserError(str(error)) from error


def _given(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options as arguments of `verdict`.

    Raises:
        UserError: The metric is missing.
    """
    if not options["metric"]:
        raise UserError("metric= is missing: the column of the table that is compared")
    ignore = [name for name in options["ignore"].split(",") if name]
    return {"metric": options["metric"], "mode": options["mode"], "seed": options["seed"] or None, "ignore": ignore}


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table.

    Raises:
        UserError: The file is no table.
    """
    try:
        return verdict.read(path)
    except verdict.TableError as error:
        raise UserError(str(error)) from error


def _condition(
    options: Mapping[str, str], name: str, rows: Sequence[Mapping[str, Any]]
) -> Callable[[Mapping[str, Any]], bool]:
    """Return a condition on the settings of a table.

    Raises:
        UserError: It is missing or wrong.
    """
    if not options[name]:
        raise UserError(f"{name}= is missing: the setting of this side, such as {name}=model=mlp")
    is_met, keys = parse_condition(options[name], name)
    outcomes = (options["metric"], options["seed"])
    if wrong := next((key for key in sorted(keys) if key in outcomes or not any(key in row for row in rows)), None):
        raise UserError(f"{name}: {wrong} is no column with a setting")
    return lambda row: is_met(functools.partial(_value, row))


def _value(row: Mapping[str, Any], key: str) -> Any:
    return row.get(key, ABSENT)

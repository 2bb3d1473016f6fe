"""Verdicts on a table in a file, such as an export of another program, as `compare` and `summarize` print them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.config.errors import UserError
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show
from leyden.config.values import ABSENT
from leyden.report.comparison import setting_content
from leyden.report.held_out import refuse_test_metrics
from leyden.report.listing import parse_condition
from leyden.report.ranking import count_look, read_sweep_settings
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


def show_front(place: Path, text: str, form: str) -> None:
    """Print the settings of runs or of a table that no other one beats by the means of several metrics.

    Args:
        place: A folder with runs, or a file.
        text: Metrics with their better direction, such as `val/acc:max,num_parameters:min`.
        form: `table` or `json`.

    Raises:
        UserError: There is no such metric, or a direction is missing.
    """
    metrics = dict(metrics_of(text))
    if place.is_file():
        rows, ignore = _read(place), ["seed"]
    else:
        records, (_, ignore) = read_records(place), read_sweep_settings(place)
        refuse_test_metrics("front", metrics, records)
        rows = [{**each.choices, **each.result.metrics} for each in records if each.result]
        names = {name for each in records if each.result for name in each.result.metrics}
        ignore = [*ignore, *names]
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

"""Verdicts on a table in a file, such as an export of another program, and the front of several metrics."""

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.config.errors import UserError
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show
from leyden.config.values import ABSENT
from leyden.report.comparison import Comparison, setting_content
from leyden.report.held_out import check_metrics
from leyden.report.listing import parse_condition
from leyden.report.ranking import assign_data, count_look, merge_rows, read_sweep
from leyden.report.records import read_records
from leyden.verdict.ranking import Ranking, RankingOverSets

OPTIONS = {"metric": "", "mode": "", "seed": "seed", "ignore": ""}  # of tables alone, with their defaults
NOT_OF_RUNS = "is for a table in a file; runs record it"


@contextlib.contextmanager
def table_errors() -> Iterator[None]:
    """Raise errors of a table as those of the user.

    Raises:
        UserError: A table can't be read, or can't be compared as asked.
    """
    try:
        yield
    except verdict.TableError as error:
        raise UserError(str(error)) from error


def refuse_options(options: Mapping[str, str], defaults: Mapping[str, str], why: str) -> None:
    """Check that no option is given where it has no effect.

    Raises:
        UserError: One is given.
    """
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


def compare_table(path: Path, options: Mapping[str, str], *, margin: float, planned: bool) -> Comparison:
    """Return the comparison of two settings of a table, whose look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `a` and `b`, as typed.
        margin: Largest difference that does not matter; 0 for none.
        planned: Whether the two settings were named before the results were seen.

    Raises:
        UserError: An option does not fit the table.
        TableError: The file is no table, or an option does not fit it.
    """
    given, rows = _given(options), verdict.read(path)
    a, b = (_condition(options, name, rows) for name in "ab")
    compared = functools.partial(verdict.compare, rows, a=a, b=b, margin=margin, planned=planned, **given)
    typed = sorted("".join(options[name].replace("==", "=").split()) for name in "ab")
    name = f"{path.name} {options['metric']} {' and '.join(typed)}"
    return Comparison(_look_again(path, name, compared, lambda found: [found.sides]))


def summarize_table(path: Path, options: Mapping[str, str]) -> None:
    """Print which settings of a table can't be told apart from the best; the look is counted in a list beside it.

    Args:
        path: The file.
        options: `metric`, `mode`, `seed`, `ignore`, `over` and `format`, as typed; `over` may be a column.

    Raises:
        UserError: The metric is missing.
        TableError: The file is no table, or an option does not fit it.
    """
    over = options["over"] if options["over"] != "seeds" else ""
    ranked = functools.partial(verdict.rank, verdict.read(path), over=over, **_given(options))
    name = f"{path.name} {options['metric']} {over}".rstrip()
    found = _look_again(path, name, ranked, lambda found: [each.settings for each in _each(found).values()])
    if options["format"] != "json":
        show(str(found))
        return
    rows = [
        {over or "table": name, **setting_content(setting), "like_best": like}
        for name, ranking in _each(found).items()
        for setting, like in zip(ranking.settings, ranking.like_best, strict=True)
    ]
    remarks = [line for ranking in _each(found).values() for line in ranking.remarks]
    print(json_text({"rows": rows, "remarks": remarks, **({"mean_ranks": found.mean_ranks} if over else {})}))


def _each(found: Ranking | RankingOverSets) -> Mapping[Any, Ranking]:
    """Return the ranking of each data set, by its name."""
    return found.each if isinstance(found, RankingOverSets) else {"": found}


def _look_again(path: Path, name: str, make: Callable[..., Any], parts: Callable[[Any], Any]) -> Any:
    """Return a verdict at the level of its look, which is counted in a list beside the table."""
    found = make()
    look = count_look(path.resolve().parent, name, parts(found))
    return found if look == 1 else make(look=look)


def _given(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options as arguments of `verdict`.

    Raises:
        UserError: The metric is missing.
    """
    if not options["metric"]:
        raise UserError("metric= is missing: the column of the table that is compared")
    ignore = [name for name in options["ignore"].split(",") if name]
    return {"metric": options["metric"], "mode": options["mode"], "seed": options["seed"] or None, "ignore": ignore}


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
    return lambda row: is_met(lambda key: row.get(key, ABSENT))


def show_front(place: Path, options: Mapping[str, str], form: str) -> None:
    """Print the settings of runs or of a table that no other one beats by the means of several metrics.

    Args:
        place: A folder with runs, or a file.
        options: `front`, the metrics with their better direction, such as `val/acc:max,num_parameters:min`; of a table
            `seed` and `ignore`.
        form: `table` or `json`.

    Raises:
        UserError: A direction is missing, no run has finished, the runs have different data, or an option has no effect.
        TableError: There is no such metric.
    """
    metrics = dict(metrics_of(options["front"]))
    refuse_options(options, {"metric": "", "mode": "", "over": "seeds"}, "has no effect on front=")
    if not all(metrics.values()):
        raise UserError("front: min or max is missing, as in front=val/acc:max,num_parameters:min")
    if place.is_file():
        rows, ignore = verdict.read(place), [options["seed"], *options["ignore"].split(",")]
    else:
        rows, ignore = _rows_of_runs(place, metrics), []
    found = verdict.front(rows, metrics, ignore=ignore)
    if form == "json":
        print(json_text(found))
        return
    print_table(
        [{key: int(v) if isinstance(v, float) and v.is_integer() else v for key, v in row.items()} for row in found]
    )
    show("By their means; leyden compare says whether a difference is more than chance.")


def _rows_of_runs(directory: Path, metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return choices and metrics of each finished run, but of those that repeat each other one.

    Raises:
        UserError: One of the metrics is of the test set, no run has finished, or the runs have different data.
    """
    records = read_records(directory)
    check_metrics("front", metrics, records)
    rows = [row for row in merge_rows(records, read_sweep(directory)["average_over"]) if row.finished]
    if not rows:
        raise UserError(f"{directory}: none of {len(records)} runs has finished")
    if keys := assign_data(rows):
        raise UserError(
            f"front: the runs' data differ in {' and '.join(keys)}; name a folder with runs of one data set"
        )
    return [
        {**row.choices, **{name: record.result.metrics.get(name) for name in metrics}}
        for row in rows
        for record in row.distinct
        if record.result
    ]

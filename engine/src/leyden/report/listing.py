"""Lists of the runs below a folder, filtered and sorted; as a table, JSON or CSV."""

import math
import os
import sys
import time
from collections import ChainMap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from leyden.config.table import json_text, print_csv, print_table, short_names
from leyden.config.terminal import metric_text, show
from leyden.report.held_out import refuse_test_metrics
from leyden.report.query import check_known, parse_condition
from leyden.report.records import Record, position, read_raw_records
from leyden.run.result import read_points

# A run counts as stuck if it has logged nothing for STUCK_FACTOR times its usual interval, and for MIN_STUCK_S
# seconds.
STUCK_FACTOR, MIN_STUCK_S = 20, 600
SHOWN = ("status", "age", "objective", "directory")  # keys with a column of their own
COLUMNS = ("directory", "status", "age_s", "far", "objective", "typed")


def list_runs(directory: Path, *, where: str, sort: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the runs in or below a directory that meet a condition, sorted, as rows of a table.

    A row has the run directory, its status (as in `Record`, or `stuck` if its process is alive but has logged nothing
    for long), the seconds since its first start, its progress in words, the first objective's value, the overrides of the
    first start, and the values of the requested keys. What is unknown is None, and a key that the run lacks is absent.

    Args:
        directory: A run directory, or a folder with runs.
        where: Condition in the syntax of `parse_condition`; empty for all runs.
        sort: A key of `query_values`; with the prefix `-`, largest first. Runs without the key come last.

    Returns:
        The rows, and the requested keys that are columns of their own.

    Raises:
        UserError: There is no run, no run has a requested key, or a key is a metric of the test set.
    """
    key = sort.removeprefix("-")
    found, keys = filter_records(read_raw_records(directory), where, "where", {"sort": key})
    asked = [name for name in dict.fromkeys([*sorted(keys), key]) if name not in SHOWN]
    chosen = [(values.get(key), _row(record, values, asked)) for record, values in found]
    sortable = [(value, row) for value, row in chosen if _is_sortable(value)]
    are_numbers = all(isinstance(value, int | float) for value, _ in sortable)
    sortable.sort(
        key=lambda each: cast(float, each[0]) if are_numbers else str(each[0]), reverse=sort.startswith("-")
    )
    return [row for _, row in sortable] + [row for value, row in chosen if not _is_sortable(value)], asked


def filter_records(
    records: Sequence[Record], condition: str, option: str, more: Mapping[str, str] | None = None
) -> tuple[list[tuple[Record, Mapping[str, Any]]], set[str]]:
    """Return the runs that meet a condition, each with its values for queries, and the keys that it names.

    Args:
        records: The runs.
        condition: Condition in the syntax of `parse_condition`; empty for all runs.
        option: Name of the option, for error messages.
        more: Further keys that are checked as those of the condition are, by option.

    Raises:
        UserError: The condition is wrong, no run has a key, or a key is a metric of the test set.
    """
    is_met, keys = parse_condition(condition, option) if condition else ((lambda values: True), set[str]())
    found = [(record, query_values(record)) for record in records]
    for name, of_option in {option: keys, **{name: {key} for name, key in (more or {}).items()}}.items():
        refuse_test_metrics(name, of_option, records)
        check_known(name, of_option, [values for _, values in found])
    return [(record, values) for record, values in found if is_met(values)], keys


def query_values(record: Record) -> Mapping[str, Any]:
    """Return a run's values for queries: overrides, configuration, metrics, status, age and progress."""
    started, values = record.started, record.values
    own = {
        "status": "stuck" if record.status == "running" and _is_stuck(record) else record.status,
        "age": None if started is None else time.time() - started,
        "objective": values[0] if values else None,
        "epochs": record.epochs,
        "seconds": record.seconds,
        "directory": str(record.run.directory),
    }
    # Not merged: thousands of runs share most of their configuration.
    maps: Any = (own, record.result.metrics if record.result else {}, record.config, record.typed)
    return ChainMap(*maps)


def _is_sortable(value: Any) -> bool:
    """Return whether a value can be sorted; NaN and missing values can't."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _row(record: Record, values: Mapping[str, Any], asked: Sequence[str]) -> dict[str, Any]:
    num = record.result.epochs if record.result else None
    return {
        "directory": str(record.run.directory),
        "status": values["status"],
        "age_s": values["age"],
        "far": position(record) or "not begun" if num is None else f"{num} epoch{'s' * (num != 1)}",
        "objective": values["objective"],
        "typed": " ".join(f"{key}={value}" for key, value in record.typed.items()),
        **{key: values[key] for key in asked if key in values},
    }


def _is_stuck(record: Record) -> bool:
    """Return whether a run has logged nothing for much longer than its usual interval between two logged steps."""
    path = record.run.directory / "metrics.csv"
    num_steps = len({step for step, *_ in read_points(path)})
    if record.started is None or num_steps < 2:
        return False
    last = path.stat().st_mtime
    # Pauses between starts lengthen this interval, so that the run is only reported later.
    usual = max(0.0, last - record.started) / num_steps
    return time.time() - last > max(MIN_STUCK_S, STUCK_FACTOR * usual)


def print_runs(rows: Sequence[dict[str, Any]], asked: Sequence[str], form: str) -> None:
    """Print rows of `list_runs` as `table`, `json` or `csv`, with a column for each requested key."""
    if form == "json":
        print(json_text(rows))
    elif form == "csv":
        # What is unknown is a gap; null is the value of a key.
        known = [{key: value for key, value in row.items() if value is not None or key in asked} for row in rows]
        print_csv(known, [*(name for name in COLUMNS if name not in asked), *asked])
    elif not rows:
        print("no run matches this")
    else:
        cwd = str(Path.cwd())
        here = cwd if cwd.endswith(os.sep) else cwd + os.sep
        typed, shared = [row["typed"] for row in rows], ""
        if sys.stdout.isatty():
            typed, shared = _short_typed(typed)
        shown = [
            row
            | {
                "run": "." if row["directory"] == cwd else row["directory"].removeprefix(here),
                "age": _age_text(row["age_s"]),
                "how far": row["far"],
                "objective": "" if row["objective"] is None else metric_text(row["objective"]),
                "typed": text,
            }
            for row, text in zip(rows, typed, strict=True)
        ]
        print_table(shown, ["run", "status", "age", "how far", "objective", *asked, "typed"], cut=True)
        if shared:
            show(f"typed in all: {shared}")


def _short_typed(typed: Sequence[str]) -> tuple[list[str], str]:
    """Return each run's overrides with short keys, without those that all runs have, and the latter."""
    words = [text.split() for text in typed]
    shared = set.intersection(*map(set, words)) if len(words) > 1 else set()
    parts = [[word.partition("=") for word in of_run if word not in shared] for of_run in words]
    names = short_names({key for of_run in parts for key, sign, _ in of_run if sign})
    own = [" ".join(f"{names.get(key, key)}{sign}{value}" for key, sign, value in of_run) for of_run in parts]
    return own, " ".join(word for word in words[0] if word in shared)


UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def _age_text(seconds: float | None) -> str:
    """Return an age in the largest unit in which it is 2 or more.

    Example:
        >>> _age_text(2 * 86400), _age_text(5400), _age_text(1)
        ('2 d', '90 min', 'now')
    """
    if seconds is None:
        return ""
    return next((f"{seconds / size:.0f} {unit}" for unit, size in UNITS if seconds >= 2 * size), "now")

"""Lists of the runs below a folder, sorted, and filtered by conditions such as `val/acc > 0.97 and optimizer.lr < 0.01`."""

import difflib
import functools
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.table import json_text, print_csv, print_table
from leyden.config.values import ABSENT
from leyden.report.records import (
    Record,
    position,
    read_raw_records,
    refuse_test_metrics,
    threads_remark,
)
from leyden.run.conditions import parse_condition
from leyden.run.identity import shown_value
from leyden.run.keys import NOTES
from leyden.verdict.numbers import metric_text

SHOWN = ("status", "age", "objective", "directory")  # keys with a column of their own
# Of CSV; a further one is also made in `_row`, and shown in `print_runs`.
COLUMNS = ("directory", "status", "age_s", "far", "objective", "typed", *NOTES, "threads")


def list_runs(directory: Path, *, where: str, sort: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the runs in or below a directory that meet a condition, sorted, as rows of a table.

    A row has the run directory, its status, the seconds since its first start, its progress in words, the objective's value, the overrides of the
    first start, and the values of the requested keys. What is unknown is None, and a key that the run lacks is absent.

    Args:
        directory: A run directory, or a folder with runs.
        where: Condition in the syntax of `parse_condition`; empty for all runs.
        sort: A key of `value_of`; with the prefix `-`, largest first. Runs without the key come last.

    Returns:
        The rows, and the requested keys that are columns of their own.

    Raises:
        UserError: There is no run, no run has a requested key, or a key is a metric of the test set.
    """
    key = sort.removeprefix("-")
    records = read_raw_records(directory)
    found, keys = select(records, where, "where")
    _check_keys("sort", {key}, records)
    asked = [name for name in dict.fromkeys([*sorted(keys), key]) if name not in SHOWN]
    values = [value_of(record, key) for record in found]
    places = [place for place, value in enumerate(values) if _is_sortable(value)]
    if not all(isinstance(values[place], int | float) for place in places):
        values = [*map(str, values)]
    order = sorted(places, key=lambda place: values[place], reverse=sort.startswith("-"))
    order += sorted({*range(len(found))} - {*places})
    return [_row(found[place], asked) for place in order], asked


def select(records: Sequence[Record], condition: str, option: str) -> tuple[list[Record], set[str]]:
    """Return the runs that meet a condition, and the keys that it names.

    Args:
        records: The runs.
        condition: Condition in the syntax of `parse_condition`; empty for all runs.
        option: Name of the option, for error messages.

    Raises:
        UserError: The condition is wrong, no run has a key, or a key is a metric of the test set.
    """
    if not condition:
        return [*records], set()
    is_met, keys = parse_condition(condition, option)
    _check_keys(option, keys, records)
    return [record for record in records if is_met(functools.partial(value_of, record))], keys


def _check_keys(option: str, keys: Iterable[str], records: Sequence[Record]) -> None:
    """Check that some run has each key, and that none is a metric of the test set.

    Raises:
        UserError: It is not so.
    """
    refuse_test_metrics(option, {*keys}, records)
    for key in sorted(keys):
        if all(value_of(record, key) is ABSENT for record in records):
            names = {
                name for record in records for values in (OWN, *_values(record)) for name in values
            }
            close = difflib.get_close_matches(key, names, 1)
            raise UserError(
                f"{option}: no run has {key}" + (f"; did you mean {close[0]}?" if close else "")
            )


OWN: dict[str, Callable[[Record], Any]] = {
    "status": lambda record: record.status,
    "age": lambda record: None if (started := record.started) is None else time.time() - started,
    "objective": lambda record: record.value,
    "epochs": lambda record: record.epochs,
    "seconds": lambda record: record.seconds,
    "directory": lambda record: record.directory,
    "threads": lambda record: record.threads,
}


def value_of(record: Record, key: str) -> Any:
    """Return a run's value of a key: its status, age or progress, a metric, or a setting; `ABSENT` if it has none."""
    if key in OWN:
        return OWN[key](record)
    for values in _values(record):
        if key in values:
            return values[key]
    return ABSENT


def _values(record: Record) -> tuple[Mapping[str, Any], ...]:
    metrics = record.result.metrics if record.result else {}
    return metrics, record.config, record.typed, record.groups


def _is_sortable(value: Any) -> bool:
    """Return whether a value can be sorted; NaN and missing values can't."""
    return (
        value is not None
        and value is not ABSENT
        and not (isinstance(value, float) and math.isnan(value))
    )


def _row(record: Record, asked: Sequence[str]) -> dict[str, Any]:
    num = record.epochs
    row = {
        "directory": record.directory,
        "status": record.status,
        "age_s": OWN["age"](record),
        "far": position(record) or "not begun" if num is None else f"{num} epoch{'s' * (num != 1)}",
        "objective": record.value,
        "typed": " ".join(f"{key}={value}" for key, value in record.typed.items()),
        **{key: record.config.get(key) for key in NOTES},
        "threads": record.threads,
    }
    return row | {key: value for key in asked if (value := value_of(record, key)) is not ABSENT}


def print_runs(rows: Sequence[dict[str, Any]], asked: Sequence[str], form: str) -> None:
    """Print rows of `list_runs` as `table`, `json` or `csv`, with a column for each requested key."""
    if form == "json":
        print(json_text(rows))
    elif form == "csv":
        # What is unknown is a gap; null is the value of a key.
        known = [
            {key: value for key, value in row.items() if value is not None or key in asked}
            for row in rows
        ]
        print_csv(known, [*(name for name in COLUMNS if name not in asked), *asked])
    elif not rows:
        print("no run matches this")
    else:
        cwd = str(Path.cwd())
        here = cwd if cwd.endswith(os.sep) else cwd + os.sep
        remarks = threads_remark(row["threads"] for row in rows)
        asked = [key for key in asked if key not in NOTES]
        if remarks and "threads" not in asked:
            asked.append("threads")
        shown = [
            {
                "run": "." if row["directory"] == cwd else row["directory"].removeprefix(here),
                "status": row["status"],
                "age": _age_text(row["age_s"]),
                "how far": row["far"],
                "objective": "" if row["objective"] is None else metric_text(row["objective"]),
                **{key: shown_value(key, row[key]) for key in asked if key in row},
                "typed": row["typed"],
                "note": " ".join(
                    [str(row["note"] or ""), *(f"#{tag}" for tag in row["tags"] or [])]
                ).strip(),
            }
            for row in rows
        ]
        noted = ["note"] if any(row["note"] for row in shown) else []
        print_table(
            shown, ["run", "status", "age", "how far", "objective", *asked, "typed", *noted]
        )
        for remark in remarks:
            print(remark)


UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def _age_text(seconds: float | None) -> str:
    """Return an age in the largest unit in which it is 2 or more.

    Example:
        >>> _age_text(2 * 86400), _age_text(5400), _age_text(1)
        ('2 d', '90 min', 'now')
    """
    if seconds is None:
        return ""
    return next(
        (f"{seconds / size:.0f} {unit}" for unit, size in UNITS if seconds >= 2 * size), "now"
    )

"""Lists of the runs below a folder, sorted, and filtered by conditions.

Such as `val/acc > 0.97 and optimizer.lr < 0.01`.
"""

import contextlib
import difflib
import functools
import math
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden.base.errors import UserError
from leyden.base.table import json_text, print_csv, print_table
from leyden.base.terminal import time_text
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

STANDSTILL_S = 600  # a run that lives and logs nothing for so long may stand still
WRITTEN = ("metrics.csv", "checkpoints/last.ckpt", "starts.json")
SHOWN_COLUMNS = ("status", "age", "objective", "directory")  # keys with a column of their own
# Of CSV; a further one is also made in `_row`, and shown in `print_runs`.
COLUMNS = ("directory", "status", "age_s", "far", "objective", "typed", *NOTES, "threads")


def list_runs(directory: Path, *, where: str, sort: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the runs in or below a directory that meet a condition, sorted, as rows of a table.

    A row has the run directory, its status, the seconds since its first start, its progress in
    words, the objective's value, the overrides of the first start, and the values of the requested
    keys. What is unknown is None, and a key that the run lacks is absent.

    Args:
        directory: A run directory, or a folder with runs.
        where: Condition in the syntax of `parse_condition`; empty for all runs.
        sort: A key of `value_of`; with the prefix `-`, largest first. Runs without the key come
            last.

    Returns:
        The rows, and the requested keys that are columns of their own.

    Raises:
        UserError: There is no run, no run has a requested key, or a key is a metric of the test
            set.
    """
    key = sort.removeprefix("-")
    records = read_raw_records(directory)
    found, keys = select(records, where, "where")
    _check_keys("sort", {key}, records)
    columns = [name for name in dict.fromkeys([*sorted(keys), key]) if name not in SHOWN_COLUMNS]
    ordered = _sorted(found, key, is_reversed=sort.startswith("-"))
    return [_row(record, columns) for record in ordered], columns


def _sorted(records: Sequence[Record], key: str, *, is_reversed: bool) -> list[Record]:
    """Return runs sorted by a key: by numbers if all values are numbers, else by texts.

    Those without a value last.
    """
    with_value = []
    others = []
    for record in records:
        value = value_of(record, key)
        if _is_sortable(value):
            with_value.append((value, record))
        else:
            others.append(record)
    are_numbers = all(isinstance(value, int | float) for value, _ in with_value)

    def place(item: tuple[Any, Record]) -> Any:
        if are_numbers:
            return item[0]
        return str(item[0])

    with_value.sort(key=place, reverse=is_reversed)
    return [*(record for _, record in with_value), *others]


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
            message = f"{option}: no run has {key}"
            close = difflib.get_close_matches(key, _keys_of(records), 1)
            if close:
                message += f"; did you mean {close[0]}?"
            raise UserError(message)


def _keys_of(records: Sequence[Record]) -> set[str]:
    names = {*OWN}
    for record in records:
        for values in _values(record):
            names.update(values)
    return names


def _age(record: Record) -> float | None:
    """Return the seconds since a run's first start; None if unknown."""
    started = record.started
    if started is None:
        return None
    return time.time() - started


# Keys that a run has by itself, and the attribute of `Record`; `age` is computed.
OWN = {
    "status": "status",
    "age": "",
    "objective": "value",
    "epochs": "epochs",
    "seconds": "seconds",
    "directory": "directory",
    "threads": "threads",
}


def value_of(record: Record, key: str) -> Any:
    """Return a run's value of a key: its status, age or progress, a metric, or a setting.

    `ABSENT` if it has none.
    """
    if key == "age":
        return _age(record)
    if key in OWN:
        return getattr(record, OWN[key])
    for values in _values(record):
        if key in values:
            return values[key]
    return ABSENT


def _values(record: Record) -> tuple[Mapping[str, Any], ...]:
    metrics = {}
    if record.result:
        metrics = record.result.metrics
    return metrics, record.config, record.typed, record.groups


def _is_sortable(value: Any) -> bool:
    """Return whether a value can be sorted; NaN and missing values can't."""
    if value is None or value is ABSENT:
        return False
    return not isinstance(value, float) or not math.isnan(value)


def _row(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    row = {
        "directory": record.directory,
        "status": record.status,
        "age_s": _age(record),
        "far": _progress(record),
        "objective": record.value,
        "typed": " ".join(f"{key}={value}" for key, value in record.typed.items()),
    }
    for key in NOTES:
        row[key] = record.config.get(key)
    row["threads"] = record.threads
    for key in columns:
        value = value_of(record, key)
        if value is not ABSENT:
            row[key] = value
    return row


def _progress(record: Record) -> str:
    """Return how far a run is, in words."""
    num = record.epochs
    if num is not None:
        if num == 1:
            return "1 epoch"
        return f"{num} epochs"
    text = position(record) or "not begun"
    if record.status == "running":
        idle = _idle(record)
        if idle >= STANDSTILL_S:
            text += f", nothing logged for {time_text(idle)}"
    return text


def _idle(record: Record) -> float:
    """Return the seconds since a run has written a metric or a checkpoint, or else has started."""
    times = []
    for name in WRITTEN:
        with contextlib.suppress(OSError):
            times.append(os.stat(f"{record.directory}/{name}").st_mtime)  # noqa: PTH116
    return time.time() - max(times, default=time.time())


def print_runs(rows: Sequence[dict[str, Any]], asked: Sequence[str], form: str) -> None:
    """Print rows of `list_runs` as `table`, `json` or `csv`; each requested key is a column."""
    if form == "json":
        print(json_text(rows))
    elif form == "csv":
        _print_csv(rows, asked)
    elif rows:
        _print_table(rows, asked)
    else:
        print("no run matches this")


def _print_csv(rows: Sequence[dict[str, Any]], asked: Sequence[str]) -> None:
    known = []
    for row in rows:
        # What is unknown is a gap; null is the value of a key.
        known.append({key: row[key] for key in row if row[key] is not None or key in asked})
    columns = [name for name in COLUMNS if name not in asked]
    print_csv(known, [*columns, *asked])


def _print_table(rows: Sequence[dict[str, Any]], asked: Sequence[str]) -> None:
    remarks = threads_remark(row["threads"] for row in rows)
    columns = [key for key in asked if key not in NOTES]
    if remarks and "threads" not in columns:
        columns.append("threads")
    cwd = str(Path.cwd())
    here = os.path.join(cwd, "")  # noqa: PTH118 - of thousands of paths as texts
    shown = []
    for row in rows:
        directory = row["directory"]
        value = row["objective"]
        cells = {
            "run": "." if directory == cwd else directory.removeprefix(here),
            "status": row["status"],
            "age": _age_text(row["age_s"]),
            "how far": row["far"],
            "objective": "" if value is None else metric_text(value),
            "typed": row["typed"],
            "note": _note(row),
        }
        for key in columns:
            if key in row:
                cells[key] = shown_value(key, row[key])
        shown.append(cells)
    order = ["run", "status", "age", "how far", "objective", *columns, "typed"]
    if any(cells["note"] for cells in shown):
        order.append("note")
    print_table(shown, order)
    for remark in remarks:
        print(remark)


def _note(row: Mapping[str, Any]) -> str:
    """Return a run's note and tags in a line."""
    parts = [str(row["note"] or "")]
    parts += [f"#{tag}" for tag in row["tags"] or []]
    return " ".join(parts).strip()


def _age_text(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds >= 2:
        return time_text(seconds)
    return "now"

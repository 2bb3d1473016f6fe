"""Lists of the runs below a folder, filtered and sorted; as a table, JSON or CSV."""

import json
import math
import os
import time
from collections import ChainMap, Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.cells import cell_len

from leyden.config.console import Terminal
from leyden.config.terminal import csv_text, metric_text, printable
from leyden.report.held_out import refuse_test_metrics
from leyden.report.query import check_known, parse_condition
from leyden.report.records import Record, position, read_raw_records
from leyden.run.result import read_points

# A run counts as stuck if it has logged nothing for STUCK_FACTOR times its usual interval, and for MIN_STUCK_S
# seconds.
STUCK_FACTOR, MIN_STUCK_S = 20, 600
MIN_NAME, MIN_TYPED = 11, 20  # characters of the columns that are shortened to fit a terminal
SHOWN = ("status", "age", "objective", "directory")  # keys with a column of their own


@dataclass
class ListedRun:
    """A run in a list.

    Args:
        directory: The run directory.
        status: Status as in `Record`, or `stuck` if its process is alive but has logged nothing for long.
        age_s: Seconds since the first start; None if unknown.
        far: Progress of the run, as text.
        objective: Value of the first objective; None if there is none yet.
        typed: Overrides of the first start.
        asked: Values of the requested keys that have no field here.
    """

    directory: Path
    status: str
    age_s: float | None
    far: str
    objective: float | None
    typed: str
    asked: dict[str, Any]


def list_runs(directory: Path, *, where: str, sort: str) -> tuple[list[ListedRun], list[str]]:
    """Return the runs in or below a directory that meet a condition, sorted.

    Args:
        directory: A run directory, or a folder with runs.
        where: Condition in the syntax of `parse_condition`; empty for all runs.
        sort: A key of `query_values`; with the prefix `-`, largest first. Runs without the key come last.

    Returns:
        The runs, and the requested keys that have no field of their own in `ListedRun`.

    Raises:
        UserError: There is no run, no run has a requested key, or a key is a metric of the test set.
    """
    condition, keys = parse_condition(where) if where else ((lambda values: True), set[str]())
    key = sort.removeprefix("-")
    records = read_raw_records(directory)
    refuse_test_metrics("where", keys, records)
    refuse_test_metrics("sort", {key}, records)
    found = [(record, query_values(record)) for record in records]
    every = [values for _, values in found]
    check_known("where", keys, every)
    check_known("sort", {key}, every)
    asked = [name for name in dict.fromkeys([*sorted(keys), key]) if name not in SHOWN]
    chosen = [
        (values.get(key), _listed_run(record, values, asked)) for record, values in found if condition(values)
    ]
    sortable = [(value, run) for value, run in chosen if _is_sortable(value)]
    are_numbers = all(isinstance(value, int | float) for value, _ in sortable)
    sortable.sort(
        key=lambda each: cast(float, each[0]) if are_numbers else str(each[0]), reverse=sort.startswith("-")
    )
    return [run for _, run in sortable] + [run for value, run in chosen if not _is_sortable(value)], asked


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


def _listed_run(record: Record, values: Mapping[str, Any], asked: Sequence[str]) -> ListedRun:
    num = record.result.epochs if record.result else None
    return ListedRun(
        directory=record.run.directory,
        status=values["status"],
        age_s=values["age"],
        far=position(record) or "not begun" if num is None else f"{num} epoch{'s' * (num != 1)}",
        objective=values["objective"],
        typed=" ".join(f"{key}={value}" for key, value in record.typed.items()),
        asked={key: values[key] for key in asked if key in values},
    )


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


UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def print_runs(found: Sequence[ListedRun], asked: list[str], form: str) -> None:
    """Print runs as `table`, `json` or `csv`, with a column for each requested key."""
    printers: dict[str, Callable[[Sequence[ListedRun], list[str]], None]] = {
        "table": _print_table,
        "json": _print_json,
        "csv": _print_csv,
    }
    printers[form](found, asked)


def _print_table(found: Sequence[ListedRun], asked: list[str]) -> None:
    if not found:
        print("no run matches this")
        return
    table = [["run", "status", "age", "how far", "objective", *asked, "typed"]]
    cwd = str(Path.cwd())
    here = cwd if cwd.endswith(os.sep) else cwd + os.sep
    for run in found:
        name = "." if (whole := str(run.directory)) == cwd else whole.removeprefix(here)
        values = [format_value(run.asked[key]) if key in run.asked else "" for key in asked]
        objective = "" if run.objective is None else metric_text(run.objective)
        table.append([name, run.status, _age_text(run.age_s), run.far, objective, *values, run.typed])
    table = [
        row if "".join(row).isprintable() else [printable(cell).replace("\n", " ") for cell in row] for row in table
    ]
    if (terminal := Terminal()).is_terminal:
        _fit(table, terminal.width)
    print(
        "\n".join(
            line.rstrip() for line in map("  ".join, zip(*map(_padded, zip(*table, strict=True)), strict=True))
        )
    )


def _padded(column: Sequence[str]) -> list[str]:
    """Return a column's cells with spaces at their ends; rich's tables would take longer than reading the runs."""
    if (joined := "".join(column)).isascii() and joined.isprintable():
        width = max(map(len, column))
        return [cell.ljust(width) for cell in column]
    widths = [_width(cell) for cell in column]
    width = max(widths)
    return [cell + " " * (width - own) for cell, own in zip(column, widths, strict=True)]


def _width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    return len(text) if text.isascii() and text.isprintable() else cell_len(text)


def _fit(table: list[list[str]], width: int) -> None:
    """Shorten the first and the last column of a table to a terminal's width, in place: the runs, and what was typed.

    What all runs have typed is left out first, and keys are reduced to their last part, if that is enough to tell them
    apart.
    """
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) <= width:
        return
    shared = set.intersection(*({*row[-1].split()} for row in table[1:])) if len(table) > 2 else set()
    typed_parts = [[word.partition("=") for word in row[-1].split() if word not in shared] for row in table[1:]]
    names = short_names({key for parts in typed_parts for key, sign, _ in parts if sign})
    for row, parts in zip(table[1:], typed_parts, strict=True):
        row[-1] = " ".join(f"{names.get(key, key)}{sign}{value}" for key, sign, value in parts)
    widths[-1] = max(_width(row[-1]) for row in table)
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    # What was typed tells runs of a sweep apart, also where the ends of their names are alike.
    name = max(MIN_NAME, widths[0] - max(0, excess))
    typed = max(MIN_TYPED, widths[-1] - max(0, excess - (widths[0] - name)))
    for row in table:
        row[0], row[-1] = _shorten_middle(row[0], name), _shorten_end(row[-1], typed)


def short_names(keys: Collection[str]) -> dict[str, str]:
    """Return for each key its last part, or the key itself if others have the same last part.

    Example:
        >>> short_names(["optimizer.lr", "model.depth", "encoder.depth"])
        {'optimizer.lr': 'lr', 'model.depth': 'model.depth', 'encoder.depth': 'encoder.depth'}
    """
    ends = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(ends.values())
    return {key: end if counts[end] == 1 else key for key, end in ends.items()}


def _shorten_end(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _shorten_middle(text: str, width: int) -> str:
    """Return a text reduced to its begin and end; of a run directory, the end tells it from the others."""
    if len(text) <= width:
        return text
    begin = (width - 1) // 4
    return f"{text[:begin]}…{text[begin + 1 - width :]}"


def format_value(value: Any) -> str:
    """Return a configuration value or a metric as text for a table."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(value: Any) -> Any:
    """Return a nested value for JSON, with null in place of NaN and infinities."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(found: Sequence[ListedRun]) -> list[dict[str, Any]]:
    """Return the rows for JSON and CSV: the fields of each run, and its values of the requested keys."""
    rows = [{name: value for name, value in vars(run).items() if name != "asked"} for run in found]
    return [
        as_json({**row, "directory": str(run.directory), **run.asked}) for row, run in zip(rows, found, strict=True)
    ]


def _print_json(found: Sequence[ListedRun], asked: list[str]) -> None:
    print(json.dumps(_rows(found), indent=2))  # ASCII, so no control characters


def _print_csv(found: Sequence[ListedRun], asked: list[str]) -> None:
    rows = _rows(found)
    headers = [key for key in rows[0] if key not in asked] if rows else []
    rows = [
        row | {key: "null" for key, value in run.asked.items() if value is None}
        for row, run in zip(rows, found, strict=True)
    ]
    columns = [*headers, *asked]
    text = csv_text([columns, *([row.get(name, "") for name in columns] for row in rows)])
    print(printable(text.replace("\r\n", "\n")), end="")


def _age_text(seconds: float | None) -> str:
    """Return an age in the largest unit in which it is 2 or more.

    Example:
        >>> _age_text(2 * 86400), _age_text(5400), _age_text(1)
        ('2 d', '90 min', 'now')
    """
    if seconds is None:
        return ""
    return next((f"{seconds / size:.0f} {unit}" for unit, size in UNITS if seconds >= 2 * size), "now")

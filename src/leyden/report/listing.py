"""The runs below a folder that fulfil a condition, in order; as a table, JSON or CSV."""

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from leyden.config.terminal import printable
from leyden.report.query import check_known, parse
from leyden.report.records import Record, position, read_each
from leyden.run.result import read_points

# Silence so many times as long as there is from one point of a run to the next, and at least so many seconds, is a standstill.
USUAL, LEAST_S = 20, 600
SHOWN = ("status", "age", "objective", "directory")  # keys that have a column anyway


@dataclass(frozen=True)
class ListedRun:
    """A run.

    Args:
        directory: Of the run.
        status: As `Record` has it; `stuck` for one whose process lives, but which shows no sign of life.
        age_s: Since its first start, in seconds.
        far: How far it is, or was.
        objective: What it reached by its first objective, None for nothing yet.
        typed: What was chosen at its first start.
        asked: What it has of the keys that were asked for, but for those above.
        values: All that can be asked for.
    """

    directory: Path
    status: str
    age_s: float | None
    far: str
    objective: float | None
    typed: str
    asked: dict[str, Any]
    values: dict[str, Any]


def list_runs(directory: Path, *, where: str, sort: str) -> tuple[list[ListedRun], list[str]]:
    """The runs in or below a directory that fulfil a condition, in order.

    Args:
        directory: The directory.
        where: As `where.parse` takes it; empty for all.
        sort: A key of `values`; with `-` before it the largest first. Runs that lack it come last.

    Returns:
        The runs, and the keys that were asked for and have no field of their own.

    Raises:
        UserError: There is no run, or no run has such a key.
    """
    condition, keys = parse(where) if where else ((lambda values: True), set[str]())
    key = sort.removeprefix("-")
    found = [(record, values(record)) for record in read_each(directory)]
    known = {key for _, own in found for key in own}
    check_known("where", keys, known)
    check_known("sort", {key}, known)
    asked = [name for name in dict.fromkeys([*sorted(keys), key]) if name not in SHOWN]
    chosen = [_line(record, own, asked) for record, own in found if condition(own)]
    there = [line for line in chosen if _is_there(line.values.get(key))]
    numbers = all(isinstance(line.values[key], int | float) for line in there)
    there.sort(
        key=lambda line: line.values[key] if numbers else str(line.values[key]), reverse=sort.startswith("-")
    )
    return there + [line for line in chosen if not _is_there(line.values.get(key))], asked


def values(record: Record) -> dict[str, Any]:
    """What can be asked of a run: what was typed for it, its configuration, its metrics, and what is in its line."""
    age_s = None if record.started is None else time.time() - record.started
    own = {
        "status": "stuck" if record.status == "running" and _is_still(record) else record.status,
        "age": age_s,
        "objective": record.values[0] if record.values else None,
        "epochs": record.epochs,
        "seconds": record.seconds,
        "directory": str(record.run.directory),
    }
    return {**record.typed, **record.config, **(record.result.metrics if record.result else {}), **own}


def _is_there(value: Any) -> bool:
    """Whether something can be put in order: what is no number has no place among numbers."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _line(record: Record, own: dict[str, Any], asked: Sequence[str]) -> ListedRun:
    num = record.result.epochs if record.result else None
    return ListedRun(
        directory=record.run.directory,
        status=own["status"],
        age_s=own["age"],
        far=position(record) or "not begun" if num is None else f"{num} epoch{'s' * (num != 1)}",
        objective=own["objective"],
        typed=" ".join(f"{key}={value}" for key, value in record.typed.items()),
        asked={key: own[key] for key in asked if key in own},
        values=own,
    )


def _is_still(record: Record) -> bool:
    """Whether a run has logged nothing for much longer than it takes from one step that is logged to the next."""
    path = record.run.directory / "metrics.csv"
    num_steps = len({step for step, *_ in read_points(path)})
    if record.started is None or num_steps < 2:
        return False
    last = path.stat().st_mtime
    usual = max(0.0, last - record.started) / num_steps  # pauses between two starts included: then it is told late
    return time.time() - last > max(LEAST_S, USUAL * usual)


UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def print_runs(found: Sequence[ListedRun], asked: list[str], form: str) -> None:
    """Print runs as `table`, `json` or `csv`; the keys that were asked for have columns of their own."""
    shows: dict[str, Callable[[Sequence[ListedRun], list[str]], None]] = {
        "table": _table,
        "json": _json,
        "csv": _csv,
    }
    shows[form](found, asked)


def _table(found: Sequence[ListedRun], asked: list[str]) -> None:
    if not found:
        print("no run fulfils this")
        return
    table = [["run", "status", "age", "how far", "objective", *asked, "typed"]]
    for line in found:
        path = line.directory
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        values = [format_value(line.asked[key]) if key in line.asked else "" for key in asked]
        objective = "" if line.objective is None else f"{line.objective:.4f}"
        table.append([name, line.status, _age(line.age_s), line.far, objective, *values, line.typed])
    table = [[printable(cell).replace("\n", " ") for cell in row] for row in table]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:  # a table of rich takes longer than reading the runs
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def format_value(value: Any) -> str:
    """A value of a configuration, or a metric, as a table shows it."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_json(value: Any) -> Any:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rows(found: Sequence[ListedRun]) -> list[dict[str, Any]]:
    """The fields of each line, and what it has of what was asked for."""
    fields = {"asked", "values"}
    rows = [{name: value for name, value in vars(line).items() if name not in fields} for line in found]
    return [
        as_json({**row, "directory": str(line.directory), **line.asked})
        for row, line in zip(rows, found, strict=True)
    ]


def _json(found: Sequence[ListedRun], asked: list[str]) -> None:
    print(json.dumps(_rows(found), indent=2))  # as ASCII, so that nothing in it steers a terminal


def _csv(found: Sequence[ListedRun], asked: list[str]) -> None:
    rows = _rows(found)
    heads = [key for key in rows[0] if key not in asked] if rows else []
    table = csv.DictWriter(written := io.StringIO(), [*heads, *asked], lineterminator="\n")
    table.writeheader()
    for row, line in zip(rows, found, strict=True):
        table.writerow(row | {key: "null" for key, value in line.asked.items() if value is None})
    print(printable(written.getvalue()), end="")


def _age(seconds: float | None) -> str:
    """In the largest unit that it has two of, as `90 min`."""
    if seconds is None:
        return ""
    return next((f"{seconds / size:.0f} {unit}" for unit, size in UNITS if seconds >= 2 * size), "now")

"""All runs below a folder, one per line: a table to read, or JSON or CSV for other programs."""

import csv
import difflib
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from leyden.config.mistakes import UserError
from leyden.config.terminal import Terminal, printable
from leyden.report.records import Record, States, position, read_each
from leyden.report.where import parse
from leyden.run.points import points

# Silence so many times as long as there is from one point of a run to the next, and at least so many seconds, is a standstill.
USUAL, LEAST_S = 20, 600
UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True)
class Line:
    """A run.

    Args:
        directory: Of the run.
        status: As `Record` has it; `stuck` for one whose process lives, but which shows no sign of life.
        age_s: Since its first start, in seconds.
        far: How far it is, or was.
        objective: What it reached by its first objective, None for nothing yet.
        typed: What was chosen at its first start.
        values: What can be asked for: its configuration, its metrics, and the fields above.
    """

    directory: Path
    status: str
    age_s: float | None
    far: str
    objective: float | None
    typed: str
    values: dict[str, Any]


def lines(directory: Path, states: States, *, where: str, sort: str) -> list[Line]:
    """The runs in or below a directory that fulfil a condition, in order.

    Args:
        directory: The directory.
        states: Tells the state of jobs of a cluster.
        where: As `where.parse` takes it; empty for all.
        sort: A key of `Line.values`; with `-` before it the largest first. Runs that lack it come last.

    Raises:
        UserError: There is no run, or no run has such a key.
    """
    condition, keys = parse(where) if where else ((lambda values: True), set[str]())
    found = [_line(record, flat) for record, flat in read_each(directory, states)]
    known = {key for line in found for key in line.values}
    for name, asked in (("where", keys), ("sort", {sort.removeprefix("-")})):
        for key in sorted(asked - known):
            close = difflib.get_close_matches(key, known, 1)
            raise UserError(f"{name}: no run has {key}" + (f"; did you mean {close[0]}?" if close else ""))
    key = sort.removeprefix("-")
    chosen = [line for line in found if condition(line.values)]
    there = [line for line in chosen if _is_there(line.values.get(key))]
    numbers = all(isinstance(line.values[key], int | float) for line in there)
    there.sort(
        key=lambda line: line.values[key] if numbers else str(line.values[key]), reverse=sort.startswith("-")
    )
    return there + [line for line in chosen if not _is_there(line.values.get(key))]


def _is_there(value: Any) -> bool:
    """Whether something can be put in order: what is no number has no place among numbers."""
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _line(record: Record, flat: dict[str, Any]) -> Line:
    run, result, starts = record.run, record.run.result, record.run.starts
    started = _seconds(starts[0].get("time")) if starts else None
    status = "stuck" if record.status == "running" and _is_still(run.directory, started) else record.status
    objective = record.values[0] if record.values else None
    far = f"{result.epochs} epochs" if result else position(record) or "not begun"
    age_s = None if started is None else time.time() - started
    own = {
        "status": status,
        "age": age_s,
        "objective": objective,
        "epochs": record.epochs,
        "seconds": record.seconds,
        "directory": str(run.directory),
    }
    values = {
        **record.typed,
        **flat,
        **(result.metrics if result else {}),
        **own,
    }
    typed = " ".join(f"{key}={value}" for key, value in record.typed.items())
    return Line(run.directory, status, age_s, far, objective, typed, values)


def _seconds(text: Any) -> float | None:
    """Since the epoch; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _is_still(directory: Path, started: float | None) -> bool:
    """Whether a run has logged nothing for much longer than it takes from one step that is logged to the next."""
    path = directory / "metrics.csv"
    num_steps = len({step for step, *_ in points(path)})
    if started is None or num_steps < 2:
        return False
    last = path.stat().st_mtime
    usual = max(0.0, last - started) / num_steps  # pauses between two starts included: then it is told late
    return time.time() - last > max(LEAST_S, USUAL * usual)


def show(found: Sequence[Line], form: str) -> None:
    """Print runs as `table`, `json` or `csv`.

    Raises:
        UserError: It is none of these.
    """
    shows: dict[str, Callable[[Sequence[Line]], None]] = {"table": _table, "json": _json, "csv": _csv}
    if form not in shows:
        raise UserError(f"format={form}: must be one of {', '.join(shows)}")
    shows[form](found)


def _table(found: Sequence[Line]) -> None:
    grid = Table("run", "status", "age", "how far", "objective", "typed", box=None)
    for line in found:
        path = line.directory
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        objective = "" if line.objective is None else f"{line.objective:.4f}"
        grid.add_row(name, line.status, _age(line.age_s), line.far, objective, line.typed)
    Terminal().print(grid)


def _rows(found: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {
            "directory": str(line.directory),
            "status": line.status,
            "age_s": line.age_s,
            "far": line.far,
            "objective": line.objective if line.objective is None or math.isfinite(line.objective) else None,
            "typed": line.typed,
        }
        for line in found
    ]


def _json(found: Sequence[Line]) -> None:
    print(json.dumps(_rows(found), indent=2))  # as ASCII, so that nothing in it steers a terminal


def _csv(found: Sequence[Line]) -> None:
    rows = _rows(found)
    table = csv.DictWriter(text := io.StringIO(), list(rows[0]) if rows else [])
    table.writeheader()
    table.writerows(rows)
    print(printable(text.getvalue()), end="")


def _age(seconds: float | None) -> str:
    """In the largest unit that it has two of, as `90 min`."""
    if seconds is None:
        return ""
    return next((f"{seconds / size:.0f} {unit}" for unit, size in UNITS if seconds >= 2 * size), "now")

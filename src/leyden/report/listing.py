"""The runs below a folder that fulfil a condition, in order."""

import difflib
import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from leyden.config.mistakes import UserError
from leyden.report.records import Record, States, position, read_each
from leyden.report.where import parse
from leyden.run.points import points

# Silence so many times as long as there is from one point of a run to the next, and at least so many seconds, is a standstill.
USUAL, LEAST_S = 20, 600


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
    run, result = record.run, record.result
    started = _seconds(record.starts[0].get("time")) if record.starts else None
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
    values = {**record.typed, **flat, **(result.metrics if result else {}), **own}
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

"""A list of runs as a table to read, or as JSON or CSV for other programs."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from leyden.config.mistakes import UserError
from leyden.config.terminal import Terminal, printable
from leyden.report.listing import Line

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


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
    """The fields of each line but `values`, as JSON has them: it knows no infinity."""
    rows = [{name: value for name, value in vars(line).items() if name != "values"} for line in found]
    for row in rows:
        row["directory"] = str(row["directory"])
        if row["objective"] is not None and not math.isfinite(row["objective"]):
            row["objective"] = None
    return rows


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

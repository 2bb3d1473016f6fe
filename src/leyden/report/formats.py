"""A list of runs as a table to read, or as JSON or CSV for other programs."""

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from leyden.config.terminal import printable
from leyden.report.listing import Line

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show(found: Sequence[Line], asked: list[str], form: str) -> None:
    """Print runs as `table`, `json` or `csv`; the keys that were asked for have columns of their own."""
    shows: dict[str, Callable[[Sequence[Line], list[str]], None]] = {"table": _table, "json": _json, "csv": _csv}
    shows[form](found, asked)


def _table(found: Sequence[Line], asked: list[str]) -> None:
    if not found:
        print("no run fulfils this")
        return
    table = [["run", "status", "age", "how far", "objective", *asked, "typed"]]
    for line in found:
        path = line.directory
        name = str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
        values = [text(line.asked[key]) if key in line.asked else "" for key in asked]
        objective = "" if line.objective is None else f"{line.objective:.4f}"
        table.append([name, line.status, _age(line.age_s), line.far, objective, *values, line.typed])
    table = [[printable(cell).replace("\n", " ") for cell in row] for row in table]
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    for row in table:  # a table of rich takes longer than reading the runs
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def text(value: Any) -> str:
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


def _rows(found: Sequence[Line]) -> list[dict[str, Any]]:
    """The fields of each line, and what it has of what was asked for."""
    fields = {"asked", "values"}
    rows = [{name: value for name, value in vars(line).items() if name not in fields} for line in found]
    return [
        as_json({**row, "directory": str(line.directory), **line.asked})
        for row, line in zip(rows, found, strict=True)
    ]


def _json(found: Sequence[Line], asked: list[str]) -> None:
    print(json.dumps(_rows(found), indent=2))  # as ASCII, so that nothing in it steers a terminal


def _csv(found: Sequence[Line], asked: list[str]) -> None:
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

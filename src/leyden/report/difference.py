"""What differs between two runs: configuration, code, result."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from leyden.config.mistakes import UserError
from leyden.config.terminal import Terminal, grid
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.fingerprints import first_difference, read_fingerprints
from leyden.run.trained_on import trained_on


def show_difference(*directories: str) -> None:
    """Print it, a line per key.

    Raises:
        UserError: They are not two, or one is no run.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, as diff=[outputs/a,outputs/b]")
    runs = [Run(directory.strip()) for directory in directories]
    table = differences(*runs)
    if not table.row_count:
        table.add_row("nothing differs", "", "", "")
    Terminal().print(table)
    first, second = (read_fingerprints(run.directory) for run in runs)
    if both := {*first} & {*second}:
        parted = first_difference(first, second)
        said = f"differ from step {parted[0]} on, in {', '.join(parted[1])}" if parted else "are equal, bit for bit"
        Terminal().print(f"fingerprints, at {len(both)} steps that both have: {said}")


def differences(*runs: Run, parts: Sequence[str] = ("configuration", "data", "code", "machine", "result")) -> Table:
    """What two runs don't have in common: a row per key."""
    read = {
        "configuration": _configuration,
        "data": trained_on,
        "code": _code,
        "machine": _machine,
        "result": _result,
    }
    table = grid("", "", *(run.directory.name for run in runs))
    for part in parts:
        values = [read[part](run) for run in runs]
        if part != "data" or all(values):  # of data that one has not recorded nothing is known
            add_rows(table, part, *values)
    return table


def add_rows(table: Table, part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Add a line to a table for each key that has not the same value in both."""
    for number, key in enumerate(differing(a, b)):
        table.add_row("" if number else part, key, _get(a, key), _get(b, key))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """The keys that have not the same value in both, or that one of them lacks."""
    return [key for key in dict.fromkeys([*a, *b]) if _get(a, key) != _get(b, key)]


def _get(values: Mapping[str, Any], key: str) -> str:
    """A value as it stands in a configuration, so that a text is no number; empty for none."""
    return json.dumps(values[key], default=str) if key in values else ""


def _configuration(run: Run) -> dict[str, Any]:
    return dict(flatten(run.config))


def _code(run: Run) -> dict[str, Any]:
    """Commit, changes and versions of the last start."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    git = _part(start, "git")
    changes = f"{git.get('diff')}{git.get('left_out')}"
    described = (
        f"yes, {hashlib.sha256(changes.encode()).hexdigest()[:12]}" if git.get("dirty") else git.get("dirty")
    )
    return {
        "commit": git.get("sha"),
        "changes": described,
        "python": start.get("python"),
        **_part(start, "versions"),
    }


def _machine(run: Run) -> dict[str, Any]:
    """Where the last start was."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    return {"host": start.get("host"), **_part(start, "machine")}


def _part(start: dict[str, Any], key: str) -> dict[str, Any]:
    """What stands there, if it is what Leyden writes."""
    return part if isinstance(part := start.get(key), dict) else {}


def _result(run: Run) -> dict[str, Any]:
    """Status and metrics."""
    result = run.result
    return {"status": "not ended"} if result is None else {"status": result.status, **result.metrics}

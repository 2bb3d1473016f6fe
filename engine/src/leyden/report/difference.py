"""Differences between two runs (configuration, data, code, machine, result), and bitwise equality."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from leyden.config.console import Terminal, text_table
from leyden.config.errors import UserError
from leyden.config.values import flatten
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.files import first_difference, read_fingerprints


def show_difference(*directories: str) -> None:
    """Print the differences between two runs, one line per key.

    Raises:
        UserError: There are not exactly two directories, or one is not a run directory.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, such as diff=[outputs/a,outputs/b]")
    runs = [Run(directory.strip()) for directory in directories]
    table = differences(*runs)
    if not table.row_count:
        table.add_row("nothing differs", "", "", "")
    Terminal().print(table)
    first, second = (read_fingerprints(run.directory) for run in runs)
    if common := {*first} & {*second}:
        difference = first_difference(first, second)
        outcome = "are equal, bit for bit"
        if difference:
            outcome = f"differ from step {difference[0]} on, in {', '.join(difference[1])}"
        Terminal().print(f"fingerprints, at {len(common)} steps that both have: {outcome}")


def differences(*runs: Run, parts: Sequence[str] = ("configuration", "data", "code", "machine", "result")) -> Table:
    """Return a table of the differences between two runs, with one row per key."""
    readers = {
        "configuration": _configuration,
        "data": trained_on,
        "code": _code,
        "machine": _machine,
        "result": _result,
    }
    table = text_table("", "", *(run.directory.name for run in runs))
    for part in parts:
        values = [readers[part](run) for run in runs]
        if part != "data" or all(values):  # data can't be compared if one run did not record them
            add_rows(table, part, *values)
    return table


def add_rows(table: Table, part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Add a row to a table for each key whose values differ."""
    for number, key in enumerate(differing(a, b)):
        table.add_row("" if number else part, key, _json_at(a, key), _json_at(b, key))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return the keys whose values differ, or that are missing in one mapping."""
    return [key for key in dict.fromkeys([*a, *b]) if _json_at(a, key) != _json_at(b, key)]


def _json_at(values: Mapping[str, Any], key: str) -> str:
    """Return a value as JSON, which distinguishes texts from numbers; empty if the key is missing."""
    return json.dumps(values[key], default=str) if key in values else ""


def _configuration(run: Run) -> dict[str, Any]:
    return dict(flatten(run.config))


def _code(run: Run) -> dict[str, Any]:
    """Return the commit, uncommitted changes and package versions of the last start."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    git = _dict_at(start, "git")
    changes = f"{git.get('diff')}{git.get('left_out')}"
    change_text = (
        f"yes, {hashlib.sha256(changes.encode()).hexdigest()[:12]}" if git.get("dirty") else git.get("dirty")
    )
    return {
        "commit": git.get("sha"),
        "changes": change_text,
        "python": start.get("python"),
        **_dict_at(start, "versions"),
    }


def _machine(run: Run) -> dict[str, Any]:
    """Return the host and machine of the last start."""
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    return {"host": start.get("host"), **_dict_at(start, "machine")}


def _dict_at(start: dict[str, Any], key: str) -> dict[str, Any]:
    """Return the dictionary at a key; empty if there is none, as in a damaged file."""
    return part if isinstance(part := start.get(key), dict) else {}


def _result(run: Run) -> dict[str, Any]:
    """Return the status and metrics of a run."""
    result = run.result
    return {"status": "not ended"} if result is None else {"status": result.status, **result.metrics}


def show_equality(there: Run, here: Run) -> bool:
    """Print whether two runs are equal bit for bit, their other differences, and the differences of their metrics.

    Args:
        there: The original run.
        here: The reproduced run.

    Returns:
        Whether all common fingerprints are equal, the reproduced run has as many steps as the original, and their
        metrics are equal.

    Raises:
        UserError: A directory is not a run directory, or the runs have no fingerprints in common.
    """
    table = differences(there, here, parts=("configuration", "data", "code", "machine"))
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    common = sorted({*a} & {*b})
    if not common:
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has {len(b)}, none of the same step"
        )
    show = Terminal().print
    difference = first_difference(a, b)
    if difference:
        step, parts = difference
        before = [each for each in common if each < step]
        since = f"equal until step {before[-1]}" if before else "there is no earlier fingerprint"
        show(f"diverged: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}")
    elif {*a} == {*b}:
        show(f"equal, bit for bit, over all {_count_fingerprints(common)}, up to step {common[-1]}")
    else:
        show(f"equal, bit for bit, over the {_count_fingerprints(common)} that both have, up to step {common[-1]}")
    for run, only in ((there, {*a} - {*b}), (here, {*b} - {*a})):
        if only:
            show(f"only in {run.directory}: {_count_fingerprints(only)}, from step {min(only)} to {max(only)}")
    if names := changed_names(trained_on(there), trained_on(here)):
        show(f"the data differ: {', '.join(names)}")
    apart, is_as_long = _metrics_apart(there, here), max(b) >= max(a)
    if not is_as_long:
        show(f"{here.directory} ends before the other run, at step {max(b)}")
    same_end = max(a) == max(b)  # only then can the final metrics be expected to be equal
    if apart and same_end and not difference:
        show(
            "the metrics are not equal, though the fingerprints are: they were computed on different data, or in a different way"
        )
    for name, (x, y) in apart.items():
        show(f"{name}: {x:.6g} there, {y:.6g} here, {abs(x - y):.3g} apart")
    if table.row_count:
        show(table)
    return not difference and is_as_long and not (apart and same_end)


def _count_fingerprints(steps: Collection[int]) -> str:
    return f"{len(steps)} fingerprint{'s' * (len(steps) != 1)}"


def _metrics_apart(there: Run, here: Run) -> dict[str, tuple[float, float]]:
    """Return the common metrics that differ, except those of time."""
    a, b = (run.result.metrics if run.result else {} for run in (there, here))
    pairs = {name: (a[name], b[name]) for name in a if name in b and not name.startswith("time/")}
    return {name: (x, y) for name, (x, y) in pairs.items() if x != y and not (math.isnan(x) and math.isnan(y))}

"""Differences between two runs (configuration, code, result), and equality bit for bit."""

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.table import Table

from leyden.config.errors import UserError
from leyden.config.terminal import Terminal, text_table
from leyden.config.values import flatten
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.files import first_difference, read_fingerprints


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
    table = text_table("", "", *(run.directory.name for run in runs))
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


def show_equality(there: Run, here: Run) -> bool:
    """Print it, what differs between the two, and how far their metrics are apart.

    Args:
        there: The run that was first.
        here: The one that is to be the same.

    Returns:
        Whether all fingerprints that both have are equal, the second run has come as far as the first one, and their metrics are the
        same.

    Raises:
        UserError: One is no run, or there are no fingerprints to compare.
    """
    table = differences(there, here, parts=("configuration", "data", "code", "machine"))
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    both = sorted({*a} & {*b})
    if not both:
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has {len(b)}, none of the same step"
        )
    say = Terminal().print
    if parted := first_difference(a, b):
        step, parts = parted
        before = [each for each in both if each < step]
        since = f"equal until step {before[-1]}" if before else "there is none before"
        say(f"parted: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}")
    elif {*a} == {*b}:
        say(f"equal, bit for bit, over all {_count(both)}, up to step {both[-1]}")
    else:
        say(f"equal, bit for bit, over the {_count(both)} that both have, up to step {both[-1]}")
    for run, only in ((there, {*a} - {*b}), (here, {*b} - {*a})):
        if only:
            say(f"only in {run.directory}: {_count(only)}, from step {min(only)} to {max(only)}")
    if names := changed_names(trained_on(there), trained_on(here)):
        say(f"the data differ: {', '.join(names)}")
    apart, is_as_long = _metrics_apart(there, here), max(b) >= max(a)
    if not is_as_long:
        say(f"{here.directory} ends before the other run, at step {max(b)}")
    same_end = max(a) == max(b)  # the metrics are those of the end
    if apart and same_end and not parted:
        say(
            "the metrics are not equal, though the fingerprints are: they were computed by other data, or in another way"
        )
    for name, (x, y) in apart.items():
        say(f"{name}: {x:.6g} there, {y:.6g} here, {abs(x - y):.3g} apart")
    if table.row_count:
        say(table)
    return not parted and is_as_long and not (apart and same_end)


def _count(steps: Collection[int]) -> str:
    return f"{len(steps)} fingerprint{'s' * (len(steps) != 1)}"


def _metrics_apart(there: Run, here: Run) -> dict[str, tuple[float, float]]:
    """The metrics of both that are not the same, but for those of time."""
    a, b = (run.result.metrics if run.result else {} for run in (there, here))
    pairs = {name: (a[name], b[name]) for name in a if name in b and not name.startswith("time/")}
    return {name: (x, y) for name, (x, y) in pairs.items() if x != y and not (math.isnan(x) and math.isnan(y))}

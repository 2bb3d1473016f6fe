"""The difference of two runs: by key, and by the fingerprints of their steps."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from leyden.base.errors import UserError
from leyden.base.table import TableRow, json_text, print_table
from leyden.base.terminal import relative_path, show
from leyden.config.values import ABSENT, dict_at, differing, flatten
from leyden.run.directory import Run, trained_on
from leyden.run.files import Fingerprint, first_difference, read_fingerprints

FingerprintsOfRun = Mapping[int, Fingerprint]  # by optimizer step


def show_difference(*directories: str, form: str = "table") -> None:
    """Print the differences between two runs, one line per key, or as JSON.

    Raises:
        UserError: There are not exactly two directories, or one is not a run directory.
    """
    if len(directories) != 2:
        raise UserError("diff: must be two run directories, such as diff=[outputs/a,outputs/b]")
    a, b = map(Run, directories)
    rows = _difference_rows(a, b)
    of_a = read_fingerprints(a.directory)
    of_b = read_fingerprints(b.directory)
    lines = _fingerprint_lines(of_a, of_b)
    if form == "json":
        print(json_text({"differences": rows, "fingerprints": lines}))
        return
    _print_rows(a, b, rows)
    if lines:
        show("\n".join(lines))


def _print_rows(a: Run, b: Run, rows: Sequence[TableRow]) -> None:
    """Print rows of differences, with values as JSON, which tells texts from numbers."""
    shown = []
    for row in rows:
        cells = {**row}
        for name in ("a", "b"):
            if name in row:
                cells[name] = json.dumps(row[name], default=str)
        shown.append(cells)
    names = {
        "part": "",
        "key": "",
        "a": str(relative_path(a.directory)),
        "b": str(relative_path(b.directory)),
    }
    print_table(shown or [{"part": "nothing differs"}], names=names)


def _difference_rows(a: Run, b: Run) -> list[TableRow]:
    """Return a row for each key in which two runs differ, by part; a gap if one lacks the key."""
    of_a = _facts(a)
    of_b = _facts(b)
    if not of_a["data"] or not of_b["data"]:  # what a run did not record can't be compared
        del of_a["data"]
    rows: list[TableRow] = []
    for part in of_a:
        for key, (value, other) in differing(of_a[part], of_b[part]).items():
            row: dict[str, Any] = {"part": part, "key": key}
            if value is not ABSENT:
                row["a"] = value
            if other is not ABSENT:
                row["b"] = other
            rows.append(row)
    return rows


def _facts(run: Run) -> dict[str, Mapping[str, Any]]:
    """Return what is compared of a run, by part.

    The parts are of its last start, and its status and metrics, but those of time.
    """
    start: dict[str, Any] = run.starts[-1] if run.starts else {}
    git = dict_at(start, "git")
    changes = git.get("dirty")
    if changes:
        texts = json.dumps([git.get("diff"), git.get("left_out")])
        changes = f"yes, {hashlib.sha256(texts.encode()).hexdigest()[:12]}"
    code = {
        "commit": git.get("sha"),
        "changes": changes,
        "python": start.get("python"),
    }
    machine = dict(flatten(dict_at(start, "machine")))
    found: dict[str, Any] = {"status": "not ended"}
    if run.result:
        found["status"] = run.result.status
        for name, value in run.result.metrics.items():
            if not name.startswith("time/"):
                found[name] = value
    return {
        "configuration": dict(flatten(run.config)),
        "data": trained_on(run),
        "code": {**code, **dict_at(start, "versions")},
        "machine": {"host": start.get("host"), **machine},
        "result": found,
    }


def show_equality(there: Run, here: Run) -> bool:
    """Print whether two runs are equal bit for bit, and their other differences.

    Return whether they are.

    Raises:
        UserError: As in `equality`.
    """
    is_equal, lines, rows = equality(there, here)
    show("\n".join(lines))
    if rows:
        _print_rows(there, here, rows)
    return is_equal


def equality(there: Run, here: Run) -> tuple[bool, list[str], list[TableRow]]:
    """Return whether two runs are equal bit for bit, in words, and their other differences.

    They are if all common fingerprints are equal, the reproduced run has as many steps as the
    original, and their results are equal.

    Args:
        there: The original run.
        here: The reproduced run.

    Raises:
        UserError: A directory is not a run directory, or the runs have no fingerprints in common.
    """
    # Loggers change no bit, and `reproduce` takes the project's own.
    rows = [row for row in _difference_rows(there, here) if not row["key"].startswith("logger")]
    a = read_fingerprints(there.directory)
    b = read_fingerprints(here.directory)
    lines = _fingerprint_lines(a, b)
    if not lines:
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has "
            f"{len(b)}, none of the same step"
        )
    is_equal = first_difference(a, b) is None
    if max(b) < max(a):
        is_equal = False
        lines.append(f"{here.directory} ends before the other run, at step {max(b)}")
    results = [row for row in rows if row["part"] == "result" and "a" in row and "b" in row]
    # Only of as many steps can the results be expected to be equal.
    if results and max(a) == max(b):
        if is_equal:
            lines.append(
                "the results are not equal, though the fingerprints are: the metrics were "
                "computed differently"
            )
        is_equal = False
    return is_equal, lines, rows


def _fingerprint_lines(a: FingerprintsOfRun, b: FingerprintsOfRun) -> list[str]:
    """Return in words whether two runs' fingerprints are equal; empty without common steps."""
    common = sorted({*a} & {*b})
    if not common:
        return []
    difference = first_difference(a, b)
    if not difference:
        num = len(common)
        over = "the only fingerprint"
        if num != 1:
            over = f"all {num} fingerprints"
        return [f"equal, bit for bit, over {over} that both have, up to step {common[-1]}"]
    step, parts = difference
    before = [each for each in common if each < step]
    since = "there is no earlier fingerprint"
    if before:
        since = f"equal until step {before[-1]}"
    where = f"step {step} is the first fingerprint that differs, in {', '.join(parts)}"
    return [f"diverged: {where}; {since}"]

"""The list of test evaluations: every evaluation of a run on a test set, in chronological order."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import filelock

from leyden.config.errors import UserError
from leyden.config.terminal import one_line
from leyden.run.directory import Run
from leyden.run.files import MAX_BYTES, read_bytes
from leyden.run.provenance import now

TEST_EVALUATIONS_FILE = "test_evaluations.csv"
HEADER = ("time", "experiment", "run", "checkpoint", "metrics")


def read_test_evaluations(outputs: Path) -> list[list[str]]:
    """Return the rows of the list in a folder, with the fields of `HEADER`; a damaged row may have fewer.

    Raises:
        OSError: The list can't be read.
    """
    try:
        return _parsed(read_bytes(outputs / TEST_EVALUATIONS_FILE))
    except FileNotFoundError:
        return []


def num_test_evaluations(rows: Sequence[Sequence[str]], experiment: str) -> int:
    """Return the number of test evaluations of an experiment."""
    return sum(row[1:2] == [one_line(experiment)] for row in rows)


def check_test_evaluations(outputs: str) -> None:
    """Check, before a test evaluation, that it can be recorded.

    Raises:
        UserError: The list can't be written.
    """
    path = Path(outputs) / TEST_EVALUATIONS_FILE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")), path.open("ab"):
            pass
    except OSError as error:
        raise UserError(
            f"outputs={outputs}: {TEST_EVALUATIONS_FILE} can't be written there ({error.strerror})"
        ) from error


def record_test_evaluation(outputs: str, run: Run, checkpoint: str, metrics: dict[str, float]) -> int:
    """Append a test evaluation to the list in `outputs`.

    Returns:
        The number of the experiment's test evaluations, this one included.
    """
    path = Path(outputs) / TEST_EVALUATIONS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    name = run.config.get("name", "")
    with filelock.FileLock(path.with_suffix(".lock")):
        content = path.read_bytes() if path.exists() else b""
        header = _csv_line(HEADER)
        line = _csv_line([now(), name, str(run.directory), checkpoint, json.dumps(metrics)])
        missing = header[len(content) :] if header.startswith(content) else _missing_line_end(content)
        with path.open("ab") as file:
            file.write(missing + line)
            file.flush()
            os.fsync(file.fileno())
    return 1 + num_test_evaluations(_parsed(content), name)


def _csv_line(fields: Sequence[str]) -> bytes:
    """Return a line of the list: UTF-8 without control characters."""
    csv.writer(written := io.StringIO(newline="")).writerow(map(one_line, fields))
    return written.getvalue().encode()


def _missing_line_end(content: bytes) -> bytes:
    """Return the bytes that complete a last line cut off by a killed process; empty if it is complete."""
    if content.count(b'"') % 2:
        return b'"\r\n'
    return b"" if content.endswith(b"\n") else b"\r\n"


def _parsed(content: bytes) -> list[list[str]]:
    """Return the rows of the list, without the header."""
    rows = csv.reader(io.StringIO(content.decode(errors="replace"), newline=""))
    old_limit = csv.field_size_limit(MAX_BYTES)  # a damaged line can look like one long field
    try:
        return [row for row in rows if row and row[0] != HEADER[0]]
    finally:
        csv.field_size_limit(old_limit)

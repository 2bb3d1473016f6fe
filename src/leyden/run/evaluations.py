"""The list of test evaluations: each evaluation of a run on a test set, in the order in which they were made."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import filelock

from leyden.config.errors import UserError
from leyden.config.terminal import printable
from leyden.run.directory import Run
from leyden.run.files import MAX_BYTES, read_bytes
from leyden.run.provenance import now

NAME = "test_evaluations.csv"
HEADER = ("time", "experiment", "run", "checkpoint", "metrics")


def read_test_evaluations(outputs: Path) -> list[list[str]]:
    """Return the fields of each line of the list in a folder, as in `HEADER`; a damaged line may have fewer.

    Raises:
        OSError: It can't be read.
    """
    try:
        return _parsed(read_bytes(outputs / NAME))
    except FileNotFoundError:
        return []


def num_test_evaluations(rows: Sequence[Sequence[str]], experiment: str) -> int:
    """Return the number of an experiment's test evaluations."""
    return sum(row[1:2] == [as_field(experiment)] for row in rows)


def check_test_evaluations(outputs: str) -> None:
    """Make sure, before a test evaluation, that it can be recorded.

    Raises:
        UserError: It can't.
    """
    path = Path(outputs) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")), path.open("ab"):
            pass
    except OSError as error:
        raise UserError(f"outputs={outputs}: {NAME} can't be written there ({error.strerror})") from error


def record_test_evaluation(outputs: str, run: Run, checkpoint: str, metrics: dict[str, float]) -> int:
    """Append a test evaluation to the list in `outputs`.

    Returns:
        The number of the experiment's test evaluations, this one included.
    """
    path = Path(outputs) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    name = run.config.get("name", "")
    with filelock.FileLock(path.with_suffix(".lock")):
        content = path.read_bytes() if path.exists() else b""
        head, new = _line(HEADER), _line([now(), name, str(run.directory), checkpoint, json.dumps(metrics)])
        with path.open("ab") as file:
            file.write((head[len(content) :] if head.startswith(content) else _end(content)) + new)
            file.flush()
            os.fsync(file.fileno())
    return 1 + num_test_evaluations(_parsed(content), name)


def as_field(text: str) -> str:
    """Return a text as the list has it: in one line and in UTF-8, with no character that steers a terminal."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _line(fields: Sequence[str]) -> bytes:
    csv.writer(written := io.StringIO(newline="")).writerow(map(as_field, fields))
    return written.getvalue().encode()


def _end(content: bytes) -> bytes:
    """Return the end of a line that a process was killed within, whose last field may be quoted; empty for a whole line."""
    if content.count(b'"') % 2:
        return b'"\r\n'
    return b"" if content.endswith(b"\n") else b"\r\n"


def _parsed(content: bytes) -> list[list[str]]:
    rows = csv.reader(io.StringIO(content.decode(errors="replace"), newline=""))
    before = csv.field_size_limit(MAX_BYTES)  # else a damaged line, which can be a long field, would raise
    try:
        return [row for row in rows if row and row[0] != HEADER[0]]
    finally:
        csv.field_size_limit(before)

"""Who has looked at the test set, and how often: a list in which each line seals what stands before it."""

import csv
import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import filelock

from leyden.config.mistakes import UserError
from leyden.run.directory import Run
from leyden.run.files import read_bytes
from leyden.run.origin import now
from leyden.run.result import Look

NAME = "test_set_looks.csv"
HEADER = b"time,experiment,run,checkpoint,metrics,chain\r\n"  # that of an older list lacks the last one
LENGTH = 32  # digits of a chain


@dataclass(frozen=True)
class Looks:
    """What a list holds.

    Args:
        rows: The fields of each line that can be read: time, experiment, run, checkpoint, metrics, chain. A line that a
            process was killed within has fewer.
        broken: Numbers of the lines whose chain does not fit what stands before it, the first line being 1.
        sealed: How many bytes stand before the last chain.
    """

    rows: list[list[str]]
    broken: list[int]
    sealed: int

    def count(self, experiment: str) -> int:
        """How often an experiment has looked."""
        return sum(row[1:2] == [experiment] and row[0] != "time" for row in self.rows)  # which heads the column

    @property
    def chains(self) -> set[str]:
        """Those of all lines."""
        return {row[-1] for row in self.rows if _is_sealed(row)}


def read_looks(outputs: Path) -> Looks:
    """What the list in a folder holds; nothing where there is none.

    Raises:
        OSError: It can't be read.
    """
    try:
        return _parsed(read_bytes(outputs / NAME))
    except FileNotFoundError:
        return _parsed(b"")


def check_looks(outputs: str) -> None:
    """Make sure, before a look, that it can be written down.

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


def record_look(outputs: str, run: Run, checkpoint: str, metrics: dict[str, float]) -> tuple[int, Look]:
    """Write an evaluation down in `test_set_looks.csv`.

    A line ends in its chain: a hash of all that stands between the chain before, which is included, and this one. The
    first chain is that of all before it, lines of an older list too. What a killed process has left of a line is sealed
    as it is by the next one.

    Returns:
        How often the experiment has looked, and what its line is found by.
    """
    path = Path(outputs) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    name = run.config.get("name", "")
    with filelock.FileLock(path.with_suffix(".lock")):
        content = path.read_bytes() if path.exists() else b""
        start = b"" if content.endswith(b"\n") else b"\r\n"  # behind one that was killed within a line
        if HEADER.startswith(content):  # it is new, or one was killed before the header was whole
            start = HEADER[len(content) :]
        fields = start + _line([now(), name, as_field(run.directory), checkpoint, json.dumps(metrics), ""])
        there = _parsed(content)
        chain = _hash(content[there.sealed :] + fields)
        with path.open("ab") as file:
            file.write(fields + chain.encode() + b"\r\n")
            file.flush()
            os.fsync(file.fileno())  # as the result of the run, which names the chain
    return 1 + there.count(name), Look(str(path.parent.absolute()), chain)


def as_field(directory: Path) -> str:
    """The path of a run as it stands in the list: in one line, and in UTF-8."""
    return str(directory).encode(errors="backslashreplace").decode().replace("\n", "\\n")


def _line(fields: list[str]) -> bytes:
    """As CSV, without the end of the line."""
    csv.writer(written := io.StringIO(), lineterminator="").writerow(fields)
    return written.getvalue().encode(errors="backslashreplace")


def _parsed(content: bytes) -> Looks:
    rows, broken, sealed, end = [], [], 0, 0
    for number, line in enumerate(content.split(b"\n"), 1):
        try:  # each line for itself, so that none of them spoils the next
            row = next(csv.reader([line.rstrip(b"\r").decode(errors="replace")]))
        except (csv.Error, StopIteration):
            row = []
        if _is_sealed(row):
            before = end + line.rindex(b",") + 1
            if _hash(content[sealed:before]) != row[-1]:
                broken.append(number)
            sealed = before
        rows.append(row)
        end += len(line) + 1
    return Looks(rows, broken, sealed)


def _is_sealed(row: list[str]) -> bool:
    """Whether a line has a chain; one that is torn has none, nor has one of an older list."""
    return len(row) == HEADER.count(b",") + 1 and len(row[-1]) == LENGTH and {*row[-1]} <= {*"0123456789abcdef"}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:LENGTH]

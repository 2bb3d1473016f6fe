"""Who has looked at the test set, and how often."""

import csv
import json
from pathlib import Path

import filelock

from leyden.config.mistakes import UserError
from leyden.run.directory import Run
from leyden.run.origin import now

NAME = "test_set_looks.csv"


def check_looks(outputs: str) -> None:
    """Make sure, before a look, that it can be written down.

    Raises:
        UserError: It can't.
    """
    path = Path(outputs) / NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")), path.open("a"):
            pass
    except OSError as error:
        raise UserError(f"outputs={outputs}: {NAME} can't be written there ({error.strerror})") from error


def record_look(outputs: str, run: Run, checkpoint: str, metrics: dict[str, float]) -> int:
    """Write an evaluation down in `test_set_looks.csv`; returns how often the experiment has looked."""
    path = Path(outputs) / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    name = run.config.get("name", "")
    with filelock.FileLock(path.with_suffix(".lock")):
        lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True) if path.exists() else []
        with path.open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
            table = csv.writer(file)
            if not lines:  # also where a process was killed before it had written anything
                table.writerow(["time", "experiment", "run", "checkpoint", "metrics"])
            elif not lines[-1].endswith("\n"):  # of one that was killed within a line
                file.write("\r\n")
            table.writerow([now(), name, run.directory, checkpoint, json.dumps(metrics)])
    return 1 + sum(_is_of(line, name) for line in lines)


def _is_of(line: str, name: str) -> bool:
    """Whether a line, which may be damaged, tells of a look by this experiment."""
    try:
        return next(csv.reader([line]))[1:2] == [name]
    except (csv.Error, StopIteration):
        return False

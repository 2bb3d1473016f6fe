"""The list of test evaluations, in chronological order, and how several processes append to such a list."""

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.terminal import one_line
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.files import read_end, write_csv
from leyden.run.provenance import now

TEST_EVALUATIONS_FILE = "test_evaluations.csv"
HEADER = ("time", "experiment", "run", "checkpoint", "metrics")


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file without its header, whose first field is `time`; empty without a file.

    A damaged row may have fewer fields.

    Raises:
        OSError: The file can't be read.
    """
    try:
        text = read_end(path, None).replace("\0", "\ufffd")
    except FileNotFoundError:
        return []
    rows = map(_fields, text.splitlines())  # so that damage costs its own line alone
    return [row for row in rows if row and row[0] != "time"]


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]), [])
    except csv.Error:  # a field of more than 131,072 characters
        return []


@contextmanager
def appending(
    path: Path, header: Sequence[str]
) -> Iterator[tuple[list[list[str]], Callable[[Sequence[str]], None]]]:
    """Lock a CSV file, which a killed process leaves whole; yield its rows and a function that appends a row.

    Raises:
        OSError: The file can't be read or written.
    """
    with lock.hold(path.with_suffix(".lock")) as held:
        rows = read_rows(path)

        def append(row: Sequence[str]) -> None:
            held.check()
            write_csv(path, [header, *rows, [*map(one_line, row)]])

        yield rows, append


def read_test_evaluations(outputs: Path) -> list[list[str]]:
    """Return the rows of the list in a folder, with the fields of `HEADER`; a damaged row may have fewer.

    Raises:
        OSError: The list can't be read.
    """
    return read_rows(outputs / TEST_EVALUATIONS_FILE)


def num_test_evaluations(rows: Sequence[Sequence[str]], experiment: str) -> int:
    """Return the number of test evaluations of an experiment."""
    return sum(row[1:2] == [one_line(experiment)] for row in rows)


def count_text(experiment: str, num: int) -> str:
    """Return the number of an experiment's test evaluations in words."""
    return f"Test evaluations so far: {experiment} {num}"


def check_test_evaluations(outputs: str) -> None:
    """Check, before a test evaluation, that it can be recorded.

    Raises:
        UserError: The list can't be written.
    """
    try:
        with appending(Path(outputs) / TEST_EVALUATIONS_FILE, HEADER):
            pass
    except OSError as error:
        raise UserError(
            f"outputs={outputs}: {TEST_EVALUATIONS_FILE} can't be written there ({error.strerror})"
        ) from error


def record_test_evaluation(
    outputs: str, run: Run, checkpoint: str, metrics: dict[str, float], *, where: str | None = None
) -> int:
    """Append a test evaluation to the list in `outputs`.

    Args:
        outputs: Folder of the list.
        run: The evaluated run.
        checkpoint: Name of the checkpoint.
        metrics: The metrics.
        where: Text that names what was evaluated; None for the run directory.

    Returns:
        The number of the experiment's test evaluations, this one included.
    """
    name = run.config.get("name", "")
    with appending(Path(outputs) / TEST_EVALUATIONS_FILE, HEADER) as (rows, append):
        append([now(), name, where or str(run.directory), checkpoint, json.dumps(metrics)])
    return 1 + num_test_evaluations(rows, name)

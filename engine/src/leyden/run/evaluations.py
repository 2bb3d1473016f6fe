"""The list of test evaluations: every evaluation of a run on a test set, in chronological order."""

import json
from collections.abc import Sequence
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.terminal import one_line
from leyden.run.csv_log import appending, read_rows
from leyden.run.directory import Run
from leyden.run.provenance import now

TEST_EVALUATIONS_FILE = "test_evaluations.csv"
HEADER = ("time", "experiment", "run", "checkpoint", "metrics")


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
    return f"test evaluations by {experiment} so far: {num}"


def check_test_evaluations(outputs: str) -> None:
    """Check, before a test evaluation, that it can be recorded.

    Raises:
        UserError: The list can't be written.
    """
    path = Path(outputs) / TEST_EVALUATIONS_FILE
    try:
        with appending(path, HEADER), path.open("ab"):
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
    path = Path(outputs) / TEST_EVALUATIONS_FILE
    name = run.config.get("name", "")
    with appending(path, HEADER) as (rows, append):
        append([now(), name, where or str(run.directory), checkpoint, json.dumps(metrics)])
    return 1 + num_test_evaluations(rows, name)

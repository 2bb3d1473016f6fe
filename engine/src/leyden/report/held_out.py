"""Remarks on the held-out test set: the number of test evaluations, and what may not be selected by."""

from collections.abc import Collection, Sequence
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.report.records import Record
from leyden.run.evaluations import TEST_EVALUATIONS_FILE, num_test_evaluations, read_test_evaluations


def refuse_test_metrics(option: str, keys: Collection[str], records: Sequence[Record]) -> None:
    """Check that no run is selected by a metric of the test set.

    Args:
        option: Name of the option, for the error message.
        keys: Keys by which runs are selected or sorted.
        records: The runs; their results record which metrics are those of the test set.

    Raises:
        UserError: One of the keys is a metric of the test set.
    """
    metrics = {name for record in records if record.result for name in record.result.stages.get("test", ())}
    if chosen := sorted(metrics & {*keys}):
        raise UserError(
            f"{option}: {chosen[0]} is a metric of the test set, by which nothing may be selected; choose one of "
            "validation, and then evaluate the best setting once by leyden evaluate"
        )


def check_metrics(option: str, names: Collection[str], records: Sequence[Record]) -> None:
    """Check that runs have recorded these metrics, of which none may be of the test set.

    Raises:
        UserError: One is not recorded, or of the test set.
    """
    refuse_test_metrics(option, names, records)
    results = [record.result for record in records if record.result]
    known = {name for result in results for name in {*result.metrics} - {*result.stages.get("test", ())}}
    if wrong := next((name for name in names if name not in known), None):
        raise UserError(f"{option}={wrong}: no run has this metric; there are {', '.join(sorted(known)) or 'none'}")


def test_set_remarks(runs: Collection[tuple[Path, str]]) -> list[str]:
    """Return how often experiments have been evaluated on the test set, in words; empty if never.

    Args:
        runs: Directory of each run, and the name of its experiment.
    """
    names = dict.fromkeys(name for _, name in runs)
    lines = []
    for folder in dict.fromkeys(map(_folder_with_list, dict.fromkeys(directory.parent for directory, _ in runs))):
        try:
            rows = read_test_evaluations(folder) if folder else []
        except OSError as error:
            warn(f"{folder}/{TEST_EVALUATIONS_FILE} can't be read ({error.strerror})")
            continue
        nums = [f"{name} {num}" for name in names if (num := num_test_evaluations(rows, name))]
        if nums:
            lines.append(f"Test evaluations so far: {', '.join(nums)} ({folder}/{TEST_EVALUATIONS_FILE})")
    return lines


def _folder_with_list(parent: Path) -> Path | None:
    """Return the closest folder, from one upwards, with a list of test evaluations; None if there is none.

    Args:
        parent: The folder that a run directory lies in.
    """
    folders = (parent, *parent.parents)
    return next((folder for folder in folders if (folder / TEST_EVALUATIONS_FILE).exists()), None)

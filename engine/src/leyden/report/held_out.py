"""Remarks on the held-out test set: the number of test evaluations, and settings with many tested seeds."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.terminal import one_line, some_of, warn
from leyden.config.values import differing
from leyden.report.records import Record
from leyden.run.directory import Run
from leyden.run.evaluations import (
    TEST_EVALUATIONS_FILE,
    count_text,
    num_test_evaluations,
    read_test_evaluations,
)
from leyden.run.identity import identity_values
from leyden.run.record import read_summary

MIN_SEEDS = 3  # from this number of tested seeds on, the best one is not representative of its setting
MAX_NAMES = 3  # of runs, in a remark


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


def test_set_remarks(records: Sequence[Record]) -> list[str]:
    """Return remarks on test evaluations; empty if no run is known to have been evaluated on the test set.

    Args:
        records: All runs of the report.
    """
    lists: dict[Path, list[list[str]]] = {}
    parents = dict.fromkeys(record.run.directory.parent for record in records)
    for folder in dict.fromkeys(filter(None, map(_folder_with_list, parents))):
        try:
            lists[folder] = read_test_evaluations(folder)
        except OSError as error:
            warn(f"{folder / TEST_EVALUATIONS_FILE} can't be read ({error.strerror})")
    named = {row[2] for rows in lists.values() for row in rows if len(row) > 2}
    tested = [record for record in records if _is_tested(record) or one_line(record.directory) in named]
    if not tested:
        return []
    names = dict.fromkeys(str(record.config.get("name")) for record in tested)
    lines = []
    for folder, rows in lists.items():
        nums = [f"{name} {num}" for name in names if (num := num_test_evaluations(rows, name))]
        if nums:
            lines.append(f"Test evaluations so far: {', '.join(nums)} ({folder / TEST_EVALUATIONS_FILE})")
    return [*lines, *_seed_warnings(tested, [row for rows in lists.values() for row in rows], names)]


def _is_tested(record: Record) -> bool:
    return record.result is not None and record.result.is_tested


def _folder_with_list(parent: Path) -> Path | None:
    """Return the closest folder, from one upwards, with a list of test evaluations; None if there is none.

    Args:
        parent: The folder that a run directory lies in.
    """
    folders = (parent, *parent.parents)
    return next((folder for folder in folders if (folder / TEST_EVALUATIONS_FILE).exists()), None)


def count_line(run: Run) -> str:
    """Return how often a run's experiment has been evaluated on the test set, in words; empty if it is unknown."""
    name = str(run.config.get("name"))
    try:
        folder = _folder_with_list(run.directory.parent)
        num = num_test_evaluations(read_test_evaluations(folder), name) if folder else 0
    except OSError:
        return ""
    return count_text(name, num) if num else ""


def _seed_warnings(tested: Sequence[Record], rows: Sequence[Sequence[str]], names: Collection[str]) -> list[str]:
    """Return warnings about settings of which many seeds were evaluated on the test set."""
    here = dict.fromkeys(record.run.directory for record in tested)
    # The report's runs come first, since a setting keeps the first run of each seed.
    settings = _group_by_setting(
        dict.fromkeys([*here, *(Path(row[2]) for row in rows if len(row) > 2 and row[1] in names)])
    )
    lines, num_seeds = [], []
    for runs in settings:
        ours = [directory.name for directory in runs.values() if directory in here]
        if len(runs) < MIN_SEEDS or not ours:
            continue
        if len(ours) == len(runs):
            num_seeds.append(len(runs))
            continue
        are = "is 1" if len(ours) == 1 else f"are {len(ours)}"
        lines.append(
            f"{some_of(ours, MAX_NAMES)} {are} of {len(runs)} seeds of one setting that were each evaluated on the test set: report "
            "the mean over all of them, not over selected ones"
        )
    if num_seeds:
        nums = f"{num_seeds[0]}" if len({*num_seeds}) == 1 else f"{min(num_seeds)} to {max(num_seeds)}"
        of = "one setting were" if len(num_seeds) == 1 else f"each of {len(num_seeds)} settings were"
        lines.append(f"{nums} seeds of {of} evaluated on the test set: report their mean, not the best of them")
    return lines


def _group_by_setting(directories: Iterable[Path]) -> list[dict[int, Path]]:
    """Group runs that differ only in the seed and values equal to it; return one run per seed of each setting."""
    alike: dict[str, list[tuple[dict[str, Any], dict[int, Path]]]] = {}  # by all values but integers
    for directory in directories:
        try:
            read = read_summary(str(directory))
        except UserError:
            continue
        if read is None:  # deleted
            continue
        config = identity_values(read.config)
        if type(seed := config.get("seed")) is not int:
            continue
        numbers = {key: value for key, value in config.items() if type(value) is int}
        rest = repr({key: value for key, value in config.items() if key not in numbers})
        for other, runs in alike.setdefault(rest, []):
            if _differ_by_seed(numbers, other):
                runs.setdefault(seed, directory)
                break
        else:
            alike[rest].append((numbers, {seed: directory}))
    return [runs for same in alike.values() for _, runs in same]


def _differ_by_seed(a: Mapping[str, int], b: Mapping[str, int]) -> bool:
    """Return whether two configurations' integers differ only in the seed and in values equal to it."""
    return all(pair == (a["seed"], b["seed"]) for pair in differing(a, b).values())

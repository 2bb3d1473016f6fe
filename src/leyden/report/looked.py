"""What is said of the looks at the test set: how many there were, whether their list is whole, whether one of many seeds was picked."""

import contextlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from leyden.config.mistakes import UserError
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.report.record import Record
from leyden.run.choices import deciding
from leyden.run.directory import Run
from leyden.run.looks import NAME, Looks, as_field, read_looks

MANY = 3  # seeds of a setting, from which on the best of them says little of the setting


def looked(records: Sequence[Record]) -> list[str]:
    """The lines; none, if none of the runs has looked at the test set as far as is known.

    Args:
        records: All runs that are told of.
    """
    lists: dict[Path, Looks] = {}
    for folder in dict.fromkeys(filter(None, map(_folder, records))):
        try:
            lists[folder] = read_looks(folder)
        except OSError as error:
            warn(f"{folder / NAME} can't be read ({error.strerror})")
    named = {row[2] for found in lists.values() for row in found.rows if len(row) > 2}
    seen = [record for record in records if _is_tested(record) or as_field(record.run.directory) in named]
    if not seen:
        return []
    names = dict.fromkeys(str(record.config.get("name")) for record in seen)
    lines = []
    for folder, found in lists.items():
        nums = [f"{name} {num}" for name in names if (num := found.count(name))]
        if nums:
            lines.append(f"Looks at the test set so far: {', '.join(nums)} ({folder / NAME})")
        if found.broken:
            more = f", and {len(found.broken) - 1} more" if len(found.broken) > 1 else ""
            lines.append(f"{folder / NAME}: a line was removed or changed at line {found.broken[0]}{more}")
    return [*lines, *_missing(seen, lists), *_lotteries(seen, lists, names)]


def _is_tested(record: Record) -> bool:
    return record.result is not None and record.result.is_tested


def _folder(record: Record) -> Path | None:
    """Where the list with a run's looks is: by its result, or above its directory; None where that is not known."""
    look = record.result.look if record.result else None
    with contextlib.suppress(OSError):  # of a path that can't be one
        if look and Path(look.outputs).is_dir():
            return Path(look.outputs)
    return next((folder for folder in record.run.directory.parents if (folder / NAME).is_file()), None)


def _missing(seen: Sequence[Record], lists: Mapping[Path, Looks]) -> list[str]:
    """Runs that have test metrics, but no line where their result says that it is.

    Nothing is said of a run that comes from another place, whose list is not here, nor of an older one.
    """
    lines = []
    for folder, found in lists.items():
        told = [(record.run.directory.name, record.result.look) for record in seen if record.result]
        here = [(name, look.chain) for name, look in told if look and Path(look.outputs) == folder]
        if names := [name for name, chain in here if chain not in found.chains]:
            lines.append(f"{folder / NAME}: a line is missing, of the look by {_some(names)}")
    return lines


def _lotteries(seen: Sequence[Record], lists: Mapping[Path, Looks], names: Collection[str]) -> list[str]:
    """What is said where many seeds of one setting were evaluated on the test set."""
    rows = (row for found in lists.values() for row in found.rows if len(row) > 2 and row[1] in names)
    here = dict.fromkeys(record.run.directory for record in seen)
    # Those that are here come first.
    settings = _by_setting(dict.fromkeys([*here, *(Path(row[2]) for row in rows)]))
    lines, whole = [], []
    for runs in settings:
        ours = [directory.name for directory in runs.values() if directory in here]
        if len(runs) < MANY or not ours:
            continue
        if len(ours) == len(runs):
            whole.append(len(runs))
            continue
        are = "is 1" if len(ours) == 1 else f"are {len(ours)}"
        lines.append(
            f"{_some(ours)} {are} of {len(runs)} seeds of one setting that were each evaluated on the test set: report "
            "the mean over all of them, not what was picked"
        )
    if whole:
        nums = f"{whole[0]}" if len({*whole}) == 1 else f"{min(whole)} to {max(whole)}"
        of = "one setting were" if len(whole) == 1 else f"each of {len(whole)} settings were"
        lines.append(f"{nums} seeds of {of} evaluated on the test set: report their mean, not the best of them")
    return lines


def _by_setting(directories: Iterable[Path]) -> list[dict[int, Path]]:
    """Group runs that differ in the seed alone, and in what takes its value from it: per setting, a run for each seed."""
    alike: dict[str, list[tuple[dict[str, Any], dict[int, Path]]]] = {}  # by all values but whole numbers
    for directory in directories:
        try:
            config = deciding(dict(flatten(Run(directory).config)))
        except (UserError, ValueError):  # it is gone, or no path
            continue
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
    return a.keys() == b.keys() and all(
        value == b[key] or (value == a["seed"] and b[key] == b["seed"]) for key, value in a.items()
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MANY]) + (f" and {len(names) - MANY} more" if len(names) > MANY else "")

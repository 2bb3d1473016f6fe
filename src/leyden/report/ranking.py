"""Runs merged over seeds and folds, and ranked."""

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.mistakes import UserError
from leyden.config.terminal import warn
from leyden.report.record import Record
from leyden.report.verdict import Group
from leyden.run.choices import deciding
from leyden.run.files import read_json

AVERAGED = ["seed", "data.fold", "fork"]  # of runs that no sweep holds together, as conf/train.yaml has it
FOLD, NUM_FOLDS = "data.fold", "data.num_folds"  # runs of several folds share training data


@dataclass
class Row:
    """Runs that differ in nothing but what a mean is over, as the seed and the fold."""

    choices: dict[str, Any]
    records: list[Record]

    @property
    def counted(self) -> list[Record]:
        """The runs that the means are over: those that have finished, or else those that were pruned."""
        return self.finished or [record for record in self.records if record.values]

    @property
    def finished(self) -> list[Record]:
        """The runs that have finished, and reached something."""
        return [record for record in self.records if record.values and record.status == "finished"]

    def num_all(self, averaged: Sequence[str]) -> int:
        """Return the number of runs, whatever became of them; repetitions count once, as in the means."""
        return len(_same(self.records, averaged))

    def group(self, averaged: Sequence[str]) -> Group:
        """What those that have finished have reached, by the values of what the mean is over."""
        values = {
            key: statistics.fmean(record.values[0] for record in same)
            for key, same in _same(self.finished, averaged).items()
        }
        folds = {repr(record.config.get(FOLD)) for record in self.finished} if FOLD in averaged else set()
        told = [record.config.get(NUM_FOLDS) for record in self.finished]
        num_folds = max([len(folds), *(num for num in told if isinstance(num, int))])
        return Group(values, overlap=1 / (num_folds - 1) if len(folds) > 1 else 0.0)

    def cells(self, metrics: Sequence[str], averaged: Sequence[str]) -> dict[str, Any]:
        """What the table says: choices, objectives (mean, deviation, number), epochs, seconds, states."""
        states = [record.status for record in self.records]
        ended = [
            [statistics.fmean(values) for values in zip(*(record.values for record in same), strict=True)]
            for same in _same(self.counted, averaged).values()
        ]
        means = {name: _mean([values[n] for values in ended]) for n, name in enumerate(metrics)}
        firsts = [values[0] for values in ended]
        return {
            **{key: "null" if value is None else value for key, value in self.choices.items()},
            "objective": means.pop(metrics[0]),
            "deviation": deviation(firsts),
            **means,
            "n": len(ended),
            "epochs": _mean([record.epochs for record in self.records]),
            "seconds": _mean([record.seconds for record in self.records]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state for state in dict.fromkeys(states)
            ),
        }


def merge(records: Sequence[Record], averaged: Sequence[str]) -> list[Row]:
    """A row for each combination of the choices that vary, but for those that a mean is over; best first.

    Runs whose configurations differ by what nobody has typed, as by a file that was changed, are no repetitions: that is a choice, too.
    """
    keys = [key for key in varied([record.choices for record in records]) if key not in averaged]
    rows: dict[str, Row] = {}
    for record in records:
        choices = {key: record.choices[key] for key in keys if key in record.choices}
        rows.setdefault(str(choices), Row(choices, [])).records.append(record)
    if untyped := {key for row in rows.values() for key in _untyped(row.records, averaged)}:
        for record in records:
            record.choices |= {key: record.config[key] for key in untyped if key in record.config}
        return merge(records, averaged)
    if "fork" in averaged and any(_differ_by_parent_alone(row.records, averaged) for row in rows.values()):
        return merge(records, [key for key in averaged if key != "fork"])

    def rank(row: Row) -> tuple[bool, float]:
        mean = _mean(
            [statistics.fmean(record.gains[0] for record in same) for same in _same(row.counted, averaged).values()]
        )
        return any(record.status == "finished" for record in row.counted), -math.inf if mean is None else mean

    return sorted(rows.values(), key=rank, reverse=True)


def _same(records: Sequence[Record], averaged: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """Runs by the values of what a mean is over.

    Those of the same values count as one, with their mean: they tell nothing of what another seed would give.
    """
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        key = tuple(repr(record.config[name]) if name in record.config else "" for name in averaged)
        found.setdefault(key, []).append(record)
    return found


def _untyped(records: Sequence[Record], averaged: Sequence[str]) -> list[str]:
    """Keys that vary among runs and can change a bit of them; but those that a mean is over, and what takes its value from them."""
    configs = [deciding(record.config) for record in records] if len(records) > 1 else []
    followers = following(configs, averaged)
    return [
        key
        for key in varied(configs)
        if key not in averaged
        and key not in followers
        and all(key in config for config in configs)  # else one of the runs is older than the key
    ]


def following(configs: Sequence[Mapping[str, Any]], averaged: Sequence[str]) -> set[str]:
    """Return the keys that vary, and take their value from one that a mean is over, as `data.split_seed` from `seed`."""
    return {
        key
        for key in varied(configs)
        if any(
            name != key and all(key in config and config[key] == config.get(name, config) for config in configs)
            for name in averaged
        )
    }


def _differ_by_parent_alone(records: Sequence[Record], averaged: Sequence[str]) -> bool:
    """Whether there are forks of several parents that have the same seed and fold: those parents differ in something else."""
    others = [key for key in averaged if key != "fork"]
    parents = {(str([record.config.get(key) for key in others]), record.config.get("fork")) for record in records}
    return len(parents) > len({same for same, _ in parents})


def described(directory: Path) -> tuple[list[str] | None, list[str]]:
    """What a sweep was described by.

    Returns:
        The choices that a search has tried by orders of magnitude, None where that is not known; and those that a mean is over.
    """
    path = directory / "sweep.json"
    with contextlib.suppress(UserError, OSError):
        sweep = read_json(path, {})
        if isinstance(sweep, dict):
            log, averaged = sweep.get("log"), sweep.get("average_over", AVERAGED)
            if isinstance(log, list | None) and isinstance(averaged, list):
                return log, averaged
    warn(f"{path} is no description of a sweep: its axes are scaled by their values")
    return None, AVERAGED


def varied(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys that have several values, or that some have and others don't."""
    keys = dict.fromkeys(key for chosen in choices for key in chosen)
    return [key for key in keys if len({(key in chosen, str(chosen.get(key))) for chosen in choices}) > 1]


def front(records: Sequence[Record]) -> list[Record]:
    """The finished runs that no other one equals or beats in all objectives, best first: the Pareto front.

    Of one objective it is the best run.
    """
    ended = sorted(
        (record for record in records if record.status == "finished" and record.gains),
        key=lambda record: record.gains,
        reverse=True,
    )
    kept: list[Record] = []
    for record in ended:  # none is beaten by one that comes later
        if not any(all(a >= b for a, b in zip(other.gains, record.gains, strict=True)) for other in kept):
            kept.append(record)
    return kept


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation; None where there is none, as of one value, or of a loss that is infinite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None

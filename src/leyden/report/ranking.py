"""Runs averaged over seeds and folds, ranked, and the rows that can't be told apart from the best one."""

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.report.records import Record
from leyden.report.statistics import LEAST, LEVEL, Group, verdict
from leyden.run.files import read_json
from leyden.run.identity import identity_values

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
            "deviation": standard_deviation(firsts),
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
    configs = [identity_values(record.config) for record in records] if len(records) > 1 else []
    followers = derived_keys(configs, averaged)
    return [
        key
        for key in varied(configs)
        if key not in averaged
        and key not in followers
        and all(key in config for config in configs)  # else one of the runs is older than the key
    ]


def derived_keys(configs: Sequence[Mapping[str, Any]], averaged: Sequence[str]) -> set[str]:
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


def pareto_front(records: Sequence[Record]) -> list[Record]:
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


def standard_deviation(values: Sequence[float]) -> float | None:
    """The standard deviation; None where there is none, as of one value, or of a loss that is infinite."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None


MARK = "≈"


@dataclass(frozen=True)
class Contenders:
    """The rows that can't be told apart from the first one.

    Args:
        like_best: Of each row whether it can't; None where it has too few runs to tell.
        further: How many more runs per row would tell the first two apart; None where they are told apart, or where
            nothing can be said.
        remarks: The same in words.
    """

    like_best: list[bool | None]
    further: int | None
    remarks: list[str]


def contenders(rows: Sequence[Row], averaged: Sequence[str], mode: str) -> Contenders:
    """Compare the first row with each other one.

    Each comparison has the level 5 % / (rows - 1), so that by Bonferroni's inequality the truly best row is excluded by
    none of them with a probability of at least 95 %. Rows of too few runs are left out.

    Args:
        rows: Of a table, the best first.
        averaged: What a row is a mean over.
        mode: `min` or `max`: what is better.
    """
    like_best: list[bool | None] = [None] * len(rows)
    groups = [row.group(averaged) for row in rows]
    enough = [len(group.values) >= LEAST for group in groups]
    others = [number for number in range(1, len(rows)) if enough[number]]
    if len(rows) < 2:
        return Contenders(like_best, None, [])
    unit = "seeds" if "seed" in averaged else "runs"
    if not (enough[0] and others):
        return Contenders(
            like_best, None, [f"n too small to tell which row is best: that takes {LEAST} {unit} per row"]
        )
    told = {number: verdict(groups[0], groups[number], mode, LEVEL / len(others)) for number in others}
    like_best[0] = True
    for number, found in told.items():
        like_best[number] = found.better != "a"
    num_lost = sum(rows[number].num_all(averaged) - len(groups[number].values) for number in (0, *others))
    remarks = [_claim(marks=any(like_best[1:]), num_lost=num_lost)]
    if not all(enough):
        remarks.append(f"That is said of rows with n >= {LEAST} alone; of others nothing can be told.")
    further = told[1].further() if 1 in told else None
    if further is not None:
        remarks.append(f"To tell the first two rows apart {told[1].further_in_words(unit)} per row.")
    if any(group.overlap for group in groups):
        remarks.append("Runs of folds share training data; this is allowed for (Nadeau and Bengio, 2003).")
    return Contenders(like_best, further, remarks)


def _claim(*, marks: bool, num_lost: int) -> str:
    """Return the claim on the best row, which is one on the runs that have finished alone, where others have not."""
    sure = "(95 % confidence)"
    lost = f"{num_lost} run{'s' * (num_lost > 1)} of the rows compared did not finish, and count{'s' * (num_lost == 1)} for nothing."
    if marks:
        of = "of the runs that finished, the best" if num_lost else "the truly best"
        claim = f"{MARK} may be as good as the first row: {of} row is the first or one of these {sure}"
    else:
        claim = (
            f"Of the runs that finished, those of the first row are the best {sure}"
            if num_lost
            else f"The first row is truly the best one {sure}"
        )
    return f"{claim}; {lost}" if num_lost else f"{claim}."

"""Ranking of settings averaged over seeds and folds, and the settings not significantly worse than the best."""

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
from leyden.report.statistics import LEVEL, MIN_VALUES, Group, verdict
from leyden.run.files import read_json
from leyden.run.identity import identity_values

AVERAGED = ["seed", "data.fold", "fork"]  # keys for runs outside a sweep; the default in conf/train.yaml
FOLD, NUM_FOLDS = "data.fold", "data.num_folds"  # runs of different folds share training data


@dataclass
class Row:
    """A setting: runs that differ only in keys that the mean is taken over, such as the seed and the fold."""

    choices: dict[str, Any]
    records: list[Record]

    @property
    def counted(self) -> list[Record]:
        """The runs that the means are taken over: the finished ones, else those with values (pruned)."""
        return self.finished or [record for record in self.records if record.values]

    @property
    def finished(self) -> list[Record]:
        """The finished runs that have values of all objectives."""
        return [record for record in self.records if record.values and record.status == "finished"]

    def repeats(self, averaged: Sequence[str]) -> bool:
        """Return whether some counted runs have the same values of all averaged keys, such as the seed."""
        return len(_by_values(self.counted, averaged)) < len(self.counted)

    def has_idle_seed(self, averaged: Sequence[str]) -> bool:
        """Return whether some counted runs are bit-equal though averaged keys, such as the seed, differ."""
        return len(_group_repetitions(self.counted, averaged)) < len(_by_values(self.counted, averaged))

    def num_all(self, averaged: Sequence[str]) -> int:
        """Return the number of runs, whatever their status; repetitions count once, as in the means."""
        return len(_group_repetitions(self.records, averaged))

    def group(self, averaged: Sequence[str]) -> Group:
        """Return the first objective's value for each combination of averaged keys, from the finished runs."""
        values = {
            key: statistics.fmean(record.values[0] for record in same)
            for key, same in _group_repetitions(self.finished, averaged).items()
        }
        folds = {repr(record.config.get(FOLD)) for record in self.finished} if FOLD in averaged else set()
        recorded = [record.config.get(NUM_FOLDS) for record in self.finished]
        num_folds = max([len(folds), *(num for num in recorded if isinstance(num, int))])
        return Group(values, overlap=1 / (num_folds - 1) if len(folds) > 1 else 0.0)

    def cells(self, metrics: Sequence[str], averaged: Sequence[str]) -> dict[str, Any]:
        """Return a table row: choices, objectives (mean, deviation, number), epochs, seconds, status."""
        states = [record.status for record in self.records]
        objectives = [
            [statistics.fmean(values) for values in zip(*(record.values for record in same), strict=True)]
            for same in _group_repetitions(self.counted, averaged).values()
        ]
        means = {name: _mean([values[n] for values in objectives]) for n, name in enumerate(metrics)}
        firsts = [values[0] for values in objectives]
        return {
            **{key: "null" if value is None else value for key, value in self.choices.items()},
            "objective": means.pop(metrics[0]),
            "deviation": standard_deviation(firsts),
            **means,
            "n": len(objectives),
            "epochs": _mean([record.epochs for record in self.records]),
            "seconds": _mean([record.seconds for record in self.records]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state for state in dict.fromkeys(states)
            ),
        }


def merge_rows(records: Sequence[Record], averaged: Sequence[str]) -> list[Row]:
    """Return a row for each combination of varying choices, without the averaged keys; best row first.

    Runs that differ in a key that no override sets, for example after a config file was edited, are separate
    settings. The key becomes a choice.
    """
    keys = [key for key in varying_keys([record.choices for record in records]) if key not in averaged]
    rows: dict[str, Row] = {}
    for record in records:
        choices = {key: record.choices[key] for key in keys if key in record.choices}
        rows.setdefault(str(choices), Row(choices, [])).records.append(record)
    if untyped := {key for row in rows.values() for key in _untyped_keys(row.records, averaged)}:
        for record in records:
            record.choices |= {key: record.config[key] for key in untyped if key in record.config}
        return merge_rows(records, averaged)
    if "fork" in averaged and any(_differ_by_parent_alone(row.records, averaged) for row in rows.values()):
        return merge_rows(records, [key for key in averaged if key != "fork"])

    def rank(row: Row) -> tuple[bool, float]:
        mean = _mean(
            [
                statistics.fmean(record.gains[0] for record in same)
                for same in _group_repetitions(row.counted, averaged).values()
            ]
        )
        return any(record.status == "finished" for record in row.counted), -math.inf if mean is None else mean

    return sorted(rows.values(), key=rank, reverse=True)


def _group_repetitions(records: Sequence[Record], averaged: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """Group runs that are no independent samples; each group counts as one run, whose value is the mean.

    They have the same values of the averaged keys; or different ones, but identical objectives and weights at all
    recorded steps, as when a module sets its own seed.
    """
    found: dict[tuple[str, ...], list[Record]] = {}
    candidates: dict[str, list[tuple[str, ...]]] = {}  # by objectives, since weights take longer to read
    for key, same in _by_values(records, averaged).items():
        others = candidates.setdefault(repr(same[0].values), []) if same[0].values else []
        equal = next((other for other in others if found[other][0].weights == same[0].weights != []), None)
        if equal is None:
            others.append(key)
        found.setdefault(equal or key, []).extend(same)
    return found


def _by_values(records: Sequence[Record], averaged: Sequence[str]) -> dict[tuple[str, ...], list[Record]]:
    """Group runs by their values of the averaged keys."""
    found: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        key = tuple(repr(record.config[name]) if name in record.config else "" for name in averaged)
        found.setdefault(key, []).append(record)
    return found


def _untyped_keys(records: Sequence[Record], averaged: Sequence[str]) -> list[str]:
    """Return the keys that vary among a row's runs and can change results, except averaged and derived ones."""
    configs = [identity_values(record.config) for record in records] if len(records) > 1 else []
    derived = derived_keys(configs, averaged)
    return [
        key
        for key in varying_keys(configs)
        if key not in averaged
        and key not in derived
        and all(key in config for config in configs)  # otherwise a run is older than the key
    ]


def derived_keys(configs: Sequence[Mapping[str, Any]], averaged: Sequence[str]) -> set[str]:
    """Return the varying keys whose value equals that of an averaged key, as `data.split_seed` equals `seed`."""
    return {
        key
        for key in varying_keys(configs)
        if any(
            name != key and all(key in config and config[key] == config.get(name, config) for config in configs)
            for name in averaged
        )
    }


def _differ_by_parent_alone(records: Sequence[Record], averaged: Sequence[str]) -> bool:
    """Return whether the parent is a setting: runs with the same seed and fold have different parents."""
    others = [key for key in averaged if key != "fork"]
    parents = {(str([record.config.get(key) for key in others]), record.config.get("fork")) for record in records}
    return len(parents) > len({values for values, _ in parents})


def read_sweep_settings(directory: Path) -> tuple[list[str] | None, list[str]]:
    """Read the settings of a sweep that a report needs, from `sweep.json`.

    Returns:
        The keys that were searched on a logarithmic scale, None if unknown; and the keys to average over.
    """
    path = directory / "sweep.json"
    with contextlib.suppress(UserError, OSError):
        sweep = read_json(path, {})
        if isinstance(sweep, dict):
            log, averaged = sweep.get("log"), sweep.get("average_over", AVERAGED)
            if isinstance(log, list | None) and isinstance(averaged, list):
                return log, averaged
    warn(f"{path} is not a valid sweep description, and is ignored")
    return None, AVERAGED


def varying_keys(choices: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys that have several values, or are missing in some mappings."""
    keys = dict.fromkeys(key for chosen in choices for key in chosen)
    return [key for key in keys if len({(key in chosen, str(chosen.get(key))) for chosen in choices}) > 1]


def pareto_front(records: Sequence[Record]) -> list[Record]:
    """Return the Pareto front: the finished runs that no other run equals or beats in all objectives, best first.

    For a single objective this is the best run.
    """
    finished = sorted(
        (record for record in records if record.status == "finished" and record.gains),
        key=lambda record: record.gains,
        reverse=True,
    )
    front: list[Record] = []
    for record in finished:  # sorted, so no run is beaten by a later one
        if not any(all(a >= b for a, b in zip(other.gains, record.gains, strict=True)) for other in front):
            front.append(record)
    return front


def standard_deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation; None if it is undefined, as for one value or infinite values."""
    return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


IDLE_SEED = (
    "Runs that are bit-equal despite different seeds count once in n: the seed has no effect; "
    "does the module set its own seed?"
)
MARK = "≈"


@dataclass(frozen=True)
class Contenders:
    """The rows that are not significantly worse than the first one.

    Args:
        like_best: For each row whether it may be as good as the first; None if it has too few runs.
        num_further: Number of additional runs per row needed to tell the first two rows apart; None if they can be
            told apart already, or if nothing can be said.
        remarks: The findings in words.
    """

    like_best: list[bool | None]
    num_further: int | None
    remarks: list[str]


def contenders(rows: Sequence[Row], averaged: Sequence[str], mode: str) -> Contenders:
    """Compare the first row with each other row.

    With Bonferroni correction, each comparison has the significance level 5 % / (rows - 1). The truly best row is
    then marked with a probability of at least 95 %. Rows with too few runs are left out.

    Args:
        rows: Rows of a table, best first.
        averaged: Keys that the means are taken over.
        mode: `min` or `max`, the better direction.
    """
    like_best: list[bool | None] = [None] * len(rows)
    groups = [row.group(averaged) for row in rows]
    enough = [len(group.values) >= MIN_VALUES for group in groups]
    others = [number for number in range(1, len(rows)) if enough[number]]
    if len(rows) < 2:
        return Contenders(like_best, None, [])
    unit = "seeds" if "seed" in averaged else "runs"
    if not (enough[0] and others):
        return Contenders(
            like_best, None, [f"n too small to tell which row is best: that takes {MIN_VALUES} {unit} per row"]
        )
    verdicts = {number: verdict(groups[0], groups[number], mode, LEVEL / len(others)) for number in others}
    like_best[0] = True
    for number, found in verdicts.items():
        like_best[number] = found.better != "a"
    num_lost = sum(rows[number].num_all(averaged) - len(groups[number].values) for number in (0, *others))
    remarks = [_claim(marks=any(like_best[1:]), num_lost=num_lost)]
    if not all(enough):
        remarks.append(f"This applies only to rows with n >= {MIN_VALUES}.")
    num_further = verdicts[1].num_further() if 1 in verdicts else None
    if num_further is not None:
        remarks.append(f"To tell the first two rows apart {verdicts[1].further_in_words(unit)} per row.")
    if any(group.overlap for group in groups):
        remarks.append("Runs of folds share training data; this is accounted for (Nadeau and Bengio, 2003).")
    return Contenders(like_best, num_further, remarks)


def _claim(*, marks: bool, num_lost: int) -> str:
    """Return the claim about the best row; if some runs did not finish, it is limited to finished runs."""
    confidence = "(95 % confidence)"
    lost = f"{num_lost} run{'s' * (num_lost > 1)} of the rows compared did not finish and {'is' if num_lost == 1 else 'are'} not counted."
    if marks:
        of = "of the runs that finished, the best" if num_lost else "the truly best"
        claim = f"{MARK} may be as good as the first row: {of} row is the first or one of these {confidence}"
    else:
        claim = (
            f"Of the runs that finished, those of the first row are the best {confidence}"
            if num_lost
            else f"The first row is truly the best one {confidence}"
        )
    return f"{claim}; {lost}" if num_lost else f"{claim}."

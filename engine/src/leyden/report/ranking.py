"""Settings of runs, averaged over seeds and folds, and the verdict on which of them may be the best."""

import functools
import itertools
import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.values import text_of
from leyden.report.looks import count_look
from leyden.report.records import DIGEST, VALIDATED, Record, varying_keys
from leyden.run.files import read_json
from leyden.run.identity import LIMIT_OF_VALIDATION, is_data_key, is_identity_key, shown_choices
from leyden.verdict import looks
from leyden.verdict.difference import LEVEL, look_level
from leyden.verdict.groups import Group
from leyden.verdict.ranking import Ranking, RankingOverSets, rank_over_sets, rank_settings

AVERAGED = ["seed", "data.fold"]  # keys for runs outside a sweep; the default in conf/train.yaml
FOLD, NUM_FOLDS = "data.fold", "data.num_folds"  # runs of different folds share training data
SPLIT_SEED = "data.split_seed"


@dataclass
class Row:
    """A setting: runs that differ only in keys that the mean is taken over, such as the seed and the fold.

    Args:
        choices: Value of each key that varies between the rows.
        records: The runs.
        averaged: Keys that the mean is taken over.
        data: Equal for rows of one table whose values were measured on the same data, see `assign_data`.
    """

    choices: dict[str, Any]
    records: list[Record]
    averaged: Sequence[str]
    data: tuple[str, ...] = ()

    def key(self, record: Record) -> tuple[str, ...]:
        """Return a run's values of the averaged keys; runs with the same values repeat each other."""
        return tuple(
            repr(record.config[name]) if name in record.config else "" for name in self.averaged
        )

    @property
    def finished(self) -> list[Record]:
        """The finished runs that have a value."""
        return [
            record
            for record in self.records
            if record.status == "finished" and record.value is not None
        ]

    @property
    def distinct(self) -> list[Record]:
        """The finished runs, but only the first of runs that repeat each other."""
        return [*{self.key(record): record for record in reversed(self.finished)}.values()][::-1]

    @functools.cached_property
    def setting(self) -> Group:
        """The row as `leyden.verdict` has it: the values of the finished runs."""
        finished = self.finished
        folds = (
            {repr(record.config.get(FOLD)) for record in finished}
            if FOLD in self.averaged
            else set()
        )
        recorded = [record.config.get(NUM_FOLDS) for record in finished]
        num_folds = max([len(folds), *(num for num in recorded if isinstance(num, int))])
        known = {id(record) for record in finished}
        values = [
            (self.key(record), record.value if id(record) in known else None)
            for record in self.records
        ]
        return Group.of(
            shown_choices(self.choices),
            values,
            overlap=1 / (num_folds - 1) if len(folds) > 1 else 0.0,
        )

    @functools.cached_property
    def shown(self) -> Group:
        """The values of the finished runs; if there are none, those of other runs, such as pruned ones."""
        if self.setting.values:
            return self.setting
        return Group.of(
            shown_choices(self.choices),
            [(self.key(record), record.value) for record in self.records],
        )

    def measured(self) -> dict[str, Any]:
        """Return the mean and the deviation of the objective, and n, epochs, seconds, status; what is unknown is None."""
        states, shown = [record.status for record in self.records], self.shown
        return {
            "objective": shown.mean if shown.values else None,
            "deviation": shown.deviation,
            "n": len(shown.values),
            "epochs": _mean([record.epochs for record in self.records]),
            "seconds": _mean([record.seconds for record in self.records]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state
                for state in dict.fromkeys(states)
            ),
        }


def merge_rows(records: Sequence[Record], averaged: Sequence[str]) -> list[Row]:
    """Return a row for each combination of varying choices, without the averaged keys.

    Rows of the same data are together, best row first. Runs that differ in a key that no override sets, for example
    after a config file was edited, or in the content of their data, are separate settings. The key becomes a choice.

    Args:
        records: The runs.
        averaged: Keys that the mean is taken over.
    """
    keys = [
        key for key in varying_keys([record.choices for record in records]) if key not in averaged
    ]
    rows: dict[str, Row] = {}
    for record in records:
        choices = {key: record.choices[key] for key in keys if key in record.choices}
        alike = str({key: text_of(value) for key, value in choices.items()})
        rows.setdefault(alike, Row(choices, [], averaged)).records.append(record)
    if untyped := {key for row in rows.values() for key in _differing([row])}:
        for record in records:
            record.choices |= {key: record.config[key] for key in untyped if key in record.config}
        return merge_rows(records, averaged)
    sign = next((-1 for each in records if each.objective and each.objective.mode == "min"), 1)

    def place(row: Row) -> tuple[bool, float]:
        return bool(row.setting.values), sign * row.shown.mean if row.shown.values else -math.inf

    assign_data([*rows.values()])
    order = [*dict.fromkeys(row.data for row in rows.values())]
    return sorted(
        sorted(rows.values(), key=place, reverse=True), key=lambda row: order.index(row.data)
    )


def assign_data(rows: Sequence[Row]) -> list[str]:
    """Set each row's `data`, and return the keys in which they differ; none if all rows have the same data.

    Data are the settings that choose samples, targets and the validation split, and the digest of the data's content.
    """
    keys = [
        key
        for key in _differing(rows)
        if any(is_data_key(key, record.config) for row in rows for record in row.records)
    ]
    finished = [record for row in rows for record in row.finished]
    if LIMIT_OF_VALIDATION in keys and all(VALIDATED in record.config for record in finished):
        keys.remove(LIMIT_OF_VALIDATION)  # the number of samples says more
    for row in rows:
        known = {
            key: value for record in reversed(row.records) for key, value in record.varied.items()
        }
        row.data = tuple(text_of(known.get(key)) for key in keys)
    records = [record for row in rows for record in row.records]
    chosen = {record.typed.get("data", record.groups.get("data")) for record in records}
    return ["data"] if keys and len(chosen) > 1 and None not in chosen else keys


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the keys that can change results and differ among runs, but those that are averaged or follow from these.

    A run that lacks a key that nobody has typed is older than the key.
    """
    records = [record for row in rows for record in row.records]
    varied, averaged = [record.varied for record in records], rows[0].averaged
    typed = {key for record in records for key in record.typed}
    keys = {*varying_keys(varied)} - {*averaged} - derived_keys(varied, averaged)
    for key in (DIGEST, VALIDATED):
        if key in keys and _follows_from_seeds(rows, key):
            keys.remove(key)
    return sorted(
        key
        for key in keys
        if any(is_identity_key(key, record.config) for record in records)
        and (key in typed or len({text_of(each[key]) for each in varied if key in each}) > 1)
    )


def _draws_data(row: Row) -> bool:
    """Return whether each seed of a row has its own data, as if a data module draws them by the seed."""
    pairs = {(row.key(each), each.config[DIGEST]) for each in row.records if DIGEST in each.config}
    return 1 < len(pairs) == len({key for key, _ in pairs}) == len({digest for _, digest in pairs})


def _follows_from_seeds(rows: Sequence[Row], key: str) -> bool:
    """Return whether a value differs within a row, but not among runs of one seed and fold: of drawn data, of a fold's size."""
    by_seed: dict[tuple[str, ...], Any] = {}
    varies = False
    for row in rows:
        of_row = set()
        for record in row.records:
            if key not in record.config:
                continue
            value = record.config[key]
            of_row.add(value)
            if by_seed.setdefault(row.key(record), value) != value:
                return False
        varies = varies or len(of_row) > 1
    return varies


def derived_keys(configs: Sequence[Mapping[str, Any]], averaged: Sequence[str]) -> set[str]:
    """Return the varying keys whose value equals that of an averaged key, as `data.split_seed` equals `seed`."""
    return {
        key
        for key in varying_keys(configs)
        if any(
            name != key
            and all(key in config and config[key] == config.get(name, config) for config in configs)
            for name in averaged
        )
    }


def read_sweep(directory: Path) -> dict[str, Any]:
    """Return what a report needs of a sweep, from `sweep.json`.

    Returns:
        `average_over`, the keys to average over; `log`, the keys that were searched on a logarithmic scale, None if
        unknown; `excluded`, the settings that looks of `sweep.seeds=auto` have excluded, by name.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / "sweep.json"
    found = read_json(path, {})
    if isinstance(found, dict):
        found = {"average_over": AVERAGED, "log": None, "excluded": [], **found}
        lists = [found[key] or [] for key in ("average_over", "log", "excluded")]
        if all(
            isinstance(each, list) and all(isinstance(name, str) for name in each) for each in lists
        ):
            return found
    raise UserError(f"{path}: is no description of a sweep")


def plus_minus(rows: Sequence[Row]) -> str:
    """Return in words what stands behind the ± of settings."""
    return f"±: standard deviation of a setting's runs, over {_varied(rows)}."


def _varied(rows: Sequence[Row]) -> str:
    """Return the averaged keys that vary among runs, in words."""
    records = [record for row in rows for record in row.records]
    values = [{key: record.config.get(key) for key in rows[0].averaged} for record in records]
    return " and ".join(varying_keys(values)) or "runs"


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def contenders(
    rows: Sequence[Row], mode: str, look: int = 1, excluded: Sequence[str] = ()
) -> Ranking:
    """Compare the first row that has enough runs with each other row that has, apart for each data set.

    Args:
        rows: Rows of a table, as `merge_rows` returns them.
        mode: `min` or `max`, the better direction.
        look: Number of this look at the table, as in `look_level`.
        excluded: Names of settings that an earlier look has excluded.
    """
    whole, parts = Ranking([], [], []), by_data(rows)
    remarks: dict[str, None] = {}
    if len(parts) > 1:
        remarks[
            f"Rows of different data are not compared: they differ in {' and '.join(assign_data(rows))}."
        ] = None
    for part in parts:
        of_part = [*part.values()]
        number = min(part) + 1 if len(parts) > 1 else None
        found = rank_settings([row.setting for row in of_part], mode, look, excluded, number)
        whole.like_best.extend(found.like_best)
        remarks |= dict.fromkeys(found.remarks)
        if any(like is not None for like in found.like_best):
            remarks |= dict.fromkeys(assumptions(of_part, look))
    whole.remarks.extend(remarks)
    return whole


def look_at(
    folder: Path | None, rows: Sequence[Row], mode: str, excluded: Sequence[str]
) -> Ranking:
    """Return which rows may be the best, and count this as a look at the table of a folder.

    Args:
        folder: As in `count_look`.
        rows: As in `contenders`.
        mode: As in `contenders`.
        excluded: As in `contenders`.
    """
    parts = [[row.setting for row in part.values()] for part in by_data(rows)]
    return contenders(rows, mode, count_look(folder, "summary", parts), excluded)


def over_data_sets(rows: Sequence[Row], mode: str, folder: Path | None) -> RankingOverSets:
    """Rank settings over the data sets of a table, and count this as a look at them.

    Args:
        rows: As in `contenders`.
        mode: As in `contenders`.
        folder: As in `count_look`.
    """
    keys = {
        key
        for row in rows
        for key in row.choices
        if key == "data" or any(is_data_key(key, record.config) for record in row.records)
    }
    means: dict[Hashable, dict[str, float]] = {}
    parts = by_data(rows)
    for number, part in enumerate(parts):
        means[number] = {}
        for row in part.values():
            choices = [f"{key}={value}" for key, value in row.choices.items() if key not in keys]
            if row.setting.values:
                means[number][" ".join(choices)] = row.setting.mean
    settings = [[row.setting for row in part.values()] for part in parts]
    look = count_look(folder, "over data", settings, min_values=1)
    return rank_over_sets(means, mode, look)


def by_data(rows: Sequence[Row]) -> list[dict[int, Row]]:
    """Return the rows of each data set, by index, from rows as `merge_rows` returns them."""
    return [
        dict(part) for _, part in itertools.groupby(enumerate(rows), key=lambda item: item[1].data)
    ]


def assumptions(rows: Sequence[Row], look: int) -> list[str]:
    """Return what the verdicts on rows hold for, beside the values' distribution.

    Args:
        rows: The compared rows.
        look: Number of this look.
    """
    if any(row.setting.overlap for row in rows):
        remarks = ["The runs share training data, which widens this (Nadeau and Bengio, 2003)."]
    elif any(map(_draws_data, rows)):
        remarks = ["Each seed has data of its own, by their digests."]
    elif any(
        SPLIT_SEED in derived_keys([each.varied for each in row.finished], row.averaged)
        for row in rows
    ):
        remarks = ["Holds for this data set, over seeds and their splits."]
    else:
        remarks = [f"Holds for this data set and split, over {_varied(rows)}."]
    if look > 1:
        spent = f"{100 * look_level(look):.2g} % of the {100 * LEVEL:g} % error rate"
        remarks.append(f"Look {look} at these settings ({looks.FILE}): it spends {spent}.")
    return remarks

"""Settings of runs, averaged over seeds and folds, and which of them may be the best."""

import contextlib
import functools
import math
import statistics
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.base.errors import UserError
from leyden.base.terminal import one_line
from leyden.config.values import text_of
from leyden.report.looks import LOOKS_FILE, PLAN_FILE, count_look
from leyden.report.records import (
    DIGEST,
    EVALUATIONS_HEADER,
    VALIDATED,
    Record,
    compare_configs,
    evaluations_folder,
    read_one,
    read_test_evaluations,
    varying_keys,
)
from leyden.run.directory import Run
from leyden.run.files import read_json
from leyden.run.identity import LIMIT_OF_VALIDATION, is_data_key, is_identity_key, shown_choices
from leyden.run.record import is_of
from leyden.verdict.difference import FIRST, LEVEL, Look
from leyden.verdict.groups import Group
from leyden.verdict.ranking import Ranking, RankingOverSets, rank_groups_over_sets, rank_settings

AVERAGED = ["seed", "data.fold"]  # keys for runs outside a sweep; the default in conf/train.yaml
FOLD = "data.fold"  # runs of different folds share training data
NUM_FOLDS = "data.num_folds"
SPLIT_SEED = "data.split_seed"


@dataclass
class Row:
    """A setting: runs that differ only in averaged keys, such as the seed and the fold.

    Args:
        choices: Value of each key that varies between the rows.
        records: The runs.
        averaged: Keys that the mean is taken over.
        data: Equal for rows of one table whose values were measured on the same data, see
            `assign_data`.
    """

    choices: dict[str, Any]
    records: list[Record]
    averaged: Sequence[str]
    data: tuple[str, ...] = ()

    def key(self, record: Record) -> tuple[str, ...]:
        """Return a run's values of the averaged keys.

        Runs with the same values repeat each other.
        """
        texts = []
        for name in self.averaged:
            text = ""
            if name in record.config:
                text = repr(record.config[name])
            texts.append(text)
        return tuple(texts)

    @property
    def finished(self) -> list[Record]:
        """The finished runs that have a value."""
        return [each for each in self.records if _has_finished(each)]

    @property
    def distinct(self) -> list[Record]:
        """The finished runs, but only the first of runs that repeat each other."""
        by_key: dict[tuple[str, ...], Record] = {}
        for record in self.finished:
            by_key.setdefault(self.key(record), record)
        return [*by_key.values()]

    @functools.cached_property
    def setting(self) -> Group:
        """The row as `leyden.verdict` has it: the values of the finished runs."""
        values = []
        for record in self.records:
            value = None
            if _has_finished(record):
                value = record.value
            values.append((self.key(record), value))
        return Group.of(shown_choices(self.choices), values, self._overlap())

    def _overlap(self) -> float:
        """Return the term by which folds that share data widen the variance of the mean."""
        if FOLD not in self.averaged:
            return 0.0
        folds = set()
        recorded = []
        for record in self.finished:
            folds.add(repr(record.config.get(FOLD)))
            num = record.config.get(NUM_FOLDS)
            if isinstance(num, int):
                recorded.append(num)
        if len(folds) < 2:
            return 0.0
        num_folds = max([len(folds), *recorded])
        return 1 / (num_folds - 1)

    @functools.cached_property
    def shown(self) -> Group:
        """The values of the finished runs.

        Without one, those of other runs, such as pruned ones.
        """
        if self.setting.values:
            return self.setting
        values = [(self.key(record), record.value) for record in self.records]
        return Group.of(shown_choices(self.choices), values)

    def measured(self) -> dict[str, Any]:
        """Return mean and deviation of the objective, n, epochs, seconds, status.

        Unknown is None.
        """
        shown = self.shown
        status = self.records[0].status
        if len(self.records) > 1:
            states = Counter(record.status for record in self.records)
            status = ", ".join(f"{num} {state}" for state, num in states.items())
        return {
            "objective": shown.mean if shown.values else None,
            "deviation": shown.deviation,
            "n": len(shown.values),
            "epochs": _mean([record.epochs for record in self.records]),
            "seconds": _mean([record.seconds for record in self.records]),
            "status": status,
        }


def _has_finished(record: Record) -> bool:
    return record.status == "finished" and record.value is not None


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the known values; None if there are none."""
    known = [value for value in values if value is not None]
    if known:
        return statistics.fmean(known)
    return None


def merge_rows(records: Sequence[Record], averaged: Sequence[str]) -> list[Row]:
    """Return a row for each combination of varying choices, without the averaged keys.

    Rows of the same data are together, best row first. Runs that differ in a key that no override
    sets, for example after a config file was edited, or in the content of their data, are separate
    settings. The key becomes a choice.

    Args:
        records: The runs.
        averaged: Keys that the mean is taken over.
    """
    choices: list[Mapping[str, Any]] = [record.choices for record in records]
    while True:
        rows = _group(records, choices, averaged)
        untyped = _untyped_differences(rows)
        if not untyped:
            return _best_first(rows)
        for number, record in enumerate(records):
            choices[number] = {**choices[number], **_part(record.config, untyped)}


def _group(
    records: Sequence[Record], choices: Sequence[Mapping[str, Any]], averaged: Sequence[str]
) -> list[Row]:
    """Return a row for each combination of choices, in the order of its first run."""
    keys = [key for key in varying_keys(choices) if key not in averaged]
    rows: dict[str, Row] = {}
    for record, chosen in zip(records, choices, strict=True):
        own = _part(chosen, keys)
        texts = [f"{key}={text_of(value)}" for key, value in own.items()]
        row = rows.setdefault(str(texts), Row(own, [], averaged))
        row.records.append(record)
    return [*rows.values()]


def _untyped_differences(rows: Sequence[Row]) -> list[str]:
    """Return the keys in which runs of one row differ."""
    found: set[str] = set()
    for row in rows:
        found.update(_differing([row]))
    return sorted(found)


def _part(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}


def _best_first(rows: list[Row]) -> list[Row]:
    """Return rows sorted by their means, those of one data set together, and the best first."""
    records = records_of(rows)
    modes = [record.objective.mode for record in records if record.objective]
    sign = 1
    if modes[:1] == ["min"]:
        sign = -1

    def place(row: Row) -> tuple[bool, float]:
        mean = sign * row.shown.mean if row.shown.values else -math.inf
        return bool(row.setting.values), mean

    assign_data(rows)
    order = [*dict.fromkeys(row.data for row in rows)]
    best_first = sorted(rows, key=place, reverse=True)
    return sorted(best_first, key=lambda row: order.index(row.data))


def records_of(rows: Sequence[Row]) -> list[Record]:
    """Return the runs of rows."""
    return [record for row in rows for record in row.records]


def assign_data(rows: Sequence[Row]) -> list[str]:
    """Set each row's `data`, and return the keys in which they differ; none if all have the same.

    Data are the settings that choose samples, targets and the validation split, and the digest of
    the data's content.
    """
    keys = _data_keys(rows)
    for row in rows:
        known: dict[str, Any] = {}
        for record in reversed(row.records):
            known.update(record.varied)
        row.data = tuple(text_of(known.get(key)) for key in keys)
    if keys and _differ_in_group(records_of(rows)):
        return ["data"]
    return keys


def _data_keys(rows: Sequence[Row]) -> list[str]:
    """Return the keys of the data in which rows differ."""
    records = records_of(rows)
    keys = [key for key in _differing(rows) if _is_data_key(key, records)]
    if LIMIT_OF_VALIDATION not in keys:
        return keys
    for record in records:
        if _has_finished(record) and VALIDATED not in record.config:
            return keys
    keys.remove(LIMIT_OF_VALIDATION)  # the number of samples says more
    return keys


def _differ_in_group(records: Sequence[Record]) -> bool:
    """Return whether runs are known to have different options of the group `data`."""
    options = set()
    for record in records:
        recorded = record.groups.get("data")
        options.add(record.typed.get("data", recorded))
    return len(options) > 1 and None not in options


def _is_data_key(key: str, records: Sequence[Record]) -> bool:
    return any(is_data_key(key, record.config) for record in records)


def _differing(rows: Sequence[Row]) -> list[str]:
    """Return the keys that can change results and differ among runs.

    Those that are averaged, or follow from these, are left out.
    A run that lacks a key that nobody has typed is older than the key.
    """
    records = records_of(rows)
    averaged = rows[0].averaged
    varied = [record.varied for record in records]
    keys = {*varying_keys(varied)} - {*averaged} - derived_keys(varied, averaged)
    for key in (DIGEST, VALIDATED):
        if key in keys and _follows_from_seeds(rows, key):
            keys.remove(key)
    found = []
    for key in sorted(keys):
        can_matter = any(is_identity_key(key, record.config) for record in records)
        is_typed = any(key in record.typed for record in records)
        values = {text_of(each[key]) for each in varied if key in each}
        if can_matter and (is_typed or len(values) > 1):
            found.append(key)
    return found


def _draws_data(row: Row) -> bool:
    """Return whether each seed of a row has its own data, drawn by the seed."""
    pairs = set()
    for record in row.records:
        if DIGEST in record.config:
            pairs.add((row.key(record), record.config[DIGEST]))
    seeds = {seed for seed, _ in pairs}
    digests = {digest for _, digest in pairs}
    return 1 < len(pairs) == len(seeds) == len(digests)


def _follows_from_seeds(rows: Sequence[Row], key: str) -> bool:
    """Return whether a value differs within a row, but not among runs of one seed and fold.

    So do digests of drawn data, and sizes of folds.
    """
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
    """Return the varying keys that equal an averaged one, as `data.split_seed` does `seed`."""
    found = set()
    for key in varying_keys(configs):
        for name in averaged:
            both = {key, name}
            are_equal = all(
                both <= config.keys() and config[key] == config[name] for config in configs
            )
            if name != key and are_equal:
                found.add(key)
    return found


def read_sweep(directory: Path) -> dict[str, Any]:
    """Return what a report needs of a sweep, from `sweep.json`.

    Returns:
        `average_over`, the keys to average over; `excluded`, the settings that looks of
        `sweep.seeds=auto` have excluded, by name.

    Raises:
        UserError: The file is damaged.
    """
    path = directory / "sweep.json"
    found = read_json(path, {})
    if isinstance(found, dict):
        sweep = {"average_over": AVERAGED, "excluded": [], **found}
        if is_of(sweep["average_over"], list) and is_of(sweep["excluded"], list):
            return sweep
    raise UserError(f"{path}: is no description of a sweep")


def plus_minus(rows: Sequence[Row]) -> str:
    """Return in words what stands behind the ± of settings."""
    return f"±: standard deviation of a setting's runs, over {_varied(rows)}."


def _varied(rows: Sequence[Row]) -> str:
    """Return the averaged keys that vary among runs, in words."""
    values = []
    for record in records_of(rows):
        values.append({key: record.config.get(key) for key in rows[0].averaged})
    return " and ".join(varying_keys(values)) or "runs"


def contenders(
    rows: Sequence[Row], mode: str, look: Look = FIRST, excluded: Sequence[str] = ()
) -> Ranking:
    """Compare the first row that has enough runs with each other one that has, on each data set.

    Args:
        rows: Rows of a table, as `merge_rows` returns them.
        mode: `min` or `max`, the better direction.
        look: The look at the table.
        excluded: Names of settings that an earlier look has excluded.
    """
    parts = by_data(rows)
    like_best: list[bool | None] = []
    remarks: list[str] = []
    if len(parts) > 1:
        keys = " and ".join(assign_data(rows))
        remarks.append(f"Rows of different data are not compared: they differ in {keys}.")
    for part in parts:
        of_part = [*part.values()]
        number = None
        if len(parts) > 1:
            number = min(part) + 1
        found = rank_settings(groups_of(of_part), mode, look, excluded, number)
        like_best += found.like_best
        remarks += found.remarks
        if any(like is not None for like in found.like_best):
            remarks += assumptions(of_part, look)
    return Ranking([], like_best, [*dict.fromkeys(remarks)])


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
    look = count_look(folder, "summary", settings_by_data(rows))
    return contenders(rows, mode, look, excluded)


def over_data_sets(rows: Sequence[Row], mode: str, folder: Path | None) -> RankingOverSets:
    """Rank settings over the data sets of a table, and count this as a look at them.

    Args:
        rows: As in `contenders`.
        mode: As in `contenders`.
        folder: As in `count_look`.
    """
    sets: dict[Hashable, dict[str, Group]] = {}
    for number, part in enumerate(by_data(rows)):
        sets[number] = {}
        for row in part.values():
            sets[number][_name_beside_data(row, rows)] = row.setting
    look = count_look(folder, "over data", settings_by_data(rows), min_values=1)
    return rank_groups_over_sets(sets, mode, look.number, look.planned)


def _name_beside_data(row: Row, rows: Sequence[Row]) -> str:
    """Return a row's choices as text, without those of the data."""
    parts = []
    for key, value in row.choices.items():
        of_key = records_of([each for each in rows if key in each.choices])
        if key != "data" and not _is_data_key(key, of_key):
            parts.append(f"{key}={value}")
    return " ".join(parts)


def by_data(rows: Sequence[Row]) -> list[dict[int, Row]]:
    """Return the rows of each data set, by index, from rows as `merge_rows` returns them."""
    parts: dict[tuple[str, ...], dict[int, Row]] = {}
    for number, row in enumerate(rows):
        parts.setdefault(row.data, {})[number] = row
    return [*parts.values()]


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Return rows as `leyden.verdict` has them."""
    return [row.setting for row in rows]


def settings_by_data(rows: Sequence[Row]) -> list[list[Group]]:
    """Return the rows of each data set as `leyden.verdict` has them."""
    return [groups_of(part.values()) for part in by_data(rows)]


def assumptions(rows: Sequence[Row], look: Look) -> list[str]:
    """Return what the verdicts on rows hold for, beside the values' distribution.

    Args:
        rows: The compared rows.
        look: The look at them.
    """
    if any(row.setting.overlap for row in rows):
        remarks = ["The runs share training data, which widens this (Nadeau and Bengio, 2003)."]
    elif any(_draws_data(row) for row in rows):
        remarks = ["Each seed has data of its own, by their digests."]
    elif any(_splits_by_seed(row) for row in rows):
        remarks = ["Holds for this data set, over seeds and their splits."]
    else:
        remarks = [f"Holds for this data set and split, over {_varied(rows)}."]
    number = look.number
    if look.planned:
        remarks.append(
            f"Look {number} of {look.planned} planned ({PLAN_FILE}): it spends "
            f"{100 * look.level:.2g} % of the {100 * LEVEL:g} %."
        )
    elif number > 1:
        remarks.append(
            f"Look {number} at these settings ({LOOKS_FILE}): it spends {100 * look.level:.2g} % "
            f"of the {100 * LEVEL:g} % error rate."
        )
    return remarks


def tested_seeds(run: Run) -> list[str]:
    """Return a line if several seeds of a run's setting were evaluated on the test set."""
    outputs = evaluations_folder(run.directory)
    if outputs is None:
        return []
    own = str(run.directory)
    name = one_line(run.config.get("name", ""))
    places = {own: None}
    for cells in read_test_evaluations(outputs):
        if len(cells) == len(EVALUATIONS_HEADER) and cells[1] == name:
            places[cells[2]] = None
    records = []
    for place in places:
        with contextlib.suppress(UserError, OSError):  # it may be gone, or be a row of a sweep
            record = read_one(place)
            if record:
                records.append(record)
    compare_configs(records)
    for row in merge_rows(records, AVERAGED):
        seeds = {row.key(record) for record in row.records}
        is_own = any(record.directory == own for record in row.records)
        if is_own and len(seeds) > 1:
            return [f"{len(seeds)} seeds of this setting were tested: report their mean"]
    return []


def _splits_by_seed(row: Row) -> bool:
    varied = [record.varied for record in row.finished]
    return SPLIT_SEED in derived_keys(varied, row.averaged)

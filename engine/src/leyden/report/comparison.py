"""Comparison of two groups of runs: which is better, and with what confidence; as text or JSON."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leyden.config.checks import Objective
from leyden.config.errors import UserError
from leyden.config.table import json_text, print_table
from leyden.config.terminal import show, some_of
from leyden.report.held_out import check_metrics, test_set_remarks
from leyden.report.listing import select
from leyden.report.ranking import Row, assign_data, assumptions, count_look, merge_rows, plus_minus, read_sweep
from leyden.report.records import Record, aim_of, experiments, fill_choices, narrow, read_raw_records
from leyden.verdict.groups import Group
from leyden.verdict.tables import TableComparison, compare_settings


@dataclass(frozen=True)
class Comparison:
    """The comparison of two settings of runs or of a table.

    Args:
        found: The settings with the verdict.
        places: Further columns of the printed table, for both sides.
        runs: Run directories of both sides; empty for a table.
    """

    found: TableComparison
    places: Sequence[Mapping[str, str]] = ({}, {})
    runs: Sequence[Sequence[str]] = field(default=())


def compare(
    directories: Sequence[Path],
    conditions: Sequence[str],
    *,
    margin: float = 0.0,
    planned: bool = False,
    by: Objective | None = None,
) -> Comparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        conditions: Condition for each group, in the syntax of `parse_condition`; empty for all runs.
        margin: Largest difference that does not matter; 0 for none.
        planned: Whether the two groups were named before the results were seen.
        by: Another recorded metric that is compared; None for the runs' objective.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they have different objectives or data.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    records = [record for of in read.values() for record in of]
    if by:
        _judge(records, by)
    groups = _groups_of(read, directories, conditions)
    objective = _shared_objective(*groups)
    sides, rest = _rows_of(directories, groups, [each for each in records if aim_of(each) == objective])
    both = [row for side in sides for row in side]
    if keys := assign_data(both):
        raise UserError(
            f"runs of different data can't be compared; these differ in {' and '.join(keys)}: choose runs of one data "
            "set for both groups, by a= and b="
        )
    settings = [[row.setting for row in side] for side in sides]

    def compared(look: int) -> TableComparison:
        every = [*settings[0], *settings[1], *(row.setting for row in rest)]
        return compare_settings(every, settings, objective.mode, margin, planned, look)

    found = compared(1)
    best = [next(row for row in both if row.setting is setting) for setting in found.sides]
    if (look := _look(directories, conditions, found.sides, objective.metric)) > 1:
        found = compared(look)
    if any(setting.deviation for setting in found.sides):
        found.remarks.append(plus_minus(best))
    if found.found.interval:
        found.remarks.extend(assumptions(best, look))
    found.remarks.extend(test_set_remarks(experiments([record for row in both for record in row.records])))
    nums = [f"the best of {len(side)}" if len(side) > 1 else "" for side in sides]
    places = [
        {"runs": str(directory), "where": condition, "of": num}
        for directory, condition, num in zip(directories, conditions, nums, strict=True)
    ]
    runs = [[record.directory for record in row.finished] for row in best]
    return Comparison(replace(found, metric=objective.metric), places, runs)


def _judge(records: Sequence[Record], by: Objective) -> None:
    """Let another recorded metric be the objective of runs, with its value at the best checkpoint.

    Raises:
        UserError: It is of the test set, no run has it, or its better direction is missing.
    """
    check_metrics("metric", [by.metric], records)
    if not by.mode:
        raise UserError(f"metric={by.metric}: min or max is missing, as in metric={by.metric}:max")
    for record in records:
        record.objective = replace(by, value=record.result.metrics.get(by.metric) if record.result else None)


def _groups_of(
    read: Mapping[Path, Sequence[Record]], directories: Sequence[Path], conditions: Sequence[str]
) -> tuple[list[Record], list[Record]]:
    """Return the runs of each group.

    Raises:
        UserError: A group has none, or the groups share one.
    """
    both = []
    for directory, condition, option in zip(directories, conditions, "ab", strict=True):
        chosen, _ = select(read[directory], condition, option)
        if not chosen:
            raise UserError(f"{option}={condition}: no run matches this")
        both.append(chosen)
    paths = [{os.path.realpath(record.directory) for record in records} for records in both]
    if shared := sorted(paths[0] & paths[1]):
        raise UserError(f"{some_of(shared, 1)}: in both groups")
    return both[0], both[1]


def _shared_objective(*groups: Sequence[Record]) -> Objective:
    """Return the objective that all runs share.

    Raises:
        UserError: The runs have different objectives, or none.
    """
    aims = [{*map(aim_of, group)} for group in groups]
    if len(both := aims[0] | aims[1]) == 1 and (only := both.pop()):
        return only
    described = (" or ".join(sorted(f"{aim.metric} ({aim.mode})" if aim else "none" for aim in of)) for of in aims)
    raise UserError("A has the objective {}, B has {}: both must have the same one".format(*described))


def _rows_of(
    directories: Sequence[Path], groups: Sequence[Sequence[Record]], records: Sequence[Record]
) -> tuple[list[list[Row]], list[Row]]:
    """Return the finished settings of each group, and the others of the folders that have the groups' data.

    Args:
        directories: Folder of each group.
        groups: The runs of each group.
        records: All runs of the folders that have the groups' objective.

    Raises:
        UserError: A group has no finished run.
    """
    averaged = [*dict.fromkeys(key for directory in directories for key in read_sweep(directory)["average_over"])]
    narrow(records)
    fill_choices(records)
    rows = merge_rows(records, averaged)

    def within(ids: Collection[int]) -> list[Row]:
        parts = (replace(row, records=[each for each in row.records if id(each) in ids]) for row in rows)
        return [row for row in parts if row.finished]

    known = [{*map(id, group)} for group in groups]
    sides = [within(ids) for ids in known]
    for directory, group, side in zip(directories, groups, sides, strict=True):
        if not side:
            raise UserError(f"{directory}: none of {len(group)} runs has finished with a value of its objective")
    rest = within({*map(id, records)} - known[0] - known[1])
    return sides, [row for row in rest if row.data == sides[0][0].data]


def _look(directories: Sequence[Path], conditions: Sequence[str], settings: Sequence[Group], metric: str) -> int:
    """Return the number of this look at the comparison, recorded in the first folder by name.

    The comparison is named by the metric, the folders, the settings, and the conditions, however these are spaced.
    """
    folders = [directory.resolve() for directory in directories]
    names = sorted(
        f"{folder.name} {setting.name} {''.join(condition.replace('==', '=').split())}"
        for folder, setting, condition in zip(folders, settings, conditions, strict=True)
    )
    folder = min(folders, key=lambda path: path.name)
    return count_look(folder, f"{metric} {' and '.join(names)}", [settings])


def print_comparisons(comparisons: Sequence[Comparison], form: str) -> None:
    """Print comparisons, one per metric, as `table` or `json`."""
    if form == "json":
        contents = [*map(_json_content, comparisons)]
        print(json_text(contents if len(contents) > 1 else contents[0]))
        return
    for number, each in enumerate(comparisons):
        rows = [
            {"name": name, **place, "setting": side.name, each.found.metric: side.measured, "n": side.count}
            for name, place, side in zip("AB", each.places, each.found.sides, strict=True)
        ]
        columns = [key for key in rows[0] if any(row[key] for row in rows)]
        if number:
            show("")
        print_table(rows, columns, names={"name": "", "of": ""})
        show("\n".join(each.found.lines))


def _json_content(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary for JSON output."""
    compared, found = comparison.found, comparison.found.found
    sides = {name: setting_content(side) for name, side in zip("ab", compared.sides, strict=True)}
    for side, runs in zip(sides.values(), comparison.runs, strict=False):
        side["runs"] = runs
    words = {"confidence": 1 - found.level, "verdict": found.in_words("a", "b"), "remarks": compared.remarks}
    return {"metric": compared.metric, **sides, **vars(found), **words}


def setting_content(setting: Group) -> dict[str, Any]:
    """Return a setting as a dictionary for JSON output."""
    num = len(setting.values)
    return {"choices": setting.choices, "mean": setting.mean if num else None, "n": num, "lost": setting.lost}

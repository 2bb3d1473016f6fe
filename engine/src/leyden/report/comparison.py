"""Comparison of two groups of runs: which is better, with what confidence, and what differs; as text or JSON."""

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leyden.config.checks import Objective
from leyden.config.errors import UserError
from leyden.config.table import cell_text, json_text, print_table
from leyden.config.terminal import show
from leyden.config.values import ABSENT, differing
from leyden.report.difference import difference_rows, print_differences
from leyden.report.held_out import check_metrics, test_set_remarks
from leyden.report.listing import select
from leyden.report.ranking import (
    Row,
    assign_data,
    assumptions,
    count_failures,
    count_look,
    derived_keys,
    merge_rows,
    plus_minus,
    read_sweep_settings,
)
from leyden.report.records import Record, aim_of, fill_choices, narrow, read_raw_records, varying_keys
from leyden.verdict.tables import Setting, TableComparison, compare_settings


@dataclass
class Side:
    """A side of a comparison: a group of runs, represented by its best setting.

    Args:
        directory: Folder with the runs in or below it.
        condition: Condition that the runs meet; empty for all.
        rows: The settings that have finished runs.
        averaged: Keys that the mean is taken over.
        row: The best setting.
    """

    directory: Path
    condition: str
    rows: list[Row]
    averaged: list[str]
    row: Row


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Args:
        compared: The best setting of each group, with the verdict.
        objective: The objective.
        sides: The groups.
        averaged: Keys that vary among the runs and that the means are taken over.
        remarks: What the verdict assumes.
        configs: Flat configuration of each side, without keys that vary within a side.
        test_evaluations: Remarks on the runs' test evaluations.
    """

    compared: TableComparison
    objective: Objective
    sides: Sequence[Side]
    averaged: list[str]
    remarks: list[str]
    configs: tuple[dict[str, Any], ...]
    test_evaluations: list[str]


def compare(
    directories: Sequence[Path],
    conditions: Sequence[str],
    failed: str = "drop",
    *,
    margin: float = 0.0,
    planned: bool = False,
    by: Objective | None = None,
) -> Comparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        conditions: Condition for each group, in the syntax of `parse_condition`; empty for all runs.
        failed: `drop` to leave failed runs out, `worst` to give them the worst value of all runs.
        margin: Largest difference that does not matter; 0 for none.
        planned: Whether the two groups were named before the results were seen.
        by: Another recorded metric that is compared; None for the runs' objective.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they have different objectives or data.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    records = [record for of in read.values() for record in of]
    asked = (
        by.metric if by and by.metric not in {each.objective and each.objective.metric for each in records} else ""
    )
    if by:
        _judge(records, by)
    groups = _groups_of(read, directories, conditions)
    objective = _shared_objective(*groups)
    narrow(records)
    if failed == "worst":
        count_failures([*groups[0], *groups[1]])
    sides = [_side(*each) for each in zip(directories, conditions, groups, strict=True)]
    averaged = [*dict.fromkeys(key for side in sides for key in side.averaged)]
    rows = [row for side in sides for row in side.rows]
    if keys := assign_data(rows, averaged):
        raise UserError(
            f"runs of different data can't be compared; these differ in {' and '.join(keys)}: choose runs of one data "
            "set for both groups, by a= and b="
        )
    varied = varying_keys(
        [{key: each.config[key] for key in averaged if key in each.config} for row in rows for each in row.finished]
    )
    rows += _other_rows(records, groups, objective, rows[0], averaged)
    settings = {id(row): row.setting(varied) for row in rows}

    compared = functools.partial(
        compare_settings,
        [*settings.values()],
        [[settings[id(row)] for row in side.rows] for side in sides],
        objective.metric,
        objective.mode,
        margin=margin,
        planned=planned,
        paired_by=" and ".join(varied),
    )
    found = compared()
    for side, setting in zip(sides, found.sides, strict=True):
        side.row = next(row for row in side.rows if settings[id(row)] is setting)
    if (look := _look(sides, found.sides, asked)) > 1:
        found = compared(look=look)
    return Comparison(
        compared=found,
        objective=objective,
        sides=sides,
        averaged=varied,
        remarks=assumptions([side.row for side in sides], varied, look) if found.found.interval else [],
        configs=_common_configs(sides),
        test_evaluations=test_set_remarks([record for side in sides for record in side.row.records]),
    )


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
        raise UserError(
            f"{shared[0]}: is in both groups, like {len(shared)} of {len(paths[0] | paths[1])} runs in all"
        )
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


def _side(directory: Path, condition: str, records: Sequence[Record]) -> Side:
    """Return the settings of a group of runs, as a side.

    Raises:
        UserError: No run has finished.
    """
    fill_choices(records)
    _, averaged = read_sweep_settings(directory)
    if not (rows := [row for row in merge_rows(records, averaged) if row.finished]):
        raise UserError(f"{directory}: none of {len(records)} runs has finished with a value of its objective")
    return Side(directory, condition, rows, averaged, rows[0])


def _other_rows(
    records: Sequence[Record],
    groups: Sequence[Sequence[Record]],
    objective: Objective,
    like: Row,
    averaged: list[str],
) -> list[Row]:
    """Return the finished settings of the folders that are on no side, and have the sides' data and objective."""
    known = {id(record) for group in groups for record in group}
    others = [record for record in records if id(record) not in known and aim_of(record) == objective]
    if not others:
        return []
    fill_choices(others)
    rows = [row for row in merge_rows(others, averaged) if row.finished]
    assign_data([like, *rows], averaged)
    return [row for row in rows if row.data == like.data]


def _look(sides: Sequence[Side], settings: Sequence[Setting], metric: str) -> int:
    """Return the number of this look at the comparison, recorded in the first folder by name.

    The comparison is named by the folders, the settings, the conditions, however these are spaced, and the metric that
    was asked for, if it is not the objective.
    """
    names = sorted(
        f"{side.directory.resolve().name} {side.row.choices} {''.join(side.condition.replace('==', '=').split())}"
        for side in sides
    )
    folder = min((side.directory.resolve() for side in sides), key=lambda path: path.name)
    return count_look(folder, f"{metric} {' and '.join(names)}".lstrip(), [settings])


def _common_configs(sides: Sequence[Side]) -> tuple[dict[str, Any], ...]:
    """Return each side's configuration, without keys that vary within a side or derive from averaged keys."""
    configs = [[record.config for record in side.row.finished] for side in sides]
    averaged = {key for side in sides for key in side.averaged}
    excluded = {key for of_side in configs for key in varying_keys(of_side)} | averaged
    excluded |= derived_keys([config for of_side in configs for config in of_side], [*averaged])
    return tuple({key: value for key, value in of_side[0].items() if key not in excluded} for of_side in configs)


def print_comparisons(found: Sequence[Comparison | TableComparison], form: str) -> None:
    """Print comparisons, one per metric, as `table` or `json`."""
    if form == "json":
        contents = [
            comparison_content(each) if isinstance(each, TableComparison) else _json_content(each) for each in found
        ]
        print(json_text(contents if len(contents) > 1 else contents[0]))
        return
    for number, each in enumerate(found):
        if number:
            show("")
        if isinstance(each, TableComparison):
            show(str(each))
        else:
            _print_comparison(each)


def _print_comparison(comparison: Comparison) -> None:
    """Print a comparison of runs."""
    sides, found, names = comparison.sides, comparison.compared, {"name": "", "a": "A", "b": "B"}
    rows: dict[str, Sequence[str]] = {
        "runs": [str(side.directory) for side in sides],
        "where": [side.condition for side in sides],
        "setting": [_setting_text(side) for side in sides],
        found.metric: [setting.measured for setting in found.sides],
        "n": [setting.count for setting in found.sides],
    }
    print_table([{"name": name, "a": a, "b": b} for name, (a, b) in rows.items() if a or b], names=names)
    if max(found.found.nums) > 1:
        show(plus_minus([record for side in sides for record in side.row.finished], comparison.averaged))
    show("\n".join(["", *found.lines, *comparison.remarks, ""]))
    if differences := difference_rows("configuration", *comparison.configs):
        print_differences(differences, "A", "B")
    else:
        aside = f", apart from {' and '.join(comparison.averaged)}" if comparison.averaged else ""
        show(f"Nothing differs in the configuration{aside}.")
    if comparison.test_evaluations:
        show("\n".join(["", *comparison.test_evaluations]))


def _setting_text(side: Side) -> str:
    """Return the overrides of a side's setting; empty if the group has only one setting."""
    chosen = " ".join(f"{key}={cell_text(value)}" for key, value in side.row.choices.items())
    return f"{chosen} (the best of {len(side.rows)})" if len(side.rows) > 1 else ""


def _json_content(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary for JSON output."""
    content = comparison_content(comparison.compared)
    for name, side in zip("ab", comparison.sides, strict=True):
        content[name] |= {
            "directory": str(side.directory),
            "condition": side.condition,
            "num_settings": len(side.rows),
            "runs": [record.directory for record in side.row.finished],
        }
    return content | {
        "objective": {"metric": comparison.objective.metric, "mode": comparison.objective.mode},
        "remarks": [*content["remarks"], *comparison.remarks],
        "test_evaluations": comparison.test_evaluations,
        "differs": {
            key: {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
            for key, pair in differing(*comparison.configs).items()
        },
    }


def comparison_content(compared: TableComparison) -> dict[str, Any]:
    """Return the comparison of two settings as a dictionary for JSON output."""
    found = compared.found
    return {
        "metric": compared.metric,
        **{name: setting_content(side) for name, side in zip("ab", compared.sides, strict=True)},
        "difference": found.difference,
        "interval": found.interval,
        "confidence": 1 - found.level,
        "num_pairs": found.num_pairs,
        "detectable": found.detectable() if found.interval else None,
        "better": found.better or None,
        "is_same": found.is_same,
        "verdict": found.in_words("a", "b"),
        "remarks": compared.remarks,
    }


def setting_content(setting: Setting) -> dict[str, Any]:
    """Return a setting as a dictionary for JSON output."""
    num = len(setting.group.values)
    return {"choices": setting.choices, "mean": setting.mean if num else None, "n": num, "lost": setting.lost}

"""Verdicts that `compare` prints of two groups of runs, and fronts of runs."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from leyden import verdict
from leyden.base.errors import UserError
from leyden.base.terminal import some_of
from leyden.config.checks import Objective
from leyden.report.listing import select
from leyden.report.looks import count_look
from leyden.report.ranking import (
    Row,
    assign_data,
    assumptions,
    merge_rows,
    plus_minus,
    read_sweep,
    records_of,
)
from leyden.report.records import (
    NOT_OF_OWNER,
    Record,
    aim_of,
    are_own,
    compare_configs,
    read_raw_records,
    read_records,
    refuse_test_metrics,
    test_set_remarks,
    threads_remark,
)
from leyden.report.tables import (
    OF_TABLES,
    Comparison,
    compact,
    directions_of,
    print_front,
    refuse_options,
)
from leyden.verdict.comparison import (
    ControlComparison,
    Question,
    TableComparison,
    compare_settings,
    control_settings,
)
from leyden.verdict.difference import LEVEL, look_level
from leyden.verdict.groups import Group

SPENT = f"{100 * look_level(1):.3g} % of the {100 * LEVEL:g} % error rate"
FIRST_LOOK_TEXT = f"The first look spends {SPENT}, hence not 95 %; later looks have the rest."


def compare_folders(
    folders: Sequence[Path], options: Mapping[str, str], asked: Question
) -> Comparison:
    """Return the comparison of two groups of runs, or of each setting with a control.

    Args:
        folders: One or two folders with runs.
        options: Those of the command, with one metric.
        asked: As in `compare_runs`.

    Raises:
        UserError: An option has no effect, or as in `compare_runs`.
    """
    refuse_options(options, {**OF_TABLES, "over": ""})
    if options["control"] and len(folders) == 1:
        return compare_runs_with_control(folders[0], options["control"], options)
    is_chosen = options["a"] and options["b"]
    if not folders or (len(folders) == 1 and not is_chosen):
        ways = "two folders, or one with a=CONDITION and b=CONDITION, or with control=CONDITION"
        raise UserError(f"two groups are needed: {ways}")
    return compare_runs([folders[0], folders[-1]], options, asked)


def compare_runs(
    directories: Sequence[Path], options: Mapping[str, str], asked: Question
) -> TableComparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        options: The conditions `a` and `b`, in the syntax of `parse_condition`, empty for all runs; and `metric` and
            `mode` of another recorded metric that is compared, empty for the runs' objective.
        asked: What is asked of the two, at the first look; the mode is that of the metric.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they have different objectives or data.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    records = [record for of_folder in read.values() for record in of_folder]
    if options["metric"] or options["mode"]:
        _judge(records, options["metric"], options["mode"])
    group_a = _group(read[directories[0]], options["a"], "a")
    group_b = _group(read[directories[1]], options["b"], "b")
    _refuse_shared_runs(group_a, group_b)
    objective = _shared_objective(group_a, group_b)
    alike = [each for each in records if aim_of(each) == objective]
    sides, rest = _rows_of(directories, [group_a, group_b], alike)
    both = [*sides[0], *sides[1]]
    keys = assign_data(both)
    if keys:
        why = f"runs of different data can't be compared; these differ in {' and '.join(keys)}"
        raise UserError(f"{why}: choose runs of one data set for both groups, by a= and b=")
    settings = [_settings_of(side) for side in sides]
    every = _settings_of([*both, *rest])
    question = replace(asked, mode=objective.mode, look=1)
    found = compare_settings(every, settings, question)
    best = [row for setting in found.sides for row in both if row.setting is setting]
    conditions = [options["a"], options["b"]]
    own = _first_own(read)
    look = _look(own, directories, conditions, found.sides, objective.metric)
    if look > 1:
        found = compare_settings(every, settings, replace(question, look=look))
    if own is None:
        found.remarks.append(NOT_OF_OWNER)
    found.remarks.extend(_remarks_on_runs(found, best, look))
    found.remarks.extend(test_set_remarks(records_of(both)))
    return replace(found, metric=objective.metric)


def _refuse_shared_runs(a: Sequence[Record], b: Sequence[Record]) -> None:
    """Raise a `UserError` if two groups share a run."""
    shared = sorted(_paths_of(a) & _paths_of(b))
    if shared:
        raise UserError(f"{some_of(shared, 1)}: in both groups")


def _paths_of(records: Sequence[Record]) -> set[str]:
    return {os.path.realpath(record.directory) for record in records}


def _first_own(read: Mapping[Path, Sequence[Record]]) -> Path | None:
    """Return the first of one's own folders, by name, in which a look is counted; None if none is."""
    own = [directory for directory, records in read.items() if are_own(records)]
    return min(own, key=lambda directory: directory.resolve().name, default=None)


def _remarks_on_runs(found: TableComparison, best: Sequence[Row], look: int) -> list[str]:
    """Return remarks that need the runs of both sides, and not their values alone."""
    remarks = []
    if any(setting.deviation for setting in found.sides):
        remarks.append(plus_minus(best))
    if found.found.interval:
        if look == 1:  # of a later one, `assumptions` says it
            remarks.append(FIRST_LOOK_TEXT)
        remarks += assumptions(best, look)
    remarks += threads_remark(record.threads for row in best for record in row.finished)
    return remarks


def _settings_of(rows: Sequence[Row]) -> list[Group]:
    return [row.setting for row in rows]


def _judge(records: Sequence[Record], metric: str, mode: str) -> None:
    """Let another recorded metric be the objective of runs, with its value at the best checkpoint.

    Raises:
        UserError: It is of the test set, no run has it, or its better direction is missing.
    """
    _check_metrics("metric", [metric], records)
    if mode not in ("min", "max"):
        raise UserError(f"mode={mode}: must be min or max, as in metric={metric}:max")
    for record in records:
        value = record.result.metrics.get(metric) if record.result else None
        record.objective = Objective(metric, mode, value)


def _check_metrics(option: str, metrics: Collection[str], records: Sequence[Record]) -> None:
    """Raise a `UserError` if a metric is of the test set, or no run has it."""
    refuse_test_metrics(option, metrics, records)
    known: set[str] = set()
    for record in records:
        if record.result:
            of_test = record.result.stages.get("test", ())
            known.update({*record.result.metrics}.difference(of_test))
    for metric in metrics:
        if metric not in known:
            there_are = ", ".join(sorted(known)) or "none"
            raise UserError(f"{option}={metric}: no run has this metric; there are {there_are}")


def _group(records: Sequence[Record], condition: str, option: str) -> list[Record]:
    """Return the runs of a group.

    Raises:
        UserError: There is none.
    """
    chosen, _ = select(records, condition, option)
    if not chosen:
        raise UserError(f"{option}={condition}: no run matches this")
    return chosen


def _shared_objective(*groups: Sequence[Record]) -> Objective:
    """Return the objective that all runs share.

    Raises:
        UserError: The runs have different objectives, or none.
    """
    aims = {aim_of(record) for group in groups for record in group}
    names = set()
    for aim in aims:
        if aim and len(aims) == 1:
            return aim
        names.add(f"{aim.metric} ({aim.mode})" if aim else "none")
    have = f"the runs have the objective {' or '.join(sorted(names))}"
    raise UserError(f"{have}; metric= and mode= name one for all")


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
    averaged: dict[str, None] = {}
    for directory in directories:
        averaged |= dict.fromkeys(read_sweep(directory)["average_over"])
    compare_configs(records)
    rows = merge_rows(records, [*averaged])
    known = [{*map(id, group)} for group in groups]
    sides = [_finished_within(rows, ids) for ids in known]
    for directory, group, side in zip(directories, groups, sides, strict=True):
        if not side:
            raise UserError(_none_finished(directory, group))
    others = {id(record) for record in records}.difference(*known)
    rest = _finished_within(rows, others)
    return sides, [row for row in rest if row.data == sides[0][0].data]


def _finished_within(rows: Sequence[Row], ids: Collection[int]) -> list[Row]:
    """Return the part of rows whose runs are among these, by `id`, and that have finished ones."""
    found = []
    for row in rows:
        kept = [each for each in row.records if id(each) in ids]
        part = replace(row, records=kept)
        if part.finished:
            found.append(part)
    return found


def _none_finished(directory: Path, records: Sequence[Record]) -> str:
    none = f"none of {len(records)} runs has finished with a value of its objective"
    return f"{directory}: {none}"


def _look(
    folder: Path | None,
    directories: Sequence[Path],
    conditions: Sequence[str],
    settings: Sequence[Group],
    metric: str,
) -> int:
    """Return the number of this look at the comparison, recorded in a folder.

    The comparison is named by the metric, the folders, the settings, and the conditions, however these are spaced.
    """
    names = []
    for directory, setting, condition in zip(directories, settings, conditions, strict=True):
        names.append(f"{directory.resolve().name} {setting.name} {compact(condition)}")
    names.sort()
    return count_look(folder, f"{metric} {' and '.join(names)}", [settings])


def compare_runs_with_control(
    directory: Path, control: str, options: Mapping[str, str]
) -> ControlComparison:
    """Compare each setting of a folder's runs with one of them.

    Args:
        directory: The folder.
        control: Condition that the runs of the control meet, in the syntax of `parse_condition`.
        options: `metric` and `mode`, as in `compare_runs`.

    Raises:
        UserError: The control has no finished run or is several settings, or as in `compare_runs`.
    """
    records = read_raw_records(directory)
    if options["metric"] or options["mode"]:
        _judge(records, options["metric"], options["mode"])
    group = _group(records, control, "control")
    objective = _shared_objective(group)
    alike = [record for record in records if aim_of(record) == objective]
    sides, rest = _rows_of([directory], [group], alike)
    if len(sides[0]) > 1:
        two = " and ".join(row.setting.name for row in sides[0][:2])
        raise UserError(f"control={control}: must be one setting, not {two}")
    row = sides[0][0]
    settings = _settings_of([row, *rest])
    folder = directory if are_own(records) else None
    name = f"{objective.metric} control {compact(control)}"
    look = count_look(folder, name, [settings])
    found = control_settings(settings, row.setting, objective.mode, look)
    found.remarks.extend(assumptions([row, *rest], look))
    if folder is None:
        found.remarks.append(NOT_OF_OWNER)
    found.remarks.extend(test_set_remarks(records_of([row, *rest])))
    return replace(found, metric=objective.metric)


def show_front(directory: Path, options: Mapping[str, str]) -> None:
    """Print the settings of runs that no other one beats by the means of several metrics.

    Args:
        directory: A folder with runs.
        options: `front`, such as `val/acc:max,num_parameters:min`, and `format`.

    Raises:
        UserError: A direction is missing, no run has one of the metrics, none has finished, or their data differ.
    """
    metrics = directions_of(options)
    refuse_options(options, OF_TABLES)
    rows = _rows_of_front(directory, metrics)
    print_front(verdict.front(rows, metrics, ignore=[]), metrics, options["format"])


def _rows_of_front(directory: Path, metrics: Collection[str]) -> list[dict[str, Any]]:
    """Return choices and metrics of each finished run, but of those that repeat each other one.

    Raises:
        UserError: As in `show_front`.
    """
    records = read_records(directory)
    _check_metrics("front", metrics, records)
    merged = merge_rows(records, read_sweep(directory)["average_over"])
    rows = [row for row in merged if row.finished]
    if not rows:
        raise UserError(_none_finished(directory, records))
    keys = assign_data(rows)
    if keys:
        one = "name a folder with runs of one data set"
        raise UserError(f"front: the runs' data differ in {' and '.join(keys)}; {one}")
    found = []
    for row in rows:
        for record in row.distinct:
            if record.result:
                known = record.result.metrics
                values = {name: known.get(name) for name in metrics}
                found.append({**row.choices, **values})
    return found

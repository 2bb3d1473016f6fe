"""Verdicts that `compare` prints: of two groups of runs, or of settings and a control; fronts."""

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
from leyden.report.looks import at_its_look
from leyden.report.ranking import (
    Row,
    assign_data,
    assumptions,
    groups_of,
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
    metrics_of_test,
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
from leyden.verdict.comparison import Question, TableComparison, compare_settings, control_settings
from leyden.verdict.difference import LEVEL, Look

SPENT = "An interval of the first look has {:.4g} %, as later looks need the rest of the {:g} %."


def compare_folders(
    folders: Sequence[Path], options: Mapping[str, str], asked: Question
) -> Comparison:
    """Return the comparison of two groups of runs, or of each setting with a control.

    A group with several settings is represented by its best one.

    Args:
        folders: One or two folders with runs.
        options: The conditions `a` and `b`, or `control`, in the syntax of `parse_condition`, empty
            for all runs; and `metric` and `mode` of another recorded metric that is compared, empty
            for the runs' objective.
        asked: What is asked of the two, at the first look; the mode is that of the metric.

    Raises:
        UserError: An option has no effect, a group has no finished run, the groups share a run, or
            they have different objectives or data.
    """
    refuse_options(options, {**OF_TABLES, "over": ""})
    names = ["a", "b"]
    if options["control"] and len(folders) == 1:
        names = ["control"]
    elif not folders or (len(folders) == 1 and not (options["a"] and options["b"])):
        raise UserError(
            "two groups are needed: two folders, or one with a=CONDITION and b=CONDITION, or "
            "with control=CONDITION"
        )
    places = dict(zip(names, [folders[0], folders[-1]], strict=False))
    directories = dict.fromkeys(places.values())  # both groups may be of one folder, read once
    read = {directory: read_raw_records(directory) for directory in directories}
    records = [record for of_folder in read.values() for record in of_folder]
    if options["metric"] or options["mode"]:
        _judge(records, options["metric"], options["mode"])
    groups = [_group(read[place], options[name], name) for name, place in places.items()]
    if len(groups) == 2:
        _refuse_shared_runs(*groups)
    objective = _shared_objective(*groups)
    alike = [record for record in records if aim_of(record) == objective]
    sides, rest = _rows_of([*places.values()], groups, alike)
    own = _first_own(read)
    found: TableComparison | verdict.ControlComparison
    if len(sides) == 2:
        asked = replace(asked, mode=objective.mode)
        conditions = [options[name] for name in names]
        found = _compare_sides(sides, rest, asked, own, [*places.values()], conditions, objective)
        compared = [*sides[0], *sides[1]]
    else:
        found = _compare_with_control(sides[0], rest, options["control"], own, objective)
        compared = [*sides[0], *rest]
    if own is None:
        found.remarks.append(NOT_OF_OWNER)
    found.remarks.extend(test_set_remarks(records_of(compared)))
    return replace(found, metric=objective.metric)


def _compare_sides(
    sides: Sequence[Sequence[Row]],
    rest: Sequence[Row],
    asked: Question,
    own: Path | None,
    directories: Sequence[Path],
    conditions: Sequence[str],
    objective: Objective,
) -> TableComparison:
    """Return the comparison of the best row of each side.

    Args:
        sides: The rows of each side.
        rest: Other rows of the same data.
        asked: What is asked, at the first look.
        own: Folder in which the look is counted; None if none is one's own.
        directories: Folder of each side.
        conditions: Condition of each side.
        objective: What is compared.
    """
    both = [*sides[0], *sides[1]]
    keys = assign_data(both)
    if keys:
        raise UserError(
            f"runs of different data can't be compared; these differ in {' and '.join(keys)}: "
            "choose runs of one data set for both groups, by a= and b="
        )
    of_sides = [groups_of(side) for side in sides]
    every = groups_of([*both, *rest])

    def name(found: TableComparison) -> str:
        """Return the metric, folders, settings and conditions, however these are spaced."""
        names = []
        for directory, setting, typed in zip(directories, found.sides, conditions, strict=True):
            names.append(f"{directory.resolve().name} {setting.name} {compact(typed)}")
        return f"{objective.metric} {' and '.join(sorted(names))}"

    def ask(look: Look) -> TableComparison:
        return compare_settings(every, of_sides, replace(asked, look=look))

    found, look = at_its_look(own, name, ask)
    best = [row for setting in found.sides for row in both if row.setting is setting]
    if any(setting.deviation for setting in found.sides):
        found.remarks.append(plus_minus(best))
    if found.found.interval:
        if look.number == 1:  # of a later one, `assumptions` says it
            found.remarks.append(SPENT.format(100 * (1 - look.level), 100 * LEVEL))
        found.remarks.extend(assumptions(best, look))
    finished = [record for row in best for record in row.finished]
    found.remarks.extend(threads_remark(record.threads for record in finished))
    return found


def _compare_with_control(
    side: Sequence[Row],
    rest: Sequence[Row],
    control: str,
    own: Path | None,
    objective: Objective,
) -> verdict.ControlComparison:
    """Return the comparison of each row with a control.

    Raises:
        UserError: The control is several settings.
    """
    if len(side) > 1:
        two = " and ".join(row.setting.name for row in side[:2])
        raise UserError(f"control={control}: must be one setting, not {two}")
    rows = [*side, *rest]
    name = f"{objective.metric} control {compact(control)}"

    def ask(look: Look) -> verdict.ControlComparison:
        return control_settings(groups_of(rows), side[0].setting, objective.mode, look)

    found, look = at_its_look(own, lambda _: name, ask)
    found.remarks.extend(assumptions(rows, look))
    return found


def _refuse_shared_runs(a: Sequence[Record], b: Sequence[Record]) -> None:
    """Raise a `UserError` if two groups share a run."""
    shared = sorted(_paths_of(a) & _paths_of(b))
    if shared:
        raise UserError(f"{some_of(shared, 1)}: in both groups")


def _paths_of(records: Sequence[Record]) -> set[str]:
    return {os.path.realpath(record.directory) for record in records}


def _first_own(read: Mapping[Path, Sequence[Record]]) -> Path | None:
    """Return the first of one's own folders, by name, where a look is counted; None without one."""
    own = [directory for directory, records in read.items() if are_own(records)]
    return min(own, key=lambda directory: directory.resolve().name, default=None)


def _judge(records: Sequence[Record], metric: str, mode: str) -> None:
    """Let another recorded metric be the objective of runs, with its value at the best checkpoint.

    Raises:
        UserError: It is of the test set, no run has it, or its better direction is missing.
    """
    _check_metrics("metric", [metric], records)
    if mode not in ("min", "max"):
        raise UserError(f"mode={mode}: must be min or max, as in metric={metric}:max")
    for record in records:
        value = None
        if record.result:
            value = record.result.metrics.get(metric)
        record.objective = Objective(metric, mode, value)


def _check_metrics(option: str, metrics: Collection[str], records: Sequence[Record]) -> None:
    """Raise a `UserError` if a metric is of the test set, or no run has it."""
    refuse_test_metrics(option, metrics, records)
    known: set[str] = set()
    for record in records:
        if record.result:
            known.update(record.result.metrics)
    known -= metrics_of_test(records)
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
    raise UserError(
        f"the runs have the objective {' or '.join(sorted(names))}; metric= and mode= name one "
        "for all"
    )


def _rows_of(
    directories: Sequence[Path], groups: Sequence[Sequence[Record]], records: Sequence[Record]
) -> tuple[list[list[Row]], list[Row]]:
    """Return the finished settings of each group, and the others that have the groups' data.

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
    others = {*map(id, records)}
    sides = []
    for directory, group in zip(directories, groups, strict=True):
        known = {*map(id, group)}
        others -= known
        sides.append(_finished_within(rows, known))
        if not sides[-1]:
            raise UserError(_none_finished(directory, group))
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
    return f"{directory}: none of {len(records)} runs has finished with a value of its objective"


def show_front(directory: Path, options: Mapping[str, str]) -> None:
    """Print the settings of runs that no other one beats by the means of several metrics.

    Runs that repeat another one don't count.

    Args:
        directory: A folder with runs.
        options: `front`, such as `val/acc:max,num_parameters:min`, and `format`.

    Raises:
        UserError: A direction is missing, no run has one of the metrics, none has finished, or
            their data differ.
    """
    metrics = directions_of(options)
    refuse_options(options, OF_TABLES)
    records = read_records(directory)
    _check_metrics("front", metrics, records)
    merged = merge_rows(records, read_sweep(directory)["average_over"])
    rows = [row for row in merged if row.finished]
    if not rows:
        raise UserError(_none_finished(directory, records))
    keys = assign_data(rows)
    if keys:
        raise UserError(
            f"front: the runs' data differ in {' and '.join(keys)}; name a folder with runs of "
            "one data set"
        )
    found: list[dict[str, Any]] = []
    for row in rows:
        for record in row.distinct:
            known = {}
            if record.result:
                known = record.result.metrics
            values = {name: known.get(name) for name in metrics}
            found.append({**row.choices, **values})
    print_front(verdict.front(found, metrics, ignore=[]), metrics, options["format"])

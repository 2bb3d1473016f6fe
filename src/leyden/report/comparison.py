"""Two groups of runs compared: which is better, how sure that is, and what differs between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.mistakes import UserError
from leyden.config.objective import Objective
from leyden.report.listing import values
from leyden.report.ranking import Row, described, following, merge, varied
from leyden.report.record import Record
from leyden.report.records import States, fill_choices, read_each
from leyden.report.tested import tested
from leyden.report.verdict import LEVEL, Group, Verdict, improvement, verdict
from leyden.report.where import check_known, parse


@dataclass(frozen=True)
class Side:
    """One of the two groups: the best setting of some runs.

    Args:
        directory: The runs are in or below it.
        condition: That they fulfil; empty for none.
        row: The setting with its runs.
        num_rows: How many settings there were.
        averaged: What the mean is over.
    """

    directory: Path
    condition: str
    row: Row
    num_rows: int
    averaged: list[str]


@dataclass(frozen=True)
class Comparison:
    """What came of it.

    Args:
        objective: By which they were compared.
        sides: The two groups.
        groups: What they have reached.
        averaged: What the means are over, where it varies.
        verdict: Which is better.
        improvement: The probability that a run of the first is better than one of the second.
        configs: Of each side, flat, without what varies within one of them.
        test_evaluations: Remarks on them.
    """

    objective: Objective
    sides: tuple[Side, Side]
    groups: tuple[Group, Group]
    averaged: list[str]
    verdict: Verdict
    improvement: float
    configs: tuple[dict[str, Any], ...]
    test_evaluations: list[str]


def compare(directories: Sequence[Path], conditions: Sequence[str], states: States) -> Comparison:
    """Compare two groups of runs; of a group with several settings the best one stands for it.

    Args:
        directories: Of the two groups; the same one twice, where conditions choose from it.
        conditions: As `where.parse` takes them; empty for all.
        states: Tells the state of jobs of a cluster.

    Raises:
        UserError: A group has no run that has finished, they share a run, or they have not the same one objective.
    """
    read = {directory: read_each(directory, states) for directory in dict.fromkeys(directories)}
    a, b = (
        _chosen(read[directory], condition, option)
        for directory, condition, option in zip(directories, conditions, "ab", strict=True)
    )
    paths = [{record.run.directory.resolve() for record in records} for records in (a, b)]
    if both := sorted(paths[0] & paths[1]):
        raise UserError(f"{both[0]}: is in both groups, as {len(both)} of {len(paths[0] | paths[1])} runs are")
    aim = _objective(a, b)
    sides = _side(directories[0], conditions[0], a), _side(directories[1], conditions[1], b)
    named = {key for side in sides for key in side.averaged}
    compared = [record.config for side in sides for record in side.row.finished]
    averaged = varied([{key: config[key] for key in named if key in config} for config in compared])
    groups = sides[0].row.group(averaged), sides[1].row.group(averaged)
    first, second = (list(group.values.values()) for group in groups)
    return Comparison(
        objective=aim,
        sides=sides,
        groups=groups,
        averaged=averaged,
        # As many comparisons could have been the one that is made: by Bonferroni's inequality.
        verdict=verdict(*groups, aim.mode, LEVEL / (sides[0].num_rows * sides[1].num_rows)),
        improvement=improvement(first, second, aim.mode),
        configs=_configs(*sides),
        test_evaluations=tested([record for side in sides for record in side.row.records]),
    )


def _configs(*sides: Side) -> tuple[dict[str, Any], ...]:
    """Of each side, without what varies within one of them, and what follows from what the means are over."""
    configs = [[record.config for record in side.row.finished] for side in sides]
    averaged = {key for side in sides for key in side.averaged}
    varying = {key for same in configs for key in varied(same)} | averaged
    varying |= following([config for same in configs for config in same], [*averaged])
    return tuple({key: value for key, value in same[0].items() if key not in varying} for same in configs)


def _chosen(records: Sequence[Record], condition: str, option: str) -> list[Record]:
    """Those that fulfil a condition.

    Raises:
        UserError: None does.
    """
    if not condition:
        return list(records)
    holds, keys = parse(condition, option)
    asked = [(record, values(record)) for record in records]
    check_known(option, keys, {key for _, own in asked for key in own})
    if chosen := [record for record, own in asked if holds(own)]:
        return chosen
    raise UserError(f"{option}={condition}: no run fulfils this")


def _objective(*groups: Sequence[Record]) -> Objective:
    """The one that all runs have.

    Raises:
        UserError: They have not, or have several.
    """
    aims = [{tuple((aim.metric, aim.mode) for aim in record.objectives) for record in group} for group in groups]
    if len(aims[0] | aims[1]) == 1 and len(only := next(iter(aims[0]))) == 1:
        return Objective(*only[0])
    said = (
        " or ".join(sorted(", ".join(f"{metric} ({mode})" for metric, mode in each) or "none" for each in group))
        for group in aims
    )
    raise UserError("A has the objective {}, B has {}: both must have the same one".format(*said))


def _side(directory: Path, condition: str, records: Sequence[Record]) -> Side:
    """The best setting of some runs.

    Raises:
        UserError: None has finished.
    """
    fill_choices(records)
    _, averaged = described(directory)
    rows = merge(records, averaged)
    if not rows[0].finished:
        raise UserError(f"{directory}: none of {len(records)} runs has finished with a value of its objective")
    return Side(directory, condition, rows[0], len(rows), averaged)

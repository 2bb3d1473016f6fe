"""Two groups of runs compared: which is better, how sure that is, what differs; as text or JSON."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.objective import Objective
from leyden.config.terminal import Terminal, text_table
from leyden.report.difference import add_rows, differing
from leyden.report.held_out import test_set_remarks
from leyden.report.listing import as_json, format_value, values
from leyden.report.query import check_known, parse
from leyden.report.ranking import Row, derived_keys, described, merge, standard_deviation, varied
from leyden.report.records import Record, fill_choices, read_each
from leyden.report.statistics import LEAST, LEVEL, Group, Verdict, improvement, verdict


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


def compare(directories: Sequence[Path], conditions: Sequence[str]) -> Comparison:
    """Compare two groups of runs; of a group with several settings the best one stands for it.

    Args:
        directories: Of the two groups; the same one twice, where conditions choose from it.
        conditions: As `where.parse` takes them; empty for all.

    Raises:
        UserError: A group has no run that has finished, they share a run, or they have not the same one objective.
    """
    read = {directory: read_each(directory) for directory in dict.fromkeys(directories)}
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
        test_evaluations=test_set_remarks([record for side in sides for record in side.row.records]),
    )


def _configs(*sides: Side) -> tuple[dict[str, Any], ...]:
    """Of each side, without what varies within one of them, and what follows from what the means are over."""
    configs = [[record.config for record in side.row.finished] for side in sides]
    averaged = {key for side in sides for key in side.averaged}
    varying = {key for same in configs for key in varied(same)} | averaged
    varying |= derived_keys([config for same in configs for config in same], [*averaged])
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


def print_comparison(comparison: Comparison, form: str) -> None:
    """Print it as `table` or `json`."""
    if form == "json":
        print(json.dumps(as_json(_for_programs(comparison)), indent=2))  # as ASCII: it steers no terminal
        return
    a, b = comparison.sides
    table = text_table("", "A", "B")
    table.add_row("runs", str(a.directory), str(b.directory))
    if a.condition or b.condition:
        table.add_row("where", a.condition, b.condition)
    if settings := {_setting(a), _setting(b)} - {""}:
        table.add_row("setting", _setting(a), _setting(b))
    table.add_row(comparison.objective.metric, *map(_reached, comparison.groups))
    table.add_row(
        "n", *(_num(side, group) for side, group in zip(comparison.sides, comparison.groups, strict=True))
    )
    console = Terminal()
    console.print(table)
    console.print("\n".join(["", *_lines(comparison)]))
    if settings:
        allowed = "; the interval allows for that" * (comparison.verdict.interval is not None)
        console.print(f"A best setting was chosen by these very values, which flatters it{allowed}.")
    table = text_table("", "", "A", "B")
    add_rows(table, "configuration", *comparison.configs)
    console.print("")
    aside = f", {' and '.join(comparison.averaged)} left aside" if comparison.averaged else ""
    console.print(table if table.row_count else f"Nothing differs in the configuration{aside}.")
    if comparison.test_evaluations:
        console.print("\n".join(["", *comparison.test_evaluations]))


def _setting(side: Side) -> str:
    """The choices of the best of several settings."""
    chosen = " ".join(f"{key}={format_value(value)}" for key, value in side.row.choices.items())
    return f"{chosen} (the best of {side.num_rows})" if side.num_rows > 1 else ""


def _reached(group: Group) -> str:
    spread = standard_deviation(values := list(group.values.values()))
    return f"{statistics.fmean(values):.4f}" + ("" if spread is None else f" ± {spread:.4f}")


def _num(side: Side, group: Group) -> str:
    """How many values there are, and what became of the other runs."""
    finished = side.row.finished
    others = [record.status for record in side.row.records if record not in finished]
    said = [f"{others.count(state)} {state}" for state in dict.fromkeys(others)]
    if len(finished) > len(group.values):
        said.append(f"of {len(finished)} runs, of which some repeat others")
    return f"{len(group.values)}" + (f" ({', '.join(said)})" if said else "")


def _lines(comparison: Comparison) -> list[str]:
    """The verdict, and what it rests on."""
    found = comparison.verdict
    lines = [f"Verdict: {found.in_words('A', 'B')}" + f", it takes {LEAST} of each" * (min(found.nums) < LEAST)]
    nums = [
        side.row.num_all(side.averaged) - len(group.values)
        for side, group in zip(comparison.sides, comparison.groups, strict=True)
    ]
    if any(nums):
        lines.append(f"Of the runs that finished alone: {nums[0]} of A and {nums[1]} of B did not")
    if found.interval:
        low, high = found.interval
        same = " and ".join(comparison.averaged)
        how = f"{found.num_pairs} pairs with the same {same}" if found.num_pairs else "not paired"
        lines.append(f"A - B: {found.difference:.4g}, {found.confidence} interval {low:.4g} to {high:.4g} ({how})")
        lines.append(f"Pairs of runs in which the one of A is better: {100 * comparison.improvement:.0f} %")
    if further := found.further_in_words("seeds of each"):
        lines.append(f"To tell them apart {further}, if means and deviations stay as they are")
    if any(group.overlap for group in comparison.groups):
        lines.append("Runs of folds share training data; this is allowed for (Nadeau and Bengio, 2003)")
    return lines


def _for_programs(comparison: Comparison) -> dict[str, Any]:
    found = comparison.verdict
    told = {}
    for name, side, group in zip("ab", comparison.sides, comparison.groups, strict=True):
        values = list(group.values.values())
        told[name] = {
            "directory": str(side.directory),
            "condition": side.condition,
            "choices": side.row.choices,
            "num_settings": side.num_rows,
            "n": len(values),
            "num_runs": side.row.num_all(side.averaged),
            "mean": statistics.fmean(values),
            "deviation": standard_deviation(values),
            "runs": [str(record.run.directory) for record in side.row.finished],
        }
    return {
        "objective": {"metric": comparison.objective.metric, "mode": comparison.objective.mode},
        **told,
        "difference": found.difference,
        "interval": list(found.interval) if found.interval else None,
        "confidence": 1 - found.level,
        "num_pairs": found.num_pairs,
        "probability_of_improvement": comparison.improvement if found.interval else None,
        "further_seeds": found.further(),
        "better": found.better or None,
        "verdict": found.in_words("a", "b"),
        "test_evaluations": comparison.test_evaluations,
        "differs": {
            key: {name: config[key] for name, config in zip("ab", comparison.configs, strict=True) if key in config}
            for key in differing(*comparison.configs)
        },
    }

"""Comparison of two groups of runs: which is better, with what confidence, and what differs; as text or JSON."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.config.checks import Objective
from leyden.config.errors import UserError
from leyden.config.table import cell_text, json_text, print_table
from leyden.config.terminal import metric_digits, metric_text, show
from leyden.config.values import ABSENT, differing
from leyden.report.difference import difference_rows
from leyden.report.held_out import test_set_remarks
from leyden.report.listing import select
from leyden.report.ranking import (
    IDLE_SEED,
    Row,
    assign_data,
    assumptions,
    count_failures,
    count_look,
    derived_keys,
    first_tested,
    generalize_over_datasets,
    merge_rows,
    plus_minus,
    read_sweep_settings,
)
from leyden.report.records import Record, fill_choices, narrow, read_raw_records, varying_keys
from leyden.report.statistics import (
    MIN_VALUES,
    Group,
    Improvement,
    Verdict,
    improvement,
    look_level,
    sign_test,
    verdict,
)


@dataclass
class Side:
    """A side of a comparison: the best setting of a group of runs.

    Args:
        directory: Folder with the runs in or below it.
        condition: Condition that the runs meet; empty for all.
        row: The best setting with its runs.
        rows: All settings in the group.
        averaged: Keys that the mean is taken over.
        varied: Those of them that vary among the runs of both sides.
    """

    directory: Path
    condition: str
    row: Row
    rows: list[Row]
    averaged: list[str]
    varied: list[str] = field(default_factory=list)

    @property
    def group(self) -> Group:
        """The objective's values, by the values of the keys that vary."""
        return self.row.group(self.varied)

    @property
    def measured(self) -> dict[str, Any]:
        """The mean, the deviation and the number of these values, as in a summary."""
        return self.row.measured([], self.varied)

    @property
    def num_missing(self) -> int:
        """Number of runs of the setting that have no value."""
        return self.row.num_all(self.averaged) - int(self.measured["n"])


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Args:
        objective: Objective that was compared.
        sides: The best setting of each group.
        averaged: Keys that vary among the runs and that the means are taken over.
        verdict: Which side is better.
        improvement: Probability that a run of the first side is better than one of the second.
        assumptions: What the verdict assumes, as far as it is not the usual.
        configs: Flat configuration of each side, without keys that vary within a side.
        test_evaluations: Remarks on the runs' test evaluations.
    """

    objective: Objective
    sides: tuple[Side, Side]
    averaged: list[str]
    verdict: Verdict
    improvement: Improvement
    assumptions: list[str]
    configs: tuple[dict[str, Any], ...]
    test_evaluations: list[str]


def compare(
    directories: Sequence[Path], conditions: Sequence[str], failed: str = "drop", over: str = "seeds"
) -> Comparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        conditions: Condition for each group, in the syntax of `parse_condition`; empty for all runs.
        failed: `drop` to leave failed runs out, `worst` to give them the worst value of all runs.
        over: `seeds` for a verdict on this dataset, `datasets` for one on others of its kind.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they do not share a single objective.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    both = []
    for directory, condition, option in zip(directories, conditions, "ab", strict=True):
        chosen, _ = select(read[directory], condition, option)
        if not chosen:
            raise UserError(f"{option}={condition}: no run matches this")
        both.append(chosen)
    a, b = both
    paths = [{os.path.realpath(record.directory) for record in records} for records in (a, b)]
    if shared := sorted(paths[0] & paths[1]):
        raise UserError(
            f"{shared[0]}: is in both groups, like {len(shared)} of {len(paths[0] | paths[1])} runs in all"
        )
    objective = _shared_objective(a, b)
    narrow([*a, *b])
    if failed == "worst":
        count_failures([*a, *b])
    sides = _best_setting(directories[0], conditions[0], a), _best_setting(directories[1], conditions[1], b)
    _refuse_different_data(sides)
    if over == "datasets":
        generalize_over_datasets([side.row for side in sides])
    averaged_keys = {key for side in sides for key in side.averaged}
    configs = [record.config for side in sides for record in side.row.finished]
    averaged = varying_keys([{key: config[key] for key in averaged_keys if key in config} for config in configs])
    for side in sides:
        side.varied = averaged
    groups = sides[0].group, sides[1].group
    enough = min(len(group.values) for group in groups) >= MIN_VALUES
    look = _look(sides) if enough else 1
    # Bonferroni correction, since this pair was selected among all pairs of settings.
    level, next_level = (
        look_level(number) / (len(sides[0].rows) * len(sides[1].rows)) for number in (look, look + 1)
    )
    found = verdict(*groups, objective.mode, level, next_level)
    return Comparison(
        objective=objective,
        sides=sides,
        averaged=averaged,
        verdict=found,
        improvement=improvement(*groups, objective.mode, found),
        assumptions=assumptions([side.row for side in sides], [found], averaged, look) if enough else [],
        configs=_common_configs(*sides),
        test_evaluations=test_set_remarks([record for side in sides for record in side.row.records]),
    )


def _look(sides: Sequence[Side]) -> int:
    """Return the number of this look at the comparison, recorded in the first folder by name.

    The comparison is named by the folders, the settings and the conditions, however these are spaced.
    """
    names = sorted(
        f"{side.directory.resolve().name} {side.row.choices} {''.join(side.condition.replace('==', '=').split())}"
        for side in sides
    )
    folder = min((side.directory.resolve() for side in sides), key=lambda path: path.name)
    return count_look(folder, " and ".join(names), [record for side in sides for record in side.row.finished])


def _common_configs(*sides: Side) -> tuple[dict[str, Any], ...]:
    """Return each side's configuration, without keys that vary within a side or derive from averaged keys."""
    configs = [[record.config for record in side.row.finished] for side in sides]
    averaged = {key for side in sides for key in side.averaged}
    excluded = {key for of_side in configs for key in varying_keys(of_side)} | averaged
    excluded |= derived_keys([config for of_side in configs for config in of_side], [*averaged])
    return tuple({key: value for key, value in of_side[0].items() if key not in excluded} for of_side in configs)


def _shared_objective(*groups: Sequence[Record]) -> Objective:
    """Return the single objective that all runs share.

    Raises:
        UserError: The runs have different objectives, none, or several.
    """
    objectives = [
        {tuple((aim.metric, aim.mode) for aim in record.objectives) for record in group} for group in groups
    ]
    if len(objectives[0] | objectives[1]) == 1 and len(only := next(iter(objectives[0]))) == 1:
        return Objective(*only[0])
    described = (
        " or ".join(sorted(", ".join(f"{metric} ({mode})" for metric, mode in each) or "none" for each in group))
        for group in objectives
    )
    raise UserError("A has the objective {}, B has {}: both must have the same one".format(*described))


def _best_setting(directory: Path, condition: str, records: Sequence[Record]) -> Side:
    """Return the best setting of a group of runs.

    Raises:
        UserError: No run has finished.
    """
    fill_choices(records)
    _, averaged = read_sweep_settings(directory)
    rows = merge_rows(records, averaged)
    if not (finished := [row for row in rows if row.finished]):
        raise UserError(f"{directory}: none of {len(records)} runs has finished with a value of its objective")
    row = finished[first_tested(finished, averaged)]
    return Side(directory, condition, row, rows, averaged)


def _refuse_different_data(sides: Sequence[Side]) -> None:
    """Check that all finished runs have the same data, since the best setting of several data sets means nothing.

    Raises:
        UserError: They do not; the message names the keys that differ.
    """
    rows = [row for side in sides for row in side.rows if row.finished]
    if keys := assign_data(rows, [key for side in sides for key in side.averaged]):
        raise UserError(
            f"runs of different data can't be compared; these differ in {' and '.join(keys)}: choose runs of one data "
            "set for both groups, by a= and b="
        )


def print_comparison(comparison: Comparison, form: str) -> None:
    """Print a comparison as `table` or `json`."""
    if form == "json":
        print(json_text(_json_content(comparison)))
        return
    sides, names = comparison.sides, {"name": "", "a": "A", "b": "B"}
    settings, measured = [_setting_text(side) for side in sides], [side.measured for side in sides]
    rows = {
        "runs": [str(side.directory) for side in sides],
        "where": [side.condition for side in sides],
        "setting": settings,
        comparison.objective.metric: [metric_text(each["objective"], each["deviation"]) for each in measured],
        "n": [_count_text(side) for side in sides],
    }
    print_table([{"name": name, "a": a, "b": b} for name, (a, b) in rows.items() if a or b], names=names)
    if max(comparison.verdict.nums) > 1:
        show(plus_minus([record for side in sides for record in side.row.finished], comparison.averaged))
    show("\n".join(["", *_verdict_lines(comparison)]))
    if any(settings):
        allowed = "; the interval accounts for this" * (comparison.verdict.interval is not None)
        show(f"The best setting was selected by these values, so they are biased in its favor{allowed}.")
    show("")
    if differences := difference_rows("configuration", *comparison.configs):
        print_table(differences, names={"part": "", "key": "", "a": "A", "b": "B"})
    else:
        aside = f", apart from {' and '.join(comparison.averaged)}" if comparison.averaged else ""
        show(f"Nothing differs in the configuration{aside}.")
    if comparison.test_evaluations:
        show("\n".join(["", *comparison.test_evaluations]))


def _setting_text(side: Side) -> str:
    """Return the overrides of a side's setting; empty if the group has only one setting."""
    chosen = " ".join(f"{key}={cell_text(value)}" for key, value in side.row.choices.items())
    return f"{chosen} (the best of {len(side.rows)})" if len(side.rows) > 1 else ""


def _count_text(side: Side) -> str:
    """Return the number of values, and the states of runs that do not count."""
    finished = side.row.finished
    others = [record.status for record in side.row.records if record not in finished]
    remarks = [f"{others.count(state)} {state}" for state in dict.fromkeys(others)]
    if len(finished) > (num := len(side.group.values)):
        remarks.append(f"of {len(finished)} runs, some of them repetitions")
    return f"{num}" + (f" ({', '.join(remarks)})" if remarks else "")


def _verdict_lines(comparison: Comparison) -> list[str]:
    """Return the verdict and its basis in words."""
    found = comparison.verdict
    num_missing = [side.num_missing for side in comparison.sides]
    lines = [
        f"Verdict: {found.in_words('A', 'B')}"
        + ", by the runs that finished" * (bool(found.better) and any(num_missing))
        + f"; at least {MIN_VALUES} of each are needed" * (min(found.nums) < MIN_VALUES)
    ]
    if any(num_missing):
        lines.append(
            f"This applies to finished runs only: {num_missing[0]} of A and {num_missing[1]} of B did not finish"
        )
    if any(side.row.has_idle_seed(comparison.averaged) for side in comparison.sides):
        lines.append(IDLE_SEED)
    if found.interval:
        (low, high), difference = found.interval, found.difference or 0.0
        in_digits = metric_digits(difference, high - difference)
        keys = " and ".join(comparison.averaged)
        how = f"{found.num_pairs} pairs with the same {keys}" if found.num_pairs else "not paired"
        span = f"{in_digits(low)} to {in_digits(high)}"
        lines.append(f"A - B: {in_digits(difference)}, {found.confidence} interval {span} ({how})")
        if found.num_pairs and max(found.nums) > found.num_pairs:
            unused = [num - found.num_pairs for num in found.nums]
            lines.append(f"Not used, since they have no partner: {unused[0]} of A and {unused[1]} of B")
        better, ends = comparison.improvement, comparison.improvement.interval
        of = f"the pairs with the same {keys}" if found.num_pairs else "all pairs of runs"
        lines.append(
            f"A is better than B in {100 * better.share:.3g} % of {of}"
            + ", where ties count half" * better.has_ties
            + (f", {found.confidence} interval {100 * ends[0]:.0f} to {100 * ends[1]:.0f} %" if ends else "")
        )
        if found.num_pairs and ends and (p := sign_test(*found.samples)) is not None:
            lines.append(
                f"Sign test on these pairs, for any distribution: p = {p:.2g}, at a level of {found.level:.2g}"
            )
    if requirement := found.further_in_words("seeds of each"):
        lines.append(f"To tell them apart {requirement}")
    return lines + comparison.assumptions


def _json_content(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary for JSON output."""
    found = comparison.verdict
    groups = {}
    for name, side in zip("ab", comparison.sides, strict=True):
        groups[name] = {
            "directory": str(side.directory),
            "condition": side.condition,
            "choices": side.row.choices,
            "num_settings": len(side.rows),
            "n": side.measured["n"],
            "num_runs": side.row.num_all(side.averaged),
            "mean": side.measured["objective"],
            "deviation": side.measured["deviation"],
            "runs": [record.directory for record in side.row.finished],
        }
    return {
        "objective": {"metric": comparison.objective.metric, "mode": comparison.objective.mode},
        **groups,
        "difference": found.difference,
        "interval": list(found.interval) if found.interval else None,
        "confidence": 1 - found.level,
        "num_pairs": found.num_pairs,
        "probability_of_improvement": comparison.improvement.share if found.interval else None,
        "assumptions": comparison.assumptions,
        "further_seeds": found.num_further,
        "better": found.better or None,
        "verdict": found.in_words("a", "b"),
        "test_evaluations": comparison.test_evaluations,
        "differs": {
            key: {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
            for key, pair in differing(*comparison.configs).items()
        },
    }

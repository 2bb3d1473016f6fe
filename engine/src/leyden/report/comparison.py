"""Comparison of two groups of runs: which is better, with what confidence, and what differs; as text or JSON."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leyden.config.checks import Objective
from leyden.config.errors import UserError
from leyden.config.table import cell_text, json_text, print_table
from leyden.config.terminal import show
from leyden.config.values import ABSENT, differing
from leyden.report.difference import difference_rows, print_differences
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
    generalize_over_splits,
    merge_rows,
    plus_minus,
    read_sweep_settings,
    values_of,
)
from leyden.report.records import Record, aim_of, fill_choices, narrow, read_raw_records, varying_keys
from leyden.verdict.difference import (
    Verdict,
    decide,
    look_level,
    why_undecided,
)
from leyden.verdict.groups import MIN_VALUES, Group, samples_of
from leyden.verdict.numbers import measured_text
from leyden.verdict.ranking import num_pairs, shape_remarks
from leyden.verdict.tables import chosen_remark, interval_lines


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
        return self.row.measured(self.varied)

    @property
    def num_missing(self) -> int:
        """Number of runs of the setting that have no value."""
        return self.row.num_all(self.averaged) - int(self.measured["n"])


@dataclass(frozen=True)
class Answer:
    """The verdict.

    Args:
        objective: The objective.
        verdict: Which side is better.
        wins: Probability that a run of the first side is better than one of the second.
        measured: Mean and standard deviation of each side, as text.
        shape: What is conspicuous about the values.
    """

    objective: Objective
    verdict: Verdict
    wins: float
    measured: tuple[str, str]
    shape: list[str]


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Args:
        answer: The verdict.
        sides: The best setting of each group.
        averaged: Keys that vary among the runs and that the means are taken over.
        assumptions: What the verdicts assume, as far as it is not the usual.
        configs: Flat configuration of each side, without keys that vary within a side.
        test_evaluations: Remarks on the runs' test evaluations.
    """

    answer: Answer
    sides: tuple[Side, Side]
    averaged: list[str]
    assumptions: list[str]
    configs: tuple[dict[str, Any], ...]
    test_evaluations: list[str]


def compare(
    directories: Sequence[Path],
    conditions: Sequence[str],
    failed: str = "drop",
    over: str = "seeds",
    *,
    margin: float = 0.0,
    planned: bool = False,
) -> Comparison:
    """Compare two groups of runs; a group with several settings is represented by its best one.

    Args:
        directories: Folder of each group; the same one twice to compare runs chosen by conditions.
        conditions: Condition for each group, in the syntax of `parse_condition`; empty for all runs.
        failed: `drop` to leave failed runs out, `worst` to give them the worst value of all runs.
        over: `seeds` for a verdict on this data set, `splits` for one on others of its kind.
        margin: Largest difference that does not matter; 0 for none.
        planned: Whether the two groups were named before the results were seen.

    Raises:
        UserError: A group has no finished run, the groups share a run, or they have different objectives.
    """
    read = {directory: read_raw_records(directory) for directory in dict.fromkeys(directories)}
    a, b = _groups_of(read, directories, conditions)
    objective = _shared_objective(a, b)
    known = {id(record) for record in (*a, *b)}
    others = {
        directory: [record for record in records if id(record) not in known] for directory, records in read.items()
    }
    narrow([record for records in read.values() for record in records])
    if failed == "worst":
        count_failures([*a, *b])
    sides = _best_setting(directories[0], conditions[0], a), _best_setting(directories[1], conditions[1], b)
    _refuse_different_data(sides)
    further = {directory: _other_rows(records, sides) for directory, records in others.items()}
    rows = [row for side in sides for row in side.rows if row.finished]
    rows += [row for of in further.values() for row in of]
    if over == "splits":
        generalize_over_splits(rows)
    averaged_keys = {key for side in sides for key in side.averaged}
    configs = [record.config for side in sides for record in side.row.finished]
    averaged = varying_keys([{key: config[key] for key in averaged_keys if key in config} for config in configs])
    for side in sides:
        side.varied = averaged
    enough = min(len(side.group.values) for side in sides) >= MIN_VALUES
    look = _look(sides) if enough else 1
    num_chosen = 1 if planned else _num_pairs(directories, sides, further)
    num_chosen = max(num_chosen, len(sides[0].rows) * len(sides[1].rows))
    # Bonferroni correction, since this pair was selected among so many.
    levels = [look_level(number) / num_chosen for number in (look, look + 1)]
    assumed = [chosen_remark(len(rows), planned=planned)] * (len(rows) > 2)
    return Comparison(
        answer=_answer(sides, rows, objective, levels, margin),
        sides=sides,
        averaged=averaged,
        assumptions=[*assumed, *assumptions([side.row for side in sides], averaged, look)] if enough else [],
        configs=_common_configs(*sides),
        test_evaluations=test_set_remarks([record for side in sides for record in side.row.records]),
    )


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


def _num_pairs(directories: Sequence[Path], sides: tuple[Side, Side], further: Mapping[Path, list[Row]]) -> int:
    """Return the number of pairs of settings that the two sides may have been chosen from by their results."""
    if len(further) == 1:
        return num_pairs(sum(len(side.rows) for side in sides) + sum(map(len, further.values())))
    return math.prod(
        len(side.rows) + len(further[directory]) for side, directory in zip(sides, directories, strict=True)
    )


def _answer(
    sides: tuple[Side, Side],
    rows: Sequence[Row],
    objective: Objective,
    levels: Sequence[float],
    margin: float,
) -> Answer:
    """Return the verdict.

    Args:
        sides: The compared sides.
        rows: All settings of the folders, which lend each other their spread.
        objective: The objective.
        levels: Significance level of this look and of the next one.
        margin: Largest difference that does not matter.
    """
    groups = [side.group for side in sides]
    measured = [measured_text([*group.values.values()]) for group in groups]
    if why := why_undecided(groups):
        found, shape = Verdict((len(groups[0].values), len(groups[1].values)), why=why, mode=objective.mode), []
    else:
        tested = [*groups]
        for row in rows:
            if all(row is not side.row for side in sides):
                group = row.group(sides[0].varied)
                tested += [group] * (not why_undecided([group]))
        samples = samples_of(tested)
        found = decide(samples, 0, 1, objective.mode, levels[0], levels[1], margin)
        shape = shape_remarks(samples, "seeds", min(len(group.values) for group in groups))
    wins = share_of_wins(groups[0], groups[1], objective.mode, in_pairs=bool(found.num_pairs))
    return Answer(objective, found, wins, (measured[0], measured[1]), shape)


def share_of_wins(a: Group, b: Group, mode: str, *, in_pairs: bool) -> float:
    """Return the probability that a run of a is better than one of b; ties count half.

    Bouthillier et al. (Accounting for variance in machine learning benchmarks, MLSys 2021) recommend to report it.

    Args:
        a: The first group.
        b: The second group.
        mode: `min` or `max`, the better direction; if it is empty, higher values count as better.
        in_pairs: Whether values with equal keys are compared, and not each value of a with each of b.

    Example:
        >>> a, b = (Group(dict(enumerate(values))) for values in ((3, 5, 4, 6), (1, 2, 4, 8)))
        >>> share_of_wins(a, b, "max", in_pairs=True)
        0.625
    """
    pairs = [(a.values[key], b.values[key]) for key in a.values if key in b.values]
    if not in_pairs:
        pairs = [(x, y) for x in a.values.values() for y in b.values.values()]
    sign = -1 if mode == "min" else 1
    return statistics.fmean(((sign * x > sign * y) + (sign * x >= sign * y)) / 2 for x, y in pairs)


def _other_rows(records: Sequence[Record], sides: tuple[Side, Side]) -> list[Row]:
    """Return the finished settings of a folder that are on no side, and have the sides' data and objectives."""
    aim = aim_of(sides[0].row.finished[0])
    same = [record for record in records if aim_of(record) == aim]
    if not same:
        return []
    fill_choices(same)
    rows = [row for row in merge_rows(same, sides[0].averaged) if row.finished]
    assign_data([sides[0].row, *rows], sides[0].averaged)
    return [row for row in rows if row.data == sides[0].row.data]


def _look(sides: Sequence[Side]) -> int:
    """Return the number of this look at the comparison, recorded in the first folder by name.

    The comparison is named by the folders, the settings and the conditions, however these are spaced.
    """
    names = sorted(
        f"{side.directory.resolve().name} {side.row.choices} {''.join(side.condition.replace('==', '=').split())}"
        for side in sides
    )
    folder = min((side.directory.resolve() for side in sides), key=lambda path: path.name)
    finished = [record for side in sides for record in side.row.finished]
    return count_look(folder, " and ".join(names), values_of(finished))


def _common_configs(*sides: Side) -> tuple[dict[str, Any], ...]:
    """Return each side's configuration, without keys that vary within a side or derive from averaged keys."""
    configs = [[record.config for record in side.row.finished] for side in sides]
    averaged = {key for side in sides for key in side.averaged}
    excluded = {key for of_side in configs for key in varying_keys(of_side)} | averaged
    excluded |= derived_keys([config for of_side in configs for config in of_side], [*averaged])
    return tuple({key: value for key, value in of_side[0].items() if key not in excluded} for of_side in configs)


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
    settings = [_setting_text(side) for side in sides]
    rows: dict[str, Sequence[str]] = {
        "runs": [str(side.directory) for side in sides],
        "where": [side.condition for side in sides],
        "setting": settings,
        comparison.answer.objective.metric: comparison.answer.measured,
        "n": [_count_text(side) for side in sides],
    }
    print_table([{"name": name, "a": a, "b": b} for name, (a, b) in rows.items() if a or b], names=names)
    if max(comparison.answer.verdict.nums) > 1:
        show(plus_minus([record for side in sides for record in side.row.finished], comparison.averaged))
    show("\n".join(["", *_verdict_lines(comparison)]))
    if any(settings):
        show("The best setting was chosen by these values, so they are biased in its favor.")
    show("")
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


def _count_text(side: Side) -> str:
    """Return the number of values, and the states of runs that do not count."""
    finished = side.row.finished
    others = [record.status for record in side.row.records if record not in finished]
    remarks = [f"{others.count(state)} {state}" for state in dict.fromkeys(others)]
    if len(finished) > (num := len(side.group.values)):
        remarks.append(f"of {len(finished)} runs, some of them repetitions")
    return f"{num}" + (f" ({', '.join(remarks)})" if remarks else "")


def _verdict_lines(comparison: Comparison) -> list[str]:
    """Return the verdicts and their basis in words."""
    lines = dict.fromkeys(_answer_lines(comparison, comparison.answer))
    if any(num_missing := [side.num_missing for side in comparison.sides]):
        lines[f"Finished runs only: {num_missing[0]} of A and {num_missing[1]} of B did not finish."] = None
    if any(side.row.has_idle_seed(comparison.averaged) for side in comparison.sides):
        lines[IDLE_SEED] = None
    return [*lines, *comparison.assumptions]


def _answer_lines(comparison: Comparison, answer: Answer) -> list[str]:
    """Return the verdict and its basis in words."""
    found, keys = answer.verdict, " and ".join(comparison.averaged)
    lines = [
        f"Verdict: {found.in_words('A', 'B')}"
        + ", by the runs that finished"
        * (bool(found.better) and any(side.num_missing for side in comparison.sides))
        + f"; at least {MIN_VALUES} of each are needed" * (min(found.nums) < MIN_VALUES),
        *interval_lines(found, keys),
    ]
    if not found.interval:
        return lines
    if found.num_pairs and max(len(side.group.values) for side in comparison.sides) > found.num_pairs:
        unused = [len(side.group.values) - found.num_pairs for side in comparison.sides]
        lines.append(f"Not used, since they have no partner: {unused[0]} of A and {unused[1]} of B")
    of = f"pairs by {keys}" if found.num_pairs else "all pairs of runs"
    lines.append(f"A is better than B in {100 * answer.wins:.3g} % of {of}")
    if not found.better and not found.is_same:
        lines.append(found.power_in_words("seeds"))
    return lines + answer.shape


def _json_content(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as a dictionary for JSON output."""
    groups = {
        name: {
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
        for name, side in zip("ab", comparison.sides, strict=True)
    }
    return {
        **groups,
        **_answer_content(comparison.answer),
        "assumptions": comparison.assumptions,
        "test_evaluations": comparison.test_evaluations,
        "differs": {
            key: {name: value for name, value in zip("ab", pair, strict=True) if value is not ABSENT}
            for key, pair in differing(*comparison.configs).items()
        },
    }


def _answer_content(answer: Answer) -> dict[str, Any]:
    """Return the verdict as a dictionary for JSON output."""
    found = answer.verdict
    return {
        "objective": {"metric": answer.objective.metric, "mode": answer.objective.mode},
        **verdict_content(found),
        "num_pairs": found.num_pairs,
        "probability_of_improvement": answer.wins if found.interval else None,
        "detectable": found.detectable() if found.interval else None,
        "shape": answer.shape,
    }


def verdict_content(found: Verdict) -> dict[str, Any]:
    """Return a verdict as a dictionary for JSON output."""
    return {
        "difference": found.difference,
        "interval": found.interval,
        "confidence": 1 - found.level,
        "better": found.better or None,
        "is_same": found.is_same,
        "verdict": found.in_words("a", "b"),
    }

"""A comparison as text to read, or as JSON for other programs."""

import json
import statistics
from typing import Any

from leyden.config.terminal import Terminal, grid
from leyden.report.comparison import Comparison, Side
from leyden.report.difference import add_rows, differing
from leyden.report.formats import as_json, text
from leyden.report.ranking import deviation
from leyden.report.verdict import LEAST, Group


def show(comparison: Comparison, form: str) -> None:
    """Print it as `table` or `json`."""
    if form == "json":
        print(json.dumps(as_json(_for_programs(comparison)), indent=2))  # as ASCII: it steers no terminal
        return
    a, b = comparison.sides
    table = grid("", "A", "B")
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
    table = grid("", "", "A", "B")
    add_rows(table, "configuration", *comparison.configs)
    console.print("")
    aside = f", {' and '.join(comparison.averaged)} left aside" if comparison.averaged else ""
    console.print(table if table.row_count else f"Nothing differs in the configuration{aside}.")
    if comparison.test_evaluations:
        console.print("\n".join(["", *comparison.test_evaluations]))


def _setting(side: Side) -> str:
    """The choices of the best of several settings."""
    chosen = " ".join(f"{key}={text(value)}" for key, value in side.row.choices.items())
    return f"{chosen} (the best of {side.num_rows})" if side.num_rows > 1 else ""


def _reached(group: Group) -> str:
    spread = deviation(values := list(group.values.values()))
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
            "deviation": deviation(values),
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

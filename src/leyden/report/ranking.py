"""Runs merged over seeds and folds, and ranked."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from leyden.report.records import Record


@dataclass
class Row:
    """Runs that differ in nothing but what a mean is over, as the seed and the fold."""

    choices: dict[str, Any]
    records: list[Record]

    @property
    def counted(self) -> list[Record]:
        """The runs that the means are over: those that have finished, or else those that were pruned."""
        reached = [record for record in self.records if record.values]
        return [record for record in reached if record.status == "finished"] or reached

    def cells(self, metrics: Sequence[str]) -> dict[str, Any]:
        """What the table says: choices, objectives (mean, deviation, number), epochs, seconds, states."""
        states = [record.status for record in self.records]
        ended = [record.values for record in self.counted]
        means = {name: _mean([values[n] for values in ended]) for n, name in enumerate(metrics)}
        firsts = [values[0] for values in ended]
        return {
            **self.choices,
            "objective": means.pop(metrics[0]),
            "deviation": statistics.stdev(firsts) if len(firsts) > 1 else None,
            **means,
            "n": len(ended),
            "epochs": _mean([record.epochs for record in self.records]),
            "seconds": _mean([record.seconds for record in self.records]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state for state in dict.fromkeys(states)
            ),
        }


def merge(records: Sequence[Record], averaged: Sequence[str]) -> list[Row]:
    """A row for each combination of the choices that vary, but for those that a mean is over; best first."""
    keys = [
        key
        for key in records[0].choices
        if key not in averaged and len({str(record.choices[key]) for record in records}) > 1
    ]
    rows: dict[str, Row] = {}
    for record in records:
        choices = {key: record.choices[key] for key in keys}
        rows.setdefault(str(choices), Row(choices, [])).records.append(record)

    def rank(row: Row) -> tuple[bool, float]:
        mean = _mean([record.gains[0] for record in row.counted])
        return any(record.status == "finished" for record in row.counted), -math.inf if mean is None else mean

    return sorted(rows.values(), key=rank, reverse=True)


def front(records: Sequence[Record]) -> list[Record]:
    """The finished runs that no other one equals or beats in all objectives, best first: the Pareto front.

    Of one objective it is the best run.
    """
    ended = sorted(
        (record for record in records if record.status == "finished" and record.gains),
        key=lambda record: record.gains,
        reverse=True,
    )
    kept: list[Record] = []
    for record in ended:  # none is beaten by one that comes later
        if not any(all(a >= b for a, b in zip(other.gains, record.gains, strict=True)) for other in kept):
            kept.append(record)
    return kept


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None

"""Pictures of verdicts for a paper: intervals of differences, and mean ranks over data sets."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leyden.base.errors import UserError
from leyden.base.figures import plain, save_pdf
from leyden.run.files import writing
from leyden.verdict.numbers import printable_value
from leyden.verdict.ranking import RankingOverSets
from leyden.verdict.reports import Report

ROW_HEIGHT = 0.3  # inches
WIDTH = 6.0
AXIS = 1.0  # height of the axis of ranks, above the names


def draw(report: Report, path: str) -> None:
    """Draw a verdict as PDF: mean ranks over data sets, or else the intervals of its differences.

    Raises:
        UserError: It has neither, or the file can't be written.
    """
    from matplotlib.figure import Figure

    num_rows = len(report.rows())
    figure = Figure(figsize=(WIDTH, 1 + ROW_HEIGHT * num_rows), layout="constrained")
    axes = figure.subplots()
    if isinstance(report, RankingOverSets):
        _draw_ranks(axes, report)
    else:
        _draw_intervals(axes, report.rows())
    with writing("pdf", Path(path)), Path(path).open("wb") as file:
        save_pdf(figure, file)


def _draw_intervals(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw each interval of a difference as a line, the difference as a point (forest plot)."""
    drawn = [row for row in rows if row.get("low") is not None]
    if not drawn:
        raise UserError("pdf: there is no interval to draw, as with too few runs")
    references = {row["b"] for row in drawn}
    names = []
    for place, row in enumerate(drawn):
        low = row["low"]
        high = row["high"]
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        axes.plot([row["difference"]], [place], "s", color="black", markersize=4)
        name = str(row["a"])
        if len(references) > 1:
            name += f" − {row['b']}"
        if "over" in row:
            name = f"{row['over']}: {name}"
        names.append(plain(printable_value(name)))
    axes.axvline(0, color="gray", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.locator_params(axis="x", nbins=5)
    label = "difference of the means"
    if len(references) == 1:
        label += f" from {printable_value(references.pop())}"
    axes.set_xlabel(plain(label))


def _draw_ranks(axes: Any, report: RankingOverSets) -> None:
    """Draw mean ranks on an axis, and a bar over those closer than the critical difference.

    The names of the better half stand on the left of their lines, the others on the right; the
    outermost line is the shortest, so that no name crosses a line.
    """
    ranks = {name: rank for name, rank in report.mean_ranks.items() if not math.isnan(rank)}
    if not report.like_best:
        raise UserError("pdf: too few data sets have all settings to rank over them")
    half = (len(ranks) + 1) // 2
    for place, (name, rank) in enumerate(ranks.items()):
        is_left = place < half
        depth = place + 1 if is_left else len(ranks) - place
        axes.plot([rank, rank], [AXIS, -depth], color="black", linewidth=0.8)
        text = plain(printable_value(f" {name} ({rank:.2f}) "))
        side = "left"
        if is_left:
            side = "right"
        axes.text(rank, -depth, text, ha=side, va="center", fontsize=8)
    if report.critical is not None:
        _draw_bars(axes, [*ranks.values()], report.critical)
        axes.set_title(f"critical difference {report.critical:.2f}", fontsize=9)
    axes.set_xlim(0.8, len(ranks) + 0.2)
    axes.set_ylim(-half - 0.5, AXIS)
    axes.xaxis.set_ticks_position("top")
    axes.set_yticks([])
    for edge in ("left", "right", "bottom"):
        axes.spines[edge].set_visible(False)
    axes.set_xlabel("mean rank")


def _draw_bars(axes: Any, ranks: Sequence[float], critical: float) -> None:
    """Draw a bar over each largest group of ranks that can't be told apart."""
    end = 0.0
    height = 0.2
    for first in ranks:
        last = max(rank for rank in ranks if rank - first < critical)
        if last > max(first, end):
            axes.plot([first, last], [height, height], color="black", linewidth=3)
            height += 0.2
            end = last

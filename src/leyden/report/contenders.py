"""Which rows of a table may be the best one: those that can't be told apart from the first."""

from collections.abc import Sequence
from dataclasses import dataclass

from leyden.report.ranking import Row
from leyden.report.verdict import LEAST, LEVEL, verdict

MARK = "≈"


@dataclass(frozen=True)
class Contenders:
    """The rows that can't be told apart from the first one.

    Args:
        like_best: Of each row whether it can't; None where it has too few runs to tell.
        further: How many more runs per row would tell the first two apart; None where they are told apart, or where
            nothing can be said.
        remarks: The same in words.
    """

    like_best: list[bool | None]
    further: int | None
    remarks: list[str]


def contenders(rows: Sequence[Row], averaged: Sequence[str], mode: str) -> Contenders:
    """Compare the first row with each other one.

    Each comparison has the level 5 % / (rows - 1), so that by Bonferroni's inequality the truly best row is excluded by
    none of them with a probability of at least 95 %. Rows of too few runs are left out.

    Args:
        rows: Of a table, the best first.
        averaged: What a row is a mean over.
        mode: `min` or `max`: what is better.
    """
    like_best: list[bool | None] = [None] * len(rows)
    groups = [row.group(averaged) for row in rows]
    enough = [len(group.values) >= LEAST for group in groups]
    others = [number for number in range(1, len(rows)) if enough[number]]
    if len(rows) < 2:
        return Contenders(like_best, None, [])
    unit = "seeds" if "seed" in averaged else "runs"
    if not (enough[0] and others):
        return Contenders(
            like_best, None, [f"n too small to tell which row is best: that takes {LEAST} {unit} per row"]
        )
    told = {number: verdict(groups[0], groups[number], mode, LEVEL / len(others)) for number in others}
    like_best[0] = True
    for number, found in told.items():
        like_best[number] = found.better != "a"
    num_lost = sum(rows[number].num_all(averaged) - len(groups[number].values) for number in (0, *others))
    remarks = [_claim(marks=any(like_best[1:]), num_lost=num_lost)]
    if not all(enough):
        remarks.append(f"That is said of rows with n >= {LEAST} alone; of others nothing can be told.")
    further = told[1].further() if 1 in told else None
    if further is not None:
        remarks.append(f"To tell the first two rows apart {told[1].further_in_words(unit)} per row.")
    if any(group.overlap for group in groups):
        remarks.append("Runs of folds share training data; this is allowed for (Nadeau and Bengio, 2003).")
    return Contenders(like_best, further, remarks)


def _claim(*, marks: bool, num_lost: int) -> str:
    """Return the claim on the best row, which is one on the runs that have finished alone, where others have not."""
    sure = "(95 % confidence)"
    lost = f"{num_lost} run{'s' * (num_lost > 1)} of the rows compared did not finish, and count{'s' * (num_lost == 1)} for nothing."
    if marks:
        of = "of the runs that finished, the best" if num_lost else "the truly best"
        claim = f"{MARK} may be as good as the first row: {of} row is the first or one of these {sure}"
    else:
        claim = (
            f"Of the runs that finished, those of the first row are the best {sure}"
            if num_lost
            else f"The first row is truly the best one {sure}"
        )
    return f"{claim}; {lost}" if num_lost else f"{claim}."

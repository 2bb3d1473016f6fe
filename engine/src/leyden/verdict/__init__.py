"""Which setting is better, and how sure that is: verdicts on any table of numbers.

rows = verdict.read("results.csv")
print(verdict.compare(rows, "acc", a={"model": "mlp"}, b={"model": "moe"}, mode="max"))
print(verdict.compare_with_control(rows, "acc", {"model": "mlp"}, mode="max"))
print(verdict.rank(rows, "acc", mode="max"))
print(verdict.plan(0.004, settings=6, difference=0.01))
"""

from leyden.verdict.comparison import (
    ComparisonOverSets,
    ControlComparison,
    ControlOverSets,
    TableComparison,
    compare,
    compare_with_control,
)
from leyden.verdict.difference import Verdict
from leyden.verdict.front import front
from leyden.verdict.planning import Plan, plan
from leyden.verdict.ranking import Ranking, RankingOverSets, rank
from leyden.verdict.tables import TableError, read

__all__ = [
    "ComparisonOverSets",
    "ControlComparison",
    "ControlOverSets",
    "Plan",
    "Ranking",
    "RankingOverSets",
    "TableComparison",
    "TableError",
    "Verdict",
    "compare",
    "compare_with_control",
    "front",
    "plan",
    "rank",
    "read",
]

"""Which setting is better, and how sure that is: verdicts on any table of numbers, without the rest of Leyden.

rows = verdict.read("results.csv")
print(verdict.compare(rows, "acc", a={"model": "mlp"}, b={"model": "moe"}, mode="max"))
print(verdict.compare_with_control(rows, "acc", {"model": "mlp"}, mode="max"))
print(verdict.rank(rows, "acc", mode="max"))
"""

from leyden.verdict.comparison import compare, compare_with_control
from leyden.verdict.front import front
from leyden.verdict.ranking import rank
from leyden.verdict.tables import TableError, read

__all__ = ["TableError", "compare", "compare_with_control", "front", "rank", "read"]

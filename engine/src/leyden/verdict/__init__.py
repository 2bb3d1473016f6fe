"""Which setting is better, and how sure that is: verdicts on any table of numbers, without anything else of Leyden.

rows = verdict.read("results.csv")
print(verdict.compare(rows, "acc", a={"model": "mlp"}, b={"model": "moe"}, mode="max"))
print(verdict.rank(rows, "acc", mode="max"))
"""

from leyden.verdict.tables import TableError, compare, front, rank, read

__all__ = ["TableError", "compare", "front", "rank", "read"]

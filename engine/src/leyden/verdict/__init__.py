"""Which setting is better, and how sure that is: verdicts on any table of numbers, without anything else of Leyden.

rows = verdict.read("results.csv")
print(verdict.compare(rows, "acc", a={"model": "mlp"}, b={"model": "moe"}, mode="max"))
print(verdict.rank(rows, "acc", mode="max"))
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.verdict.tables import compare, rank, read

__all__ = ["TableError", "compare", "rank", "read"]


class TableError(ValueError):
    """A table can't be read, or can't be compared as asked."""


def __getattr__(name: str) -> Any:
    """Import what reads tables when it is first used."""
    if name in __all__:
        from importlib import import_module

        return getattr(import_module("leyden.verdict.tables"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

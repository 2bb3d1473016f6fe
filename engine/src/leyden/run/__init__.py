"""A run: a directory with its settings, provenance and result.

from leyden.run import Run

run = Run("outputs/mnist_mlp/2026-11-27_10-00-00-000000")
print(run.result.metrics["val/acc"])
"""

from typing import TYPE_CHECKING

from leyden.base.doors import lazily

if TYPE_CHECKING:
    from leyden.run.directory import Run
    from leyden.run.provenance import machine
    from leyden.run.result import Result

__all__ = ["Result", "Run", "machine"]

__getattr__ = lazily(
    __name__,
    {
        "Result": "leyden.run.result",
        "Run": "leyden.run.directory",
        "machine": "leyden.run.provenance",
    },
)

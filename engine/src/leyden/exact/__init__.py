"""A training of any LightningModule that resumes to the same bits (`Exact`).

Importing it changes nothing: no random state, no signal handler, no class of another library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.exact.elastic import Elastic
    from leyden.exact.fit import Exact
    from leyden.exact.loop import Loop
    from leyden.exact.marks import mark
    from leyden.exact.resumption import test
    from leyden.exact.sharding import FSDP2, shard

__all__ = ["FSDP2", "Elastic", "Exact", "ExactError", "Loop", "mark", "shard", "test"]
_PACKAGES = ("lightning", "numpy", "torch", "torchmetrics")
_NAMES = {
    "FSDP2": "sharding",
    "Elastic": "elastic",
    "Exact": "fit",
    "Loop": "loop",
    "mark": "marks",
    "shard": "sharding",
    "test": "resumption",
}


class ExactError(Exception):
    """A run can't resume to the same bits, and must not resume otherwise."""


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    try:
        return getattr(import_module(f"leyden.exact.{_NAMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in _PACKAGES:
            raise
        needed = "is not installed; pip install 'leyden[exact]' installs it"
        raise ImportError(f"leyden.exact.{name}: {error.name} {needed}") from error

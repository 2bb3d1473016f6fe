"""A training of any LightningModule that resumes to the same bits (`Exact`), without anything else of Leyden.

Importing it changes nothing: no random state, no signal handler, no class of another library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.exact.fit import Exact
    from leyden.exact.mark import mark
    from leyden.exact.report import ExactError

__all__ = ["Exact", "ExactError", "mark"]
_NAMES = {"Exact": "fit", "ExactError": "report", "mark": "mark"}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used."""
    if name in _NAMES:
        from importlib import import_module

        return getattr(import_module(f"leyden.exact.{_NAMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""A training of any LightningModule that resumes to the same bits (`Exact`), without anything else of Leyden.

Importing it changes nothing: no random state, no signal handler, no class of another library.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.exact.fit import Exact
    from leyden.exact.report import ExactError

__all__ = ["Exact", "ExactError"]
_MODULES = {"Exact": "fit", "ExactError": "report"}


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used."""
    if name in _MODULES:
        from importlib import import_module

        return getattr(import_module(f"leyden.exact.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Leyden: a research template for PyTorch Lightning, and its library.

In a notebook or a script, `leyden.load(DIR)` returns a trained run, and `leyden.load_runs(DIR)` all runs below a folder.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.exact import Exact
    from leyden.training.trained import load, load_runs

__all__ = ["Exact", "__version__", "load", "load_runs"]
__version__ = "0.3.0.dev0"


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used."""
    if name in ("load", "load_runs"):
        from leyden.training import trained

        return getattr(trained, name)
    if name == "Exact":
        from leyden import exact

        return exact.Exact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

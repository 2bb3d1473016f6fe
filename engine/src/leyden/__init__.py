"""Leyden: a research template for PyTorch Lightning, and its library.

In a notebook or a script, `leyden.load(DIR)` returns a trained run, and `leyden.load_runs(DIR)` all runs below a folder.
"""

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leyden.exact import Exact
    from leyden.training.trained import load, load_runs

__all__ = ["Exact", "__version__", "load", "load_runs"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """Import what needs PyTorch when it is first used."""
    if name in ("load", "load_runs"):
        from leyden.training import trained

        return getattr(trained, name)
    if name == "Exact":
        from leyden import exact

        return exact.Exact
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _excepthook(error_type: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Print one word instead of a traceback for Ctrl-C during imports, when no command catches it yet."""
    if issubclass(error_type, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
    else:
        sys.__excepthook__(error_type, error, traceback)


# Only in this package's commands, not in a program that imports the package.
_command_line = " ".join(sys.orig_argv[1:3])
if _command_line.startswith((f"-m {__name__}.", f"-m {__name__} ")) or f"/bin/{__name__} " in f"{_command_line} ":
    sys.excepthook = _excepthook

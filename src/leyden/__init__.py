"""Leyden: a research template for PyTorch Lightning."""

import sys
from types import TracebackType


def _without_interrupts(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Tell of Ctrl-C by a word: it comes while modules are imported, too, before a command could catch it."""
    if issubclass(kind, KeyboardInterrupt):
        print("Interrupted.", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)


# Only in a command of this package, not in somebody's program.
_typed = " ".join(sys.orig_argv[1:3])
if _typed.startswith((f"-m {__name__}.", f"-m {__name__} ")) or f"/bin/{__name__} " in f"{_typed} ":
    sys.excepthook = _without_interrupts

"""Leyden: a research template for PyTorch Lightning."""

import os
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

# A thread that waits for the others of a step spins, and where another process has its core, the step waits for the spinning. By the
# default of GNU's OpenMP, 300,000 turns, a run beside one other process took 2.6 times as long as with a tenth of it, which costs nothing on
# a quiet machine (docs/speed.md). The library reads it when it is loaded, with PyTorch, and changes no bit of what is computed.
if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & {*os.environ}:
    os.environ["GOMP_SPINCOUNT"] = "30000"

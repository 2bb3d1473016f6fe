"""This process: its rank, its job on a cluster, its parent, its slow imports."""

import atexit
import contextlib
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

from leyden.config.errors import UserError
from leyden.scheduler import SCHEDULERS


def is_main_process() -> bool:
    """Whether this is the first of the processes of a run, by the variables that launchers set."""
    # In this order, as Lightning: processes that it starts itself within a job inherit the job's variables.
    for name in ("RANK", "LOCAL_RANK", *(scheduler.rank_variable for scheduler in SCHEDULERS.values())):
        if rank := os.environ.get(name):
            if not rank.isdigit():
                raise UserError(f"{name}={rank} in the environment: must be the number of a process; unset {name}")
            return int(rank) == 0
    return True


def num_cores() -> int:
    """How many cores this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()) or 1


def num_threads(share: int) -> int:
    """Return the threads of a process that has a share of the cores: those that the user has exported, else one per core.

    `MKL_NUM_THREADS` comes before `OMP_NUM_THREADS`, as in PyTorch.
    """
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return max(1, share)


def die_with_parent() -> None:
    """Let this process of `multiprocessing` end at once when the one that has started it does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG; Python has no name for it


# For `preexec_fn`: lets a process, which is to become another program, be told to end when the one that has started it is gone.
# Elsewhere nothing does so, and Windows takes no `preexec_fn`.
end_with_parent = _end_with_parent if sys.platform == "linux" else None


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import without a search for garbage meanwhile or ever after in what is imported: there is none in modules.

    That saves 0.6 s at the start of a command and 1.3 s at its end (2 cores). Ctrl-C waits for the end of it: a library
    that is interrupted while it starts leaves anything but a clear error.

    Example:
        >>> with importing():
        ...     import torch
    """
    interrupts: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number)) if is_main else None
    num_before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > num_before:  # else it would keep what an earlier job in this process has left
            gc.freeze()
        gc.enable()
        # It comes with PyTorch for CUDA, and calls a leak at exit, at length, whatever was not searched.
        if "triton" in sys.modules:
            atexit.register(gc.unfreeze)
        if is_main:
            signal.signal(signal.SIGINT, before)
    if interrupts:
        raise KeyboardInterrupt

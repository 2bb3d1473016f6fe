"""The current process: rank, threads, parent, imports. And a function in a process of its own.

`python -m leyden.run.process FILE` calls a function. FILE has a line of environment variables,
which `queue.bootstrap` sets, then the function and its arguments, written by the process that
starts the command. A run with several processes needs a command, since Lightning starts the other
processes by repeating the command line of the first one; so does a job of a cluster.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import pickle
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from leyden.base.errors import Exit, UserError, leave_at_once
from leyden.exact.processes import RANKS

COMMAND = "leyden.run.process"  # the name of this module, which is another one while it runs
JOB = (
    "LEYDEN_JOB"  # environment variable with the id of the cluster's job that Leyden has submitted
)
SIZE_VARIABLES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def is_main_process() -> bool:
    """Return whether this is rank 0 of a run, by the environment variables that launchers set."""
    for name in RANKS:
        if rank := os.environ.get(name):
            if not rank.isdigit():
                raise UserError(
                    f"{name}={rank} in the environment: must be the rank of a process; unset {name}"
                )
            return int(rank) == 0
    return True


def num_processes() -> int:
    """Return the number of processes of this run that `torchrun`, `srun` or so has started."""
    found = [os.environ.get(name, "") for name in SIZE_VARIABLES]
    sizes = [int(text) for text in found if text.isdecimal()]
    return max([1, *sizes])


def num_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def num_threads(share: int) -> int:
    """Return the number of threads of a process: one per core of `share`, or the user's.

    `MKL_NUM_THREADS` takes precedence over `OMP_NUM_THREADS`, as in PyTorch.
    """
    for name in ("MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return max(1, share)


def die_with_parent() -> None:
    """Make this `multiprocessing` process exit as soon as its parent does, however that ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        leave_at_once(Exit.BUG)

    threading.Thread(target=wait, daemon=True).start()


def _end_with_parent() -> None:
    """Ask Linux to send SIGTERM to this process when its parent ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, which Python does not define


# For `preexec_fn` of a subprocess, so that it is terminated when its parent ends. Only Linux
# supports this, and Windows accepts no `preexec_fn`.
end_with_parent = _end_with_parent if sys.platform == "linux" else None


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Disable garbage collection during imports, then freeze what was imported.

    This saves 0.6 s at the start of a command and 1.3 s at its end (2 cores).

    Example:
        >>> with importing():
        ...     import torch
    """
    num_before = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if (
            len(sys.modules) > num_before
        ):  # otherwise it would freeze garbage of an earlier job in this process
            gc.freeze()
        gc.enable()
        # Triton, a part of PyTorch for CUDA, reports frozen objects as leaks at exit.
        if "triton" in sys.modules:
            atexit.register(gc.unfreeze)


def write_call(
    path: Path,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
    variables: Mapping[str, str] | None = None,
) -> None:
    """Write the new file of a call, for its owner alone.

    Args:
        path: Path that no file has.
        function: Function that can be imported.
        arguments: Its arguments.
        variables: Environment variables, such as the user's key; left out where a file system lets
            others read the file.
    """
    call = pickle.dumps((function, arguments))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        is_private = os.fstat(descriptor).st_mode & 0o077 == 0
        head = {}
        if is_private:
            head = dict(variables or {})
        file.write(json.dumps(head).encode() + b"\n" + call)


if __name__ == "__main__":
    if job := os.environ.get(JOB):  # of a cluster
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} job {job} on {platform.node()}", flush=True)
        # If another process of the job dies, srun sends SIGTERM to this one, which then has to
        # requeue the job; while it trains, `exact.stop` receives it. The scheduler's SIGKILL
        # follows where it means to end the job.
        signal.signal(signal.SIGTERM, lambda *_: None)
    _, _, call = Path(sys.argv[1]).read_bytes().partition(b"\n")
    function, arguments = pickle.loads(
        call
    )  # trusted: written by the parent process, or checked by `bootstrap`
    function(*arguments)

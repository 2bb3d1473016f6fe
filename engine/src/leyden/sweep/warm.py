"""Module that the fork server loads: it imports PyTorch and reads the data before jobs are forked.

It must start no threads and no GPU, which forks could not use.
"""

import contextlib
import json
import os
import threading
from pathlib import Path

from leyden.config.errors import leave_at_once
from leyden.config.paths import prepare_process
from leyden.run.process import importing
from leyden.sweep.launcher import DATA


def _warm_up(node: str) -> None:
    """Import PyTorch, and read the data of this node, if it is not empty."""
    os.environ["OMP_NUM_THREADS"] = "1"  # a thread pool is lost by forking; each job sets its own number
    prepare_process()
    with importing():
        from leyden import assembly  # noqa: F401 - all that jobs need
        from leyden.data.in_memory import keep_tensors
        from leyden.run.provenance import installed_versions
    installed_versions()  # each job records them
    keep_tensors()
    if node and _starts_nothing(node):
        _read(node)


def _read(node: str) -> None:
    from omegaconf import OmegaConf

    from leyden import assembly

    assembly.silence_lightning()
    with contextlib.suppress(Exception):  # the checks that follow report mistakes in the data
        assembly.datamodule(OmegaConf.create({"data": json.loads(node), "seed": 0}))


def _num_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def _starts_nothing(node: str) -> bool:
    """Return whether reading the data starts no threads and no GPU; a forked child process tries it."""
    import torch

    if not (pid := os.fork()):
        before, code = _num_threads(), 1
        try:
            _read(node)
            code = int(torch.cuda.is_initialized() or _num_threads() > before)  # type: ignore[no-untyped-call]
        finally:
            leave_at_once(code)
    return os.waitpid(pid, 0)[1] == 0


if (data_node := os.environ.pop(DATA, None)) is not None:  # this is the fork server
    _warm_up(data_node)

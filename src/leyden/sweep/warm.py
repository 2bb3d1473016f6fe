"""What the processes of a sweep are copies of: it has imported all, has read the data set, and has started nothing."""

import contextlib
import json
import os
import threading
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # a pool of threads would be lost in a copy, which has its own number of them

from leyden.data.tensors import keep_tensors
from leyden.run.process import importing
from leyden.sweep.launcher import DATA

with importing():
    import torch
    from omegaconf import OmegaConf

    from leyden import assembly


def _read(node: str) -> None:
    assembly.silence_lightning()
    with contextlib.suppress(Exception):  # what is wrong with the data is told by the checks, which come next
        assembly.datamodule(OmegaConf.create({"data": json.loads(node), "seed": 0}))


def _num_threads() -> int:
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.exists() else threading.active_count()


def _starts_nothing(node: str) -> bool:
    """Whether reading starts no thread and no GPU, which copies of this process could not use: a copy tries it."""
    if not (pid := os.fork()):
        before, code = _num_threads(), 1
        try:
            _read(node)
            code = int(torch.cuda.is_initialized() or _num_threads() > before)  # type: ignore[no-untyped-call]
        finally:
            os._exit(code)
    return os.waitpid(pid, 0)[1] == 0


keep_tensors()
if (node := os.environ.pop(DATA, None)) and _starts_nothing(node):
    _read(node)

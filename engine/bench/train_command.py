"""Leyden's own command, with what follows on the command line; the time is that of `Trainer.fit`, as in the others.

`epoch_s` is the median of the epochs after the first, with their validation and checkpoint. SIGTERM_AT=N in the environment sends the
signal to this process when it has made N updates.
"""

import json
import os
import signal
import statistics
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from leyden import train
from leyden.run.process import importing

with importing():  # as the command itself has it
    import torch
    from lightning import Trainer

plain_fit = Trainer.fit
found: dict[str, float] = {}
epoch_ends: list[float] = []


def synchronize() -> None:
    """Wait for what a GPU still has to do."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def timed_fit(self: Trainer, *args: Any, **kwargs: Any) -> None:
    """The same with a clock around it, and at each epoch's end."""
    end_epoch, training_step = self.fit_loop.on_advance_end, self.strategy.training_step

    def timed_end() -> None:
        end_epoch()
        synchronize()
        epoch_ends.append(time.perf_counter())

    def stopping_step(*args: Any, **kwargs: Any) -> Any:
        if self.global_step == int(os.environ["SIGTERM_AT"]):
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(*args, **kwargs)

    self.fit_loop.on_advance_end = timed_end  # type: ignore[method-assign]
    if "SIGTERM_AT" in os.environ:
        self.strategy.training_step = stopping_step  # type: ignore[method-assign]
    start, cpu = time.perf_counter(), time.process_time()
    plain_fit(self, *args, **kwargs)
    synchronize()
    found["fit_s"], found["cpu_s"] = time.perf_counter() - start, time.process_time() - cpu
    if torch.cuda.is_initialized():
        found["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20


Trainer.fit = timed_fit  # type: ignore[method-assign]
with tempfile.TemporaryDirectory() as folder:
    sys.argv = [
        "leyden.train",
        f"outputs={folder}",
        f"run_dir={folder}/run",
        "test=false",
        *sys.argv[1:],
    ]
    train.main()
    run_dir = [word.partition("=")[2] for word in sys.argv if word.startswith("run_dir=")][-1]
    result = json.loads(Path(run_dir, "run.json").read_text())
if "val/acc" in result["metrics"]:
    found["val_acc"] = result["metrics"]["val/acc"]
if len(epoch_ends) > 1:
    found["epoch_s"] = statistics.median(end - start for start, end in pairwise(epoch_ends))
    found["samples_s"] = (
        result["samples_per_second"] * result["seconds"] / result["epochs"] / found["epoch_s"]
    )
print(json.dumps(found))

"""Leyden's own command, with what follows on the command line; the time is that of `Trainer.fit`, as in the others."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leyden import train
from leyden.run.process import importing

with importing():  # as the command itself has it
    from lightning import Trainer

plain_fit, seconds = Trainer.fit, 0.0


def timed_fit(self: Trainer, *args: Any, **kwargs: Any) -> None:
    """The same with a clock around it."""
    global seconds
    start = time.perf_counter()
    plain_fit(self, *args, **kwargs)
    seconds = time.perf_counter() - start


Trainer.fit = timed_fit  # type: ignore[method-assign]
with tempfile.TemporaryDirectory() as folder:
    sys.argv = ["leyden.train", f"run_dir={folder}/run", "test=false", *sys.argv[1:]]
    train.main()
    metrics = json.loads(Path(folder, "run", "result.json").read_text())["metrics"]
print(json.dumps({"fit_s": seconds, "val_acc": metrics["val/acc"]}))

"""Leyden's own command, with what follows on the command line; the time is that of `trainer.fit`, as in the others."""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from leyden import train

plain_train, seconds = train.train, 0.0


def timed_train(classifier: Any, datamodule: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
    """What the command calls, with a clock around `fit`."""
    plain_fit = trainer.fit

    def fit(*args: Any, **kwargs: Any) -> None:
        global seconds
        start = time.perf_counter()
        plain_fit(*args, **kwargs)
        seconds = time.perf_counter() - start

    trainer.fit = fit
    return plain_train(classifier, datamodule, trainer, *args, **kwargs)


train.train = timed_train
with tempfile.TemporaryDirectory() as folder:
    sys.argv = ["leyden.train", f"run_dir={folder}/run", "test=false", *sys.argv[1:]]
    train.main()
    metrics = json.loads(Path(folder, "run", "result.json").read_text())["metrics"]
print(json.dumps({"fit_s": seconds, "val_acc": metrics["val/acc"]}))

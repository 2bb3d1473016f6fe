"""Ends a run before its time, so that the museum has such runs."""

import os
import signal
from typing import Any

import lightning as L

VARIABLE = "MUSEUM_ENDING"  # as interrupted@5: how, and after which optimizer step


class Ending(L.Callback):
    """Callback that interrupts a run, or fails, after an optimizer step that an environment variable names."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Do it."""
        how, _, step = os.environ.get(VARIABLE, "").partition("@")
        if step != str(trainer.global_step):
            return
        if how == "failed":
            raise RuntimeError("the run fails, as it was told")
        os.kill(os.getpid(), signal.SIGINT)

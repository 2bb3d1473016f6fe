"""A callback that makes validation slow."""

import os
import time

import lightning as L


class SlowValidation(L.Callback):
    """Sleeps when validation starts; with `only_first`, not after a requeue."""

    def __init__(self, seconds: float, only_first: bool) -> None:
        self.seconds, self.only_first = seconds, only_first

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.only_first and "SLURM_RESTART_COUNT" in os.environ):
            print("validates", flush=True)
            time.sleep(self.seconds)

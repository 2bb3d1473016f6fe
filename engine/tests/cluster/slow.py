"""Callbacks that make a run slow without computing, and that fail as a broken network or process does."""

import os
import signal
import time

import lightning as L
from torch.distributed import DistNetworkError


class SlowSteps(L.Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(self.seconds)


class SlowValidation(L.Callback):
    """Sleeps when validation starts; with `only_first`, not after a requeue."""

    def __init__(self, seconds: float, only_first: bool) -> None:
        self.seconds, self.only_first = seconds, only_first

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not (self.only_first and "SLURM_RESTART_COUNT" in os.environ):
            print("validates", flush=True)
            time.sleep(self.seconds)


class BrokenNode(L.Callback):
    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch == 1 and os.environ["SLURMD_NODENAME"] == self.name:
            raise DistNetworkError("Connection reset by peer")


class BrokenRank(L.Callback):
    """One process of a run fails in the second epoch with an error of its own, or is killed there in the first start."""

    def __init__(self, rank: int, is_killed: bool) -> None:
        self.rank, self.is_killed = rank, is_killed

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch != 1 or trainer.global_rank != self.rank:
            return
        if not self.is_killed:
            raise KeyError("of this process alone")
        if "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)

"""Callbacks that make a run slow without computing, and that fail as a broken network or process does."""

import os
import signal
import time
from pathlib import Path

import lightning as L
from torch.distributed import DistNetworkError


class SlowSteps(L.Callback):
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_start(self, *_: object) -> None:
        time.sleep(self.seconds)


class Held(L.Callback):
    """Waits after a step until there is a file, so that several runs are under way on any machine."""

    def __init__(self, step: int, until: str) -> None:
        self.step = step
        self.until = until

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        while trainer.global_step == self.step and not Path(self.until).exists():
            time.sleep(0.1)


class SlowValidation(L.Callback):
    """Sleeps in validation, but not after a requeue."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_validation_start(self, *_: object) -> None:
        if "SLURM_RESTART_COUNT" not in os.environ:
            print("validates", flush=True)
            time.sleep(self.seconds)


class Broken(L.Callback):
    """In the second epoch a node has lost its connection, or a process, by its rank, fails, or is killed in its first start."""

    def __init__(self, where: str | int, how: str) -> None:
        self.where = where
        self.how = how

    def on_train_batch_start(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.current_epoch != 1 or self.where not in (
            trainer.global_rank,
            os.environ["SLURMD_NODENAME"],
        ):
            return
        if self.how == "lost":
            raise DistNetworkError("Connection reset by peer")
        if self.how == "fails":
            raise KeyError("of this process alone")
        if "SLURM_RESTART_COUNT" not in os.environ:
            os.kill(os.getpid(), signal.SIGKILL)

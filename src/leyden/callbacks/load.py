"""Whether others take the processors that a run computes on."""

import os
import time
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from leyden.callbacks.showing import Showing
from leyden.config.terminal import warn
from leyden.run.process import num_cores

# Linux keeps here for how long a thread has computed, and for how long it could have, but others did, in nanoseconds.
SCHEDULE = Path("/proc/thread-self/schedstat")
NOTICED = 0.2  # of its time
LEAST_S = 1.0  # what is over sooner is slow for nobody


class Load(Showing):
    """Says, once, that a run is slowed by a busy machine: after its first epoch, if it waited for a processor for a fifth of the time.

    The first epoch is the first that ends a second or more after the run began to train. It is silent where the system
    does not tell (it is Linux that does).
    """

    def __init__(self) -> None:
        self.before: tuple[float, float] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the clock."""
        waited = _waited_s()
        self.before = None if waited is None else (time.monotonic(), waited)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how long the first epoch has waited."""
        if self.before is None or (took_s := time.monotonic() - self.before[0]) < LEAST_S:
            return
        if (waited_s := _waited_s()) is None:
            return
        part = (waited_s - self.before[1]) / took_s
        self.before = None
        if part > NOTICED:
            warn(
                f"slowed by a busy machine: the run waited {part:.0%} of its time for a processor "
                f"(load {os.getloadavg()[0]:.1f} on {num_cores()} cores)"
            )


def _waited_s() -> float | None:
    try:
        _, waited_ns, _ = SCHEDULE.read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return int(waited_ns) / 1e9

"""Whether others take the processors that a run computes on."""

import os
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_only

from leyden.callbacks.showing import Showing
from leyden.config.terminal import warn
from leyden.run.process import num_cores

# Linux keeps here for how long a thread has computed, and for how long it could have, but others did, in nanoseconds.
SCHEDULE = Path("/proc/thread-self/schedstat")
NOTICED = 0.2  # of its time


class Load(Showing):
    """Says, once, that a run is slowed by other processes: after its first epoch, if it waited for a processor for a fifth of the time.

    It is silent where the system does not tell (it is Linux that does).
    """

    def __init__(self) -> None:
        self.before: tuple[int, int] | None = None

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the clock."""
        self.before = _computed_and_waited()

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how long the first epoch has waited."""
        before, now = self.before, _computed_and_waited()
        self.before = None
        if before is None or now is None:
            return
        computed, waited = (new - old for old, new in zip(before, now, strict=True))
        part = waited / max(1, computed + waited)
        if part > NOTICED:
            warn(
                f"slowed by other processes: it waited {part:.0%} of its time for a processor "
                f"(load {os.getloadavg()[0]:.1f} on {num_cores()} cores)"
            )


def _computed_and_waited() -> tuple[int, int] | None:
    try:
        computed, waited, _ = SCHEDULE.read_text().split()
    except (OSError, ValueError):
        return None
    return int(computed), int(waited)

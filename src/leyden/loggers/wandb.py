"""Curves and configuration of a run for Weights & Biases."""

import hashlib
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class Wandb(WandbLogger):
    """Logs to a run of Weights & Biases whose identity follows from the path of the run directory.

    A resumed run goes on in it, and logs again the points that came after its checkpoint.

    Args:
        save_dir: The run directory, in which the files lie that are sent.
        project: The project in Weights & Biases.
        offline: Whether to send nothing; `wandb sync` does so later.
    """

    needs = "wandb"

    def __init__(self, *, save_dir: str, project: str, offline: bool) -> None:
        import wandb

        # Found now, and not when training starts.
        if not offline and os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise ValueError("there is no login; `wandb login` makes one, logger.wandb.offline=true needs none")
        identity = hashlib.sha256(save_dir.encode()).hexdigest()[:12]
        super().__init__(
            name=Path(save_dir).name, save_dir=save_dir, version=identity, project=project, offline=offline
        )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add a point to each curve; the number of the epoch, which Lightning adds, is none."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def close(self) -> None:
        """End the run in this process; else a next one would go on in it, and what is not yet written be lost."""
        if self._experiment is not None:  # `experiment` would make one
            self._experiment.finish()

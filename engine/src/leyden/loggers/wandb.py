"""Weights & Biases logger for curves and configuration."""

import hashlib
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only


class Wandb(WandbLogger):
    """Logs to a Weights & Biases run whose ID is derived from the path of the run directory.

    A resumed run continues in it, and logs the points after its checkpoint again.

    Args:
        save_dir: The run directory, which contains the files to upload.
        project: The project in Weights & Biases.
        offline: Whether to upload nothing; `wandb sync` uploads later.
    """

    needs = "wandb"

    def __init__(self, *, save_dir: str, project: str, offline: bool) -> None:
        import wandb

        # Checked here, before training starts.
        if not offline and os.environ.get("WANDB_MODE", "online") == "online" and not wandb.login(prompt=False):
            raise ValueError("not logged in; run `wandb login`, or set logger.wandb.offline=true")
        identity = hashlib.sha256(save_dir.encode()).hexdigest()[:12]
        super().__init__(
            name=Path(save_dir).name, save_dir=save_dir, version=identity, project=project, offline=offline
        )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log the metrics, without the epoch number that Lightning adds."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    def close(self) -> None:
        """Finish the W&B run in this process.

        Otherwise the next run would continue in it, and unsaved data would be lost.
        """
        if self._experiment is not None:  # `self.experiment` would create one
            self._experiment.finish()

"""Curves and pictures of a run for TensorBoard, in its directory."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class TensorBoard(TensorBoardLogger):
    """Writes event files into the run directory itself, so that a resumed run goes on in it.

    Args:
        save_dir: The run directory.
        purge_step: The step that the run goes on from; TensorBoard drops what it has from there on.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        old = any(Path(save_dir).glob("*tfevents*"))  # else there is nothing to drop
        super().__init__(
            save_dir, name="", version="", default_hp_metric=False, purge_step=purge_step if old else None
        )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Add a point to each curve; the number of the epoch, which Lightning adds, is none."""
        super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: `hparams.py` writes them when the run ends, with what came of it."""

    @rank_zero_only
    def save(self) -> None:
        """Let TensorBoard see what was written; without Lightning's `hparams.yaml`, which would be empty."""
        self.experiment.flush()

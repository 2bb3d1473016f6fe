"""Curves and pictures of a run for TensorBoard, in its directory."""

import threading
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread  # a full disk is met there alone

from leyden.loggers.event_files import cut
from leyden.run.lock import check_held


class TensorBoard(TensorBoardLogger):
    """Writes event files into the run directory itself, so that a resumed run goes on in it.

    Args:
        save_dir: The run directory.
        purge_step: The step that the run goes on from; what the files have from there on is dropped.
    """

    def __init__(self, *, save_dir: str, purge_step: int) -> None:
        # For a TensorBoard that is open and has read it; where nothing is there, there is nothing to drop.
        to_viewers = purge_step if any(Path(save_dir).glob("events*")) else None
        super().__init__(save_dir, name="", version="", default_hp_metric=False, purge_step=to_viewers)
        self.purge_step = purge_step
        self._started = False

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """TensorBoard's writer; the first use makes it, and drops what is dropped."""
        check_held(Path(self.log_dir))
        if not self._started:
            self._started = True
            threading.excepthook = _without_writers
            cut(Path(self.log_dir), self.purge_step)
        return super().experiment

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


def _without_writers(args: threading.ExceptHookArgs) -> None:
    """Show what ends a thread; not of a writer of events, which raises it again where the next one is logged."""
    if not isinstance(args.thread, _AsyncWriterThread):
        threading.__excepthook__(args)

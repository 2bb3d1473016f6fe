"""Checkpoints: when they are written, and how, so that a crash, a full disk or a stranger's file does no harm."""

import io
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from leyden.callbacks.sparse import Sparse


class SafeCheckpointIO(CheckpointIO):
    """Writes a checkpoint whole or not at all, and reads tensors and plain values only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file beside `path`, then rename: whatever happens, the older one survives."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".tmp")
        buffer = io.BytesIO()  # torch's own writer would hide the error of a full disk behind another one
        torch.save(checkpoint, buffer)
        try:
            with temporary.open("wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Read a checkpoint; as weights only, whatever is asked for.

        Raises:
            ValueError: It holds more than tensors and plain values, nothing of which was executed; or it is
                no checkpoint of a run.
        """
        try:
            checkpoint: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(f"{path} is refused: it holds more than tensors and plain values") from error
        if not isinstance(checkpoint, dict) or not {"state_dict", "global_step", "callbacks"} <= set(checkpoint):
            raise ValueError(f"{path}: not the checkpoint of a run")
        return checkpoint

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class RunCheckpoint(Checkpoint, Sparse):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run directory.

    The last one is written at the end of each epoch, after validation, and each `every_n_steps`; the best one
    at the end of an epoch with the best objective so far, or of every epoch where there is no objective.

    Args:
        metric: Name of the objective, the first one of a list counts; None for none.
        mode: `min` or `max`, or the list of those.
        every_n_steps: Optimizer steps from one `last.ckpt` to the next within an epoch; None for none.

    Raises:
        FloatingPointError: Weights are no longer finite numbers; the last good checkpoint stays.
    """

    def __init__(self, *, metric: Any, mode: Any, every_n_steps: int | None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        if isinstance(metric, list):
            metric, mode = metric[0], mode[0]
        self.metric: str | None = metric
        self.every_n_steps = every_n_steps
        self._is_better: Callable[[float, float], bool] = float.__lt__ if mode == "min" else float.__gt__
        self.best: dict[str, float] = {}  # all metrics of the best epoch
        self._step = 0

    def state_dict(self) -> dict[str, Any]:
        """The metrics of the best epoch so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.best = state_dict["best"]

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Write `last.ckpt` if it is time; at the end of an epoch that follows validation."""
        step = trainer.global_step
        # A step can take several batches; right after it no gradients are under way.
        if (
            step != self._step
            and self.every_n_steps
            and step % self.every_n_steps == 0
            and not trainer.is_last_batch
        ):
            self.save_last(trainer)
        self._step = step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `best.ckpt` if it is the best epoch, then `last.ckpt`."""
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        if self._is_best(metrics):
            self.best = {name: value for name, value in metrics.items() if not name.endswith("_step")}
            self._save(trainer, "best.ckpt")
        self.save_last(trainer)

    def save_last(self, trainer: L.Trainer) -> None:
        """Write `last.ckpt`; right after an optimizer step, or at the end of an epoch."""
        self._save(trainer, "last.ckpt")

    def _is_best(self, metrics: dict[str, float]) -> bool:
        if self.metric is None:
            return True
        if self.metric not in metrics:  # an epoch without validation
            return False
        best = self.best.get(self.metric, math.nan)
        return self._is_better(metrics[self.metric], best) or math.isnan(best)

    def _save(self, trainer: L.Trainer, name: str) -> None:
        if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
            raise FloatingPointError(
                f"weights are not finite at step {trainer.global_step}; try a smaller optimizer.lr"
            )
        trainer.save_checkpoint(Path(trainer.default_root_dir) / "checkpoints" / name)

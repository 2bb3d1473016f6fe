"""The checkpoints of a run: which one is the best, and which are kept."""

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from leyden.base.errors import UserError
from leyden.base.terminal import reason_of, warn
from leyden.exact.checkpoint import SafeCheckpointIO
from leyden.exact.files import damage, opened, replacing
from leyden.exact.last import LastCheckpoint
from leyden.exact.lightning import logged_steps
from leyden.exact.stages import Stages, stages_of
from leyden.run.lock import check_held


def _as_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    return {str(name): float(value) for name, value in values.items()}


class Moment(NamedTuple):
    """When a checkpoint's metrics were measured.

    Args:
        epoch: Number of the epoch, counted from 1.
        step: Step at which the epoch's metrics were logged.
    """

    epoch: int
    step: int


# End of the error messages about an objective that is never validated.
NO_VALIDATION = (
    "no epoch of this run ends with a validation, which selects the best one; check "
    "trainer.max_steps, check_val_every_n_epoch and val_check_interval, or set objective=null"
)


class RunCheckpoint(LastCheckpoint, Checkpoint):
    """Writes `checkpoints/last.ckpt` (see `LastCheckpoint`) and `best.ckpt` of the run.

    `best.ckpt` is a copy of it at the end of an epoch with the best objective so far, or of every
    epoch if there is no objective: no link, as who takes something out of one of the files would
    take it out of both.

    With `keep_all`, each `last.ckpt` is also kept as `epoch_3.ckpt`, or `step_900.ckpt` within an
    epoch.

    Args:
        metric: Name of the objective; None for no objective.
        mode: `min` or `max`.
        every_n_steps: Optimizer steps between writes of `last.ckpt` within an epoch; None for none.
        keep_all: True to keep all checkpoints.

    Raises:
        FloatingPointError: Weights are not finite; the previous checkpoint is kept.
    """

    state_key = "RunCheckpoint"  # fixed key in the checkpoint, independent of the class name

    def __init__(
        self,
        *,
        metric: str | None,
        mode: str | None,
        every_n_steps: int | None,
        keep_all: bool,
    ) -> None:
        super().__init__(every_n_steps)
        if type(keep_all) is not bool:
            raise ValueError(f"keep_all={keep_all}: must be true or false")
        if metric is not None and mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: must be min or max; it follows from objective.mode")
        self.metric: str | None = metric
        self.mode = mode
        self.best: dict[str, float] = {}  # metrics of the best epoch
        self.best_at: Moment | None = None  # None: unknown
        self.validates = True  # whether any epoch ends with a validation run
        self._stage = ""  # stage that logged the objective in the best epoch
        self._is_new_best = False  # whether the prepared checkpoint is the best one
        self._is_lost = False  # whether `best.ckpt` of an earlier start is lost
        self._keeps_all = keep_all

    def state_dict(self) -> dict[str, Any]:
        """Return the metrics of the best epoch, and whether training has been stopped."""
        state = super().state_dict()
        state["best"] = self.best
        state["best_at"] = [*self.best_at] if self.best_at else None
        state["stage"] = self._stage
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        _as_metrics(state_dict["best"])  # another type is refused
        super().load_state_dict(state_dict)
        self._stage = str(state_dict["stage"])

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the best metrics from `best.ckpt`, not from the resumed checkpoint.

        Drop them if this file is lost.
        """
        state = checkpoint["callbacks"].get(self.state_key, {})
        if state.get("best"):
            found = self._read_best(trainer)
            self._is_lost = found is None
            self.best, self.best_at = found or ({}, None)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add how much the loggers have logged."""
        logged = {}
        for logger in trainer.loggers:
            if hasattr(logger, "sizes") and trainer.is_global_zero:
                logged[type(logger).__name__] = logger.sizes()
        checkpoint["logged"] = logged

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write `last.ckpt`, and a copy of it if this epoch is the best."""
        stages = stages_of(trainer)
        metrics = stages.end_epoch(trainer)
        if self.metric is not None and self.metric not in metrics:
            self._check_missing(stages, self.metric)
        stage = stages.names.get(self.metric or "", "")
        is_best = self._is_best(metrics, stage)
        if is_best:
            self.best = dict(metrics)
            for name in metrics:  # the last step's value of one that also has a mean over the epoch
                self.best.pop(f"{name}_step", None)
            self._stage = stage
            self.best_at = Moment(trainer.current_epoch + 1, logged_steps(trainer) - 1)
        super().on_train_epoch_end(trainer, pl_module)
        self._is_new_best = is_best

    def path(self, trainer: L.Trainer, name: str) -> Path:
        """Return the path of a checkpoint, if this process still holds the run's lock."""
        check_held(Path(trainer.default_root_dir))
        return super().path(trainer, name)

    def refuse(self, why: str) -> None:
        """End the run.

        Raises:
            FloatingPointError: Weights are not finite.
        """
        raise FloatingPointError(f"{why}; try a smaller optimizer.lr")

    def rename(self, prepared: Path, path: Path, kept: str) -> None:
        """Rename a prepared checkpoint, after its copy as the best: it records which that is."""
        if self._is_new_best:
            self._is_new_best = False
            _copy(prepared, path.with_name("best.ckpt"))
        if self._keeps_all and kept:
            copy = path.with_name(f"{kept}.ckpt")
            # It exists if an earlier start was interrupted after this training step.
            copy.unlink(missing_ok=True)
            try:
                copy.hardlink_to(prepared)
            except OSError:  # the file system has no hard links
                _copy(prepared, copy)
        super().rename(prepared, path, kept)

    def _read_best(self, trainer: L.Trainer) -> tuple[dict[str, float], Moment] | None:
        """Return the metrics recorded in `best.ckpt`, and when they were measured.

        None, with a line, if it can't be read.
        """
        path = self.path(trainer, "best.ckpt")
        best = None
        try:
            problem = damage(path)
            if problem:
                raise ValueError(problem)
            content = SafeCheckpointIO().load_checkpoint(path)
            state = content["callbacks"][self.state_key]
            epoch, step = state["best_at"]
            at = Moment(int(epoch), int(step))
            best = _as_metrics(state["best"]), at
        except Exception as error:  # a damaged file may raise anything
            if trainer.is_global_zero:
                warn(
                    f"{path} is lost ({reason_of(error)}): the best epoch from here on is used "
                    "instead"
                )
        trainer.strategy.barrier()  # so that all processes have read the same file
        return best

    def _is_best(self, metrics: dict[str, float], stage: str) -> bool:
        if self.metric is None:
            return True
        if self.metric not in metrics:  # no validation in this epoch
            return False
        value = metrics[self.metric]
        best = self.best.get(self.metric, math.nan)
        # A best value from another stage, such as training, is not comparable.
        if math.isnan(best) or self._stage != stage:
            return True
        if self.mode == "min":
            return value < best
        return value > best

    def _check_missing(self, stages: Stages, name: str) -> None:
        """Check that an objective that is missing in this epoch can still be logged in a later one.

        Raises:
            UserError: No later epoch can log it.
        """
        stage = stages.names.get(name)
        if stage is None and stages.has_validated:
            logged = ", ".join(sorted(stages.names)) or "nothing"
            raise UserError(f"objective.metric={name}: is not logged; the run logs {logged}")
        if stage in (None, "val") and not self.validates:
            raise UserError(f"objective.metric={name}: {NO_VALIDATION}")

    def no_best_reason(self, trainer: L.Trainer) -> str:
        """Return the reason why a run has ended without a best epoch."""
        if self._is_lost:
            return (
                "best.ckpt is lost, and no epoch came after it; more trainer.max_epochs make "
                "another one"
            )
        stages = stages_of(trainer)
        key = f"objective.metric={self.metric}"
        if stages.names.get(str(self.metric)) == "val":
            return f"{key}: the run has ended before an epoch ended with a validation"
        if self.validates and not stages.has_validated:
            return f"{key}: was not logged when the run ended before its first validation"
        return f"{key}: was not logged when the run ended"


def _copy(source: Path, path: Path) -> None:
    with opened(source) as content, replacing(path) as file:
        shutil.copyfileobj(content, file)

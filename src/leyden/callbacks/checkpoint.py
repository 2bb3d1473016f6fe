"""Checkpoints: when they are written, and which is the best."""

import math
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from leyden.callbacks.checkpoint_files import CheckpointFiles
from leyden.callbacks.stages import stages_of
from leyden.config.mistakes import UserError
from leyden.config.terminal import warn

# What a refused objective is told, before training or when its stage is known.
NO_VALIDATION = (
    "the run validates at the end of no epoch, where the best one is chosen; mind trainer.max_steps, "
    "check_val_every_n_epoch and val_check_interval, or choose objective=null"
)


class RunCheckpoint(Checkpoint):
    """Keeps `checkpoints/last.ckpt` and `checkpoints/best.ckpt` in the run directory.

    The last one is written at the end of each epoch, after validation, and each `every_n_steps`; the best one
    at the end of an epoch with the best objective so far, or of every epoch where there is no objective.

    Lightning passes the values of a step on to the loggers after all hooks of that step. So a checkpoint is only
    prepared there (`CheckpointFiles`), and takes its name in the next hook of all.

    With `keep="every"`, what was `last.ckpt` stays under a name of its own: `epoch_3.ckpt`, or `step_900.ckpt` within an epoch.

    Args:
        metric: Name of the objective, the first one of a list counts; None for none.
        mode: `min` or `max`, or the list of those.
        every_n_steps: Optimizer steps from one `last.ckpt` to the next within an epoch; None for none.
        keep: `every`, or None.
        max_kept_gib: How much the kept ones may take, in GiB; the oldest make room.

    Raises:
        FloatingPointError: Weights are no longer finite numbers; the last good checkpoint stays.
    """

    state_key = "RunCheckpoint"  # in the checkpoint, whatever the class is called

    def __init__(
        self,
        *,
        metric: Any,
        mode: Any,
        every_n_steps: int | None,
        keep: Literal["every"] | None,
        max_kept_gib: float,
    ) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise ValueError(f"every_n_steps={every_n_steps}: must be a positive whole number or null")
        if keep not in (None, "every"):
            raise ValueError(f"keep={keep}: must be every, or null")
        if type(max_kept_gib) not in (int, float) or not 0 < max_kept_gib < math.inf:
            raise ValueError(f"max_kept_gib={max_kept_gib}: must be a positive number")
        every = metric if isinstance(metric, list) else [metric]
        # By an epoch that is the best; all epochs have their number of parameters in common.
        self.needed = [
            name for name in every if name is not None and (name != "num_parameters" or name == every[0])
        ]
        if isinstance(metric, list):
            metric, mode = metric[0], mode[0]
        if metric is not None and mode not in ("min", "max"):
            raise ValueError(f"mode={mode}: must be min or max; it follows from objective.mode")
        self.metric: str | None = metric
        self.mode = mode
        self.every_n_steps = every_n_steps
        self._is_better: Callable[[float, float], bool] = float.__lt__ if mode == "min" else float.__gt__
        self.best: dict[str, float] = {}  # all metrics of the best epoch
        self.last: dict[str, float] = {}  # those of the last one
        self.is_over = False  # something has stopped the run, as early stopping does
        self.within_epochs = True  # whether a run can go on from there; else `last.ckpt` is that of the last epoch
        self.validates = True  # whether any epoch ends with a validation
        self._stage = ""  # that has logged the objective in the best epoch
        self._step = 0
        self._was_best = False
        self._files = CheckpointFiles(self.state_key, round(max_kept_gib * 2**30) if keep else 0)

    def state_dict(self) -> dict[str, Any]:
        """The metrics of the best epoch so far, and of the last one; and whether that is the last one of all."""
        return {"best": self.best, "last": self.last, "is_over": self.is_over, "stage": self._stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them over."""
        self.best = state_dict["best"]
        self.last = state_dict["last"]
        self.is_over = state_dict["is_over"]
        self._stage = state_dict["stage"]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End at once what was stopped before; go on counting steps."""
        self._step = trainer.global_step
        trainer.should_stop = trainer.should_stop or self.is_over

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Believe what the best checkpoint says of itself; forget a best epoch of which the weights are lost."""
        self._files.drop(trainer)
        self._was_best = bool(self.best)
        if self._was_best:
            self.best = self._files.read_best(trainer, "the best epoch from here on takes its place") or {}

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Write `last.ckpt` if it is time; at the end of an epoch that follows validation."""
        step = trainer.global_step
        # A step can take several batches; right after it no gradients are under way.
        if (
            self.every_n_steps
            and step // self.every_n_steps != self._step // self.every_n_steps  # a batch can take several steps
            and not trainer.is_last_batch
        ):
            self.save_last(trainer, kept=f"step_{step}")
        self._step = step

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save as best, if it is the best epoch, then as last."""
        metrics = stages_of(trainer).end_epoch(trainer)
        for name in self.needed:
            if name not in metrics:
                self._check_missing(trainer, name)
        # The value of a last step is no metric of an epoch that has a mean of it.
        steps = {f"{name}_step" for name in metrics}
        self.last = {name: value for name, value in metrics.items() if name not in steps}
        self.is_over = trainer.should_stop
        stage = stages_of(trainer).names.get(self.metric or "", "")
        if self._is_best(metrics, stage):
            self.best, self._stage = self.last, stage
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt", f"epoch_{trainer.current_epoch + 1}")

    def save_last(self, trainer: L.Trainer, kept: str = "") -> None:
        """Prepare `last.ckpt` within an epoch, right after an optimizer step; `kept` names what may stay of it."""
        if self.within_epochs:
            self._save(trainer, "last.ckpt", kept)
        elif trainer.is_global_zero:
            warn(
                "these data can't be gone on with within an epoch: the run will go on from the end of the last one"
            )

    def commit(self, trainer: L.Trainer, *args: Any) -> None:
        """Let what is prepared take its name; in the first hook after the loggers have got its points."""
        self._files.commit(trainer)

    on_train_batch_start: Any = commit
    on_train_epoch_start: Any = commit
    on_train_end: Any = commit

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the last weights as best, where those are lost and no epoch has followed: the run must have an end."""
        lost = self._was_best or self.best
        if lost and self._files.read_best(trainer, "the last weights take their place") is None:
            self.best = self.last if self.metric in (None, *self.last) else {}
            self._files.take_last_as_best(trainer, self.best)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Drop what is prepared: its points are not written."""
        self._files.drop(trainer)

    def _is_best(self, metrics: dict[str, float], stage: str) -> bool:
        if self.metric is None:
            return True
        if not {*self.needed} <= {*metrics}:  # an epoch without validation
            return False
        best = self.best.get(self.metric, math.nan)
        if math.isnan(best) or self._stage not in ("", stage):  # older checkpoints don't have the stage
            return True  # or the best so far was of training, before validation has logged the same name
        return self._is_better(metrics[self.metric], best)

    def _check_missing(self, trainer: L.Trainer, name: str) -> None:
        """Make sure that an objective which this epoch has no value of can come in a later one.

        Raises:
            UserError: It can't.
        """
        stages = stages_of(trainer)
        stage, logs = stages.names.get(name), ", ".join(sorted(stages.names)) or "nothing"
        if stage is None and stages.has_validated:
            raise UserError(f"objective.metric={name}: is not logged; the run logs {logs}")
        if stage is None and not self.validates:
            epoch = trainer.current_epoch + 1
            raise UserError(f"objective.metric={name}: was not logged in epoch {epoch}, and {NO_VALIDATION}")
        if stage == "val" and not self.validates:
            raise UserError(f"objective.metric={name}: is logged in validation, and {NO_VALIDATION}")

    def why_none_is_best(self, trainer: L.Trainer) -> str:
        """Return why a run has ended without a best epoch."""
        stages = stages_of(trainer)
        name = next((name for name in self.needed if name not in stages.names), self.needed[0])
        if stages.names.get(name) == "val":
            return f"objective.metric={name}: the run has ended before an epoch ended with a validation"
        before = "" if stages.has_validated or not self.validates else " before its first validation"
        return f"objective.metric={name}: was not logged when the run ended{before}"

    def _save(self, trainer: L.Trainer, name: str, kept: str = "") -> None:
        if not all(parameter.isfinite().all() for parameter in trainer.lightning_module.parameters()):
            raise FloatingPointError(
                f"weights are not finite at step {trainer.global_step}; try a smaller optimizer.lr"
            )
        self._files.prepare(trainer, name, kept)

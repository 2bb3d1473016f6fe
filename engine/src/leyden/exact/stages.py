"""The stage that logged each metric, and the metrics of an epoch."""

from collections.abc import Collection
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from leyden.exact.lightning import training_names, validation_names
from leyden.exact.memory import say


class Stages(L.Callback):
    """Records the stage in which each metric was logged, and returns the metrics of an epoch.

    Lightning merges all logged values into `trainer.callback_metrics`, where a value remains until its name is
    logged again. So a value there can belong to the weights of an earlier step. Validation metrics count for an
    epoch only if the validation ran after the epoch's last step. A name that both stages log counts as
    validation's, since a model is selected on data that it has not been trained on; a warning reports this.

    The checkpoint contains the names and Lightning's metrics, which Lightning does not save. So schedules and early
    stopping of a resumed run see the same metrics as in a run that was never stopped.
    """

    state_key = "Stages"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # `train` or `val`, by metric name
        self.epoch: dict[
            str, float
        ] = {}  # metrics of the last epoch, including those of a validation within it
        self.has_validated = False
        self.validation: dict[str, Tensor] = {}  # metrics of this epoch's last validation so far
        self._validated_step = -1
        self._restored: dict[str, Tensor] = {}  # Lightning's metrics from the checkpoint
        self._reported: set[str] = set()  # names that were reported

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the trainer, which holds the metrics."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the stages by metric name, and Lightning's metrics."""
        metrics = {
            name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()
        }
        return {"names": dict(self.names), "metrics": metrics, "has_validated": self.has_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the names; metrics are restored in `on_train_start`, since Lightning clears its own before."""
        names = dict(state_dict["names"])
        if unknown := {*names.values()} - {"train", "val"}:
            raise ValueError(f"unknown stages {unknown}")
        self.names, self.has_validated = names, bool(state_dict["has_validated"])
        self._restored = dict(state_dict["metrics"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore Lightning's metrics."""
        for name, value in self._restored.items():
            trainer.callback_metrics.setdefault(name, value.to(trainer.strategy.root_device))
        self._restored = {}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the previous epoch's validation metrics."""
        self.validation = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation's metrics, and the step that they belong to."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        found = trainer.callback_metrics
        names = validation_names(trainer)
        self.validation = {name: found[name] for name in names if name in found}
        self._validated_step, self.has_validated = trainer.global_step, True
        self._record(trainer, names, "val")

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Record the names logged in an incomplete epoch, since its curves are drawn."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._record(trainer, training_names(trainer), "train")

    def by_stage(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return these metric names by the stage that logged them.

        Names without a known stage are left out.
        """
        found: dict[str, list[str]] = {}
        for stage in ("train", "val"):
            of_stage = [name for name in names if self.names.get(name) == stage]
            if of_stage:
                found[stage] = of_stage
        return found

    def end_epoch(self, trainer: L.Trainer) -> dict[str, float]:
        """Return the metrics of the epoch that ends, for its last weights.

        Must be called after the module has logged all of them. A module may log a mean over its own process only.
        So all processes get the metrics of rank 0, and make the same decisions.
        """
        training = training_names(trainer)
        found = dict(trainer.callback_metrics)
        self._record(trainer, training, "train")
        trained = {
            name: value
            for name, value in found.items()
            if name in training and self.names[name] == "train"
        }
        every = {**trained, **self.validation}
        values = {name: every[name].item() for name in found if name in every}
        self.epoch, self.names, validated = trainer.strategy.broadcast(
            (values, self.names, [*self.validation])
        )
        if self._validated_step == trainer.global_step:  # the current weights
            return self.epoch
        return {name: value for name, value in self.epoch.items() if name not in validated}

    def _record(self, trainer: L.Trainer, names: Collection[str], stage: str) -> None:
        both = {name for name in names if self.names.get(name, stage) != stage} - self._reported
        self._reported |= both
        if both:
            text = ", ".join(sorted(both))
            say(
                f"{text}: logged in training and in validation; the run's metrics use the values of validation"
            )
        self.names.update(
            {name: stage for name in names if stage == "val" or name not in self.names}
        )


@runtime_checkable
class FollowsValidation(Protocol):
    """Callback that needs a validation metric; checked before training if the task declares its metrics."""

    def check_logged(self, names: Collection[str]) -> None:
        """Check that the metric is one of those that validation logs.

        Raises:
            ValueError: The metric is not logged.
        """


def stages_of(trainer: L.Trainer) -> Stages:
    """Return the trainer's `Stages` callback."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, Stages))

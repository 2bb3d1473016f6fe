"""The stage that logged each metric, and the metrics of an epoch."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

from leyden.exact.lightning import training_names, validation_names
from leyden.exact.memory import say

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer

FITTING = "fit"  # the value of Lightning's `TrainerFn`, a text


class Stages:
    """Records the stage in which each metric was logged, and returns the metrics of an epoch.

    Lightning merges all logged values into `trainer.callback_metrics`, where a value remains until
    its name is logged again. So a value there can belong to the weights of an earlier step.
    Validation metrics count for an epoch only if the validation ran after the epoch's last step. A
    name that both stages log counts as validation's, since a model is selected on data that it has
    not been trained on; a warning reports this.

    The checkpoint contains the names and Lightning's metrics, which Lightning does not save. So
    schedules and early stopping of a resumed run see the same metrics as in a run that was never
    stopped.
    """

    state_key = "Stages"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # `train` or `val`, by metric name
        # Metrics of the last epoch, including those of a validation within it.
        self.epoch: dict[str, float] = {}
        self.has_validated = False
        # Metrics of this epoch's last validation so far.
        self.validation: dict[str, Tensor] = {}
        self._validated_step = -1
        self._restored: dict[str, Tensor] = {}  # Lightning's metrics from the checkpoint
        self._reported: set[str] = set()  # names that were reported

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Store the trainer, which holds the metrics."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the stages by metric name, and Lightning's metrics."""
        metrics: dict[str, Tensor] = {}
        for name, value in self._trainer.callback_metrics.items():
            metrics[name] = value.detach().cpu()
        return {
            "names": dict(self.names),
            "metrics": metrics,
            "has_validated": self.has_validated,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the names.

        Metrics are restored in `on_train_start`, since Lightning clears its own before.
        """
        names = dict(state_dict["names"])
        for stage in names.values():
            if stage not in ("train", "val"):
                raise ValueError(f"unknown stage {stage}")
        self.names = names
        self.has_validated = bool(state_dict["has_validated"])
        self._restored = dict(state_dict["metrics"])

    def on_train_start(self, trainer: Trainer, *args: Any) -> None:
        """Restore Lightning's metrics."""
        found = trainer.callback_metrics
        device = trainer.strategy.root_device
        for name, value in self._restored.items():
            found.setdefault(name, value.to(device))
        self._restored = {}

    def on_train_epoch_start(self, *args: Any) -> None:
        """Discard the previous epoch's validation metrics."""
        self.validation = {}

    def on_validation_end(self, trainer: Trainer, *args: Any) -> None:
        """Record the validation's metrics, and the step that they belong to."""
        if trainer.state.fn != FITTING:
            return
        found = trainer.callback_metrics
        names = validation_names(trainer)
        self.validation = {}
        for name in names:
            if name in found:
                self.validation[name] = found[name]
        self._validated_step = trainer.global_step
        self.has_validated = True
        self._record(names, "val")

    def on_exception(self, trainer: Trainer, *args: Any) -> None:
        """Record the names logged in an incomplete epoch, since its curves are drawn."""
        if trainer.state.fn == FITTING:
            self._record(training_names(trainer), "train")

    def by_stage(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return these metric names by the stage that logged them.

        Names without a known stage are left out.
        """
        found: dict[str, list[str]] = {}
        for stage in ("train", "val"):
            for name in names:
                if self.names.get(name) == stage:
                    found.setdefault(stage, []).append(name)
        return found

    def end_epoch(self, trainer: Trainer) -> dict[str, float]:
        """Return the metrics of the epoch that ends, for its last weights.

        Must be called after the module has logged all of them. A module may log a mean over its own
        process only. So all processes get the metrics of rank 0, and make the same decisions.
        """
        training = training_names(trainer)
        self._record(training, "train")
        values: dict[str, float] = {}
        for name, value in trainer.callback_metrics.items():
            if name in self.validation:
                values[name] = self.validation[name].item()
            elif name in training and self.names[name] == "train":
                values[name] = value.item()
        mine = (values, self.names, list(self.validation))
        self.epoch, self.names, validated = trainer.strategy.broadcast(mine)
        current = dict(self.epoch)
        if self._validated_step != trainer.global_step:  # of earlier weights
            for name in validated:
                current.pop(name, None)
        return current

    def _record(self, names: Collection[str], stage: str) -> None:
        both: set[str] = set()
        for name in names:
            if self.names.get(name, stage) != stage:
                both.add(name)
            if stage == "val":
                self.names[name] = stage
            else:
                self.names.setdefault(name, stage)
        new = sorted(both - self._reported)
        self._reported |= both
        if new:
            text = ", ".join(new)
            say(
                f"{text}: logged in training and in validation; "
                "the run's metrics use the values of validation"
            )


@runtime_checkable
class FollowsValidation(Protocol):
    """Callback that needs a validation metric.

    It is checked before training if the task declares its metrics.
    """

    def check_logged(self, names: Collection[str]) -> None:
        """Check that the metric is one of those that validation logs.

        Raises:
            ValueError: The metric is not logged.
        """


def stages_of(trainer: Trainer) -> Stages:
    """Return the trainer's `Stages` callback."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Stages):
            return callback
    raise LookupError("the trainer has no Stages")

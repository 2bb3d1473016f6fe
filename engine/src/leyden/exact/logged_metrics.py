"""Metrics that a LightningModule has logged in the current epoch, and the stage that logged each of them.

Lightning forgets its running results and the states of metrics when a run is stopped within an epoch:
`self.log(on_epoch=True)` would then return a mean over the rest of the epoch only. Access to them is private.
"""

import builtins
from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torchmetrics import Metric

from leyden.config.terminal import warn

# Metadata of a logged value, from the arguments of `self.log`; plain values only.
OPTIONS = (
    "fx",
    "name",
    "prog_bar",
    "logger",
    "on_step",
    "on_epoch",
    "enable_graph",
    "add_dataloader_idx",
    "dataloader_idx",
    "metric_attribute",
)


def logged_state(trainer: L.Trainer) -> dict[str, Any]:
    """Return the values logged in the current training epoch, with metadata, by Lightning's keys.

    Of metric objects, whose states are saved separately, only the names are included.
    """
    results = [(key, result) for key, result in _results(trainer).items() if not result.has_reset]
    values = {
        key: {
            "options": {name: getattr(result.meta, name) for name in OPTIONS},
            "reduce_fx": [result.meta.reduce_fx.__name__, result.meta.reduce_fx in (sum, max, min)],
            "sync": [result.meta.sync.should, result.meta.sync.rank_zero_only],
            "metric": metric_state(result),
            "step": None if result._forward_cache is None else _copy_to(result._forward_cache, torch.device("cpu")),
        }
        for key, result in results
        if result.is_tensor and result.meta.sync.group is None
    }
    return {"values": values, "metrics": [r.meta.metric_attribute for _, r in results if not r.is_tensor]}


class LoggedState:
    """Logged results rebuilt from a state of `logged_state`; the constructor raises if the state is damaged."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, kept: dict[str, Any]) -> None:
        self.trainer = trainer
        self.values = {key: _result(trainer, value) for key, value in kept["values"].items()}
        self.metrics: list[Any] = [module.get_submodule(name) for name in kept["metrics"] if name is not None]

    def restore(self) -> None:
        """Restore the results in Lightning."""
        _results(self.trainer).update(self.values)
        # Otherwise the first logged value would reset them, as results of the previous epoch.
        self.trainer._logger_connector._first_loop_iter = True

    def discard(self) -> None:
        """Undo `restore`, as the restored results belong to an epoch that is complete."""
        _results(self.trainer).clear()
        self.trainer._logger_connector._first_loop_iter = None
        for metric in self.metrics:
            metric.reset()


def _result(trainer: L.Trainer, kept: dict[str, Any]) -> _ResultMetric:
    name, is_builtin = kept["reduce_fx"]  # a function of torch, or the builtin of the same name
    if name not in ("mean", "sum", "max", "min"):
        raise ValueError(f"values are not reduced by {name}")
    meta = _Metadata(**kept["options"], reduce_fx=getattr(builtins if is_builtin else torch, name))
    should, rank_zero_only = kept["sync"]
    meta.sync = _Sync(_should=should, fn=trainer.strategy.reduce, rank_zero_only=rank_zero_only)
    result = _ResultMetric(meta, is_tensor=True).to(trainer.strategy.root_device)
    restore_metric(result, kept["metric"])
    # The last step's value, which Lightning logs again at each step.
    if isinstance(step := kept["step"], Tensor):
        result._forward_cache = _copy_to(step, result.device)
    return result


def metric_state(metric: Metric) -> dict[str, Any]:
    """Return the states of a metric, on the CPU, and its number of updates."""
    states = {name: _copy_to(value, torch.device("cpu")) for name, value in metric.metric_state.items()}
    return {"states": states, "num_updates": metric.update_count}


def restore_metric(metric: Metric, kept: dict[str, Any]) -> None:
    """Restore a metric's state, as returned by `metric_state`.

    Raises:
        TypeError: The state belongs to another metric.
    """
    for name, here in metric.metric_state.items():
        value = kept["states"][name]
        is_like_it = isinstance(value, list) and isinstance(here, list)
        if isinstance(value, Tensor) and isinstance(here, Tensor):  # a number may become several, as in R2Score
            is_like_it = here.numel() == 1 or value.shape == here.shape
        if not is_like_it:
            raise TypeError(f"the state {name} of {type(metric).__name__} has the wrong type")
        setattr(metric, name, _copy_to(value, metric.device))
    if type(kept["num_updates"]) is not int:
        raise TypeError(f"the number of updates of {type(metric).__name__} is not a number")
    # Without updates `compute` warns; there is no public way to set their number.
    metric._update_count = kept["num_updates"]
    metric._computed = None


def _copy_to(value: Any, device: torch.device) -> Any:
    """Return a copy of a state, a tensor or a list of tensors, on a device."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    return [_copy_to(part, device) for part in value]


def _results(trainer: L.Trainer) -> _ResultCollection:
    results: _ResultCollection = trainer.fit_loop.epoch_loop._results
    return results


def logged_steps(trainer: L.Trainer) -> int:
    """Return the current step of `self.log`: the number of batches after which an optimizer has stepped.

    `trainer.global_step` counts each step if several optimizers step in a batch. Lightning has no public name for
    this number.
    """
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def training_names(trainer: L.Trainer) -> set[str]:
    """Return the names in `trainer.callback_metrics` that were logged in the current training epoch so far."""
    return _metric_names(_results(trainer), steps=True)


def validation_names(trainer: L.Trainer) -> set[str]:
    """Return the names in `trainer.callback_metrics` that the last validation within training has logged."""
    return _metric_names(trainer.fit_loop.epoch_loop.val_loop._results, steps=False)


def _metric_names(results: _ResultCollection, *, steps: bool) -> set[str]:
    """Return Lightning's names of the means over an epoch and, with `steps`, of the step values."""
    return {
        name
        for result in results.values()
        if not result.has_reset and (steps or result.meta.on_epoch)
        for on_step in {False, steps}
        for name in results._forked_name(result, on_step)  # includes the dataloader index
    }


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
        self.epoch: dict[str, float] = {}  # metrics of the last epoch, including those of a validation within it
        self.has_validated = False
        self._validation: dict[str, Tensor] = {}  # metrics of this epoch's last validation
        self._validated_step = -1
        self._restored: dict[str, Tensor] = {}  # Lightning's metrics from the checkpoint
        self._reported: set[str] = set()  # names that were reported

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Store the trainer, which holds the metrics."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the stages by metric name, and Lightning's metrics."""
        metrics = {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()}
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
        self._validation = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the validation's metrics, and the step that they belong to."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        found = trainer.callback_metrics
        names = validation_names(trainer)
        self._validation = {name: found[name] for name in names if name in found}
        self._validated_step, self.has_validated = trainer.global_step, True
        self._record(trainer, names, "val")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Record the names logged in an incomplete epoch, since its curves are drawn."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._record(trainer, training_names(trainer), "train")

    def is_validated(self, trainer: L.Trainer) -> bool:
        """Return whether the current weights have been validated."""
        return self._validated_step == trainer.global_step

    @property
    def validation(self) -> Mapping[str, Tensor]:
        """Metrics of this epoch's last validation so far."""
        return self._validation

    def by_stage(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return these metric names by the stage that logged them.

        Names without a known stage are left out.
        """
        found = {stage: [name for name in names if self.names.get(name) == stage] for stage in ("train", "val")}
        return {stage: names for stage, names in found.items() if names}

    def end_epoch(self, trainer: L.Trainer) -> dict[str, float]:
        """Return the metrics of the epoch that ends, for its last weights.

        Must be called after the module has logged all of them. A module may log a mean over its own process only.
        So all processes get the metrics of rank 0, and make the same decisions.
        """
        training = training_names(trainer)
        found = dict(trainer.callback_metrics)
        self._record(trainer, training, "train")
        trained = {name: value for name, value in found.items() if name in training and self.names[name] == "train"}
        every = {**trained, **self._validation}
        values = {name: every[name].item() for name in found if name in every}
        self.epoch, self.names, validated = trainer.strategy.broadcast((values, self.names, [*self._validation]))
        if self.is_validated(trainer):
            return self.epoch
        return {name: value for name, value in self.epoch.items() if name not in validated}

    def _record(self, trainer: L.Trainer, names: Collection[str], stage: str) -> None:
        both = {name for name in names if self.names.get(name, stage) != stage} - self._reported
        self._reported |= both
        if both and trainer.is_global_zero:
            text = ", ".join(sorted(both))
            warn(f"{text}: logged in training and in validation; the run's metrics use the values of validation")
        self.names.update({name: stage for name in names if stage == "val" or name not in self.names})


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

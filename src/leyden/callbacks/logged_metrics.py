"""Metrics that a LightningModule has logged in the epoch so far, and the stage that has logged each.

Lightning forgets its running results and the states of metrics when a run is stopped within an epoch: `self.log(on_epoch=True)`
then gives a mean over the rest of the epoch only. It has no public way to them.
"""

import builtins
import re
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

# Of a logged value, as `self.log` takes them; they are plain values.
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
    """What was logged in the epoch of training: values by Lightning's key; of metrics, whose states are theirs, the names."""
    results = [(key, result) for key, result in _results(trainer).items() if not result.has_reset]
    values = {
        key: {
            "options": {name: getattr(result.meta, name) for name in OPTIONS},
            "reduce_fx": [result.meta.reduce_fx.__name__, result.meta.reduce_fx in (sum, max, min)],
            "sync": [result.meta.sync.should, result.meta.sync.rank_zero_only],
            "metric": metric_state(result),
            "step": None if result._forward_cache is None else _to(result._forward_cache, torch.device("cpu")),
        }
        for key, result in results
        if result.is_tensor and result.meta.sync.group is None
    }
    return {"values": values, "metrics": [r.meta.metric_attribute for _, r in results if not r.is_tensor]}


class Logged:
    """What `state` gave, made ready to go on from; a damaged one shows here.

    Args:
        trainer: Lightning's, which has its strategy.
        module: What is trained.
        kept: As `state` gave it.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, kept: dict[str, Any]) -> None:
        self.trainer = trainer
        self.values = {key: _result(trainer, value) for key, value in kept["values"].items()}
        self.metrics: list[Any] = [module.get_submodule(name) for name in kept["metrics"] if name is not None]

    def restore(self) -> None:
        """Let Lightning go on from there."""
        _results(self.trainer).update(self.values)
        # Else the first value that is logged would reset them, as those of the epoch before.
        self.trainer._logger_connector._first_loop_iter = True

    def forget(self) -> None:
        """Undo that: what was kept is of an epoch that is over."""
        _results(self.trainer).clear()
        self.trainer._logger_connector._first_loop_iter = None
        for metric in self.metrics:
            metric.reset()


def _result(trainer: L.Trainer, kept: dict[str, Any]) -> _ResultMetric:
    name, is_builtin = kept["reduce_fx"]  # torch's, or Python's of the same name
    meta = _Metadata(**kept["options"], reduce_fx=getattr(builtins if is_builtin else torch, name))
    should, rank_zero_only = kept["sync"]
    meta.sync = _Sync(_should=should, fn=trainer.strategy.reduce, rank_zero_only=rank_zero_only)
    result = _ResultMetric(meta, is_tensor=True).to(trainer.strategy.root_device)
    restore_metric(result, kept["metric"])
    if isinstance(
        step := kept.get("step"), Tensor
    ):  # the last step's value, which Lightning logs again at each step
        result._forward_cache = _to(step, result.device)
    return result


def metric_state(metric: Metric) -> dict[str, Any]:
    """The states of a metric, on the CPU, and how often it was updated."""
    states = {name: _to(value, torch.device("cpu")) for name, value in metric.metric_state.items()}
    return {"states": states, "num_updates": metric.update_count}


def restore_metric(metric: Metric, kept: dict[str, Any]) -> None:
    """Let a metric go on from what `metric_state` gave.

    Raises:
        TypeError: It is that of another one.
    """
    for name, here in metric.metric_state.items():
        value = kept["states"][name]
        is_like_it = value.shape == here.shape if isinstance(value, Tensor) and isinstance(here, Tensor) else False
        if not is_like_it and not (isinstance(value, list) and isinstance(here, list)):
            raise TypeError(f"the state {name} of {type(metric).__name__} is no such thing")
        setattr(metric, name, _to(value, metric.device))
    if type(kept["num_updates"]) is not int:
        raise TypeError(f"the number of updates of {type(metric).__name__} is no number")
    # Without updates `compute` warns; there is no public way to say that there were some.
    metric._update_count = kept["num_updates"]
    metric._computed = None


def _to(value: Any, device: torch.device) -> Any:
    """A copy of a state, which is a tensor or a list of those."""
    if isinstance(value, Tensor):
        return value.detach().to(device, copy=True)
    return [_to(part, device) for part in value]


def _results(trainer: L.Trainer) -> _ResultCollection:
    results: _ResultCollection = trainer.fit_loop.epoch_loop._results
    return results


def training_names(trainer: L.Trainer) -> set[str]:
    """Return the names in `trainer.callback_metrics` of all that was logged in the epoch of training so far."""
    return _names(_results(trainer), steps=True)


def validation_names(trainer: L.Trainer) -> set[str]:
    """Return the names in `trainer.callback_metrics` of all that the last validation within training has logged."""
    return _names(trainer.fit_loop.epoch_loop.val_loop._results, steps=False)


def _names(results: _ResultCollection, *, steps: bool) -> set[str]:
    """Return the names of means over an epoch, with `steps` also those of values of a step, as Lightning builds them."""
    return {
        name
        for result in results.values()
        if not result.has_reset and (steps or result.meta.on_epoch)
        for on_step in {False, steps}
        for name in results._forked_name(result, on_step)  # with the number of the loader
    }


# Words that tell a metric's stage to a reader. They place a curve beside others, and decide nothing else.
WORDS = {"train", "training", "fit", "val", "valid", "validation", "dev", "eval", "test", "testing"}


class Stages(L.Callback):
    """Notes the stage in which each name was logged, and reports the metrics of an epoch.

    Lightning merges all that is logged into `trainer.callback_metrics`, where a value stays until its name is logged again.
    So a value there can belong to the weights of an earlier step. What validation has logged counts for an epoch only
    if it ran after the epoch's last step. A name that both stages log is validation's: a model is selected on what
    it has not been trained on. A line announces that.

    The checkpoint holds the names and Lightning's metrics, which it forgets: a resumed run, its schedules and its early
    stopping find what the run that was never stopped would find.
    """

    state_key = "Stages"  # in the checkpoint, whatever the class is called

    def __init__(self) -> None:
        self.names: dict[str, str] = {}  # `train` or `val` by the name of a metric
        self.epoch: dict[str, float] = {}  # all metrics of the last epoch, those of a validation within it, too
        self.has_validated = False
        self._validation: dict[str, Tensor] = {}  # what the last validation of this epoch has logged
        self._validated_step = -1
        self._kept: dict[str, Tensor] = {}  # of Lightning, from the checkpoint
        self._in_both: set[str] = set()  # names that were announced

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remember the trainer, which has the metrics."""
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        """Return the names with their stages, and Lightning's metrics."""
        metrics = {name: value.detach().cpu() for name, value in self._trainer.callback_metrics.items()}
        return {"names": dict(self.names), "metrics": metrics, "has_validated": self.has_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them; the metrics when training starts, as Lightning empties its own before."""
        self.names, self.has_validated = dict(state_dict["names"]), bool(state_dict["has_validated"])
        self._kept = dict(state_dict["metrics"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore Lightning's metrics."""
        for name, value in self._kept.items():
            trainer.callback_metrics.setdefault(name, value.to(trainer.strategy.root_device))
        self._kept = {}

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget the validation of the epoch before."""
        self._validation = {}

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take what validation has logged, and the step that it belongs to."""
        if trainer.state.fn != TrainerFn.FITTING:
            return
        found = trainer.callback_metrics
        names = validation_names(trainer)
        self._validation = {name: found[name] for name in names if name in found}
        self._validated_step, self.has_validated = trainer.global_step, True
        self._note(trainer, names, "val")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Note what was logged in an epoch that has no end: its curves are drawn."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._note(trainer, training_names(trainer), "train")

    def is_validated(self, trainer: L.Trainer) -> bool:
        """Return whether the last validation was that of the weights as they are."""
        return self._validated_step == trainer.global_step

    @property
    def validation(self) -> Mapping[str, Tensor]:
        """The metrics of this epoch's last validation so far."""
        return self._validation

    def by_stage(self, names: Collection[str]) -> dict[str, list[str]]:
        """Return these names of metrics by the stage that has logged them; older checkpoints don't have it."""
        found = {stage: [name for name in names if self.names.get(name) == stage] for stage in ("train", "val")}
        return {stage: names for stage, names in found.items() if names}

    def end_epoch(self, trainer: L.Trainer) -> dict[str, float]:
        """Return the metrics of the epoch that ends, of its last weights; to be called after the module has logged all.

        A module may log a mean over its own process only. So all processes get the metrics of the first one, and decide alike.
        """
        training = training_names(trainer)
        found = dict(trainer.callback_metrics)
        self._note(trainer, training, "train")
        trained = {name: value for name, value in found.items() if name in training and self.names[name] == "train"}
        every = {**trained, **self._validation}
        values = {name: every[name].item() for name in found if name in every}
        self.epoch, self.names, validated = trainer.strategy.broadcast((values, self.names, [*self._validation]))
        if self.is_validated(trainer):
            return self.epoch
        return {name: value for name, value in self.epoch.items() if name not in validated}

    def _note(self, trainer: L.Trainer, names: Collection[str], stage: str) -> None:
        both = {name for name in names if self.names.get(name, stage) != stage} - self._in_both
        self._in_both |= both
        if both and trainer.is_global_zero:
            told = ", ".join(sorted(both))
            warn(f"{told}: logged in training and in validation; the metrics of the run are those of validation")
        self.names.update({name: stage for name in names if stage == "val" or name not in self.names})


def chart_of(name: str) -> str:
    """Return the text under which curves of training and validation are drawn together.

    Example:
        >>> [chart_of(name) for name in ("train/acc_epoch", "val_acc", "valid/acc/dataloader_idx_0", "acc.test")]
        ['acc', 'acc', 'acc', 'acc']
        >>> chart_of("val"), chart_of("f1_macro")
        ('val', 'f1_macro')
    """
    base = re.sub(r"/dataloader_idx_[0-9]+$", "", name).removesuffix("_step").removesuffix("_epoch")
    words = re.split(r"(?<=[/_. -])|(?=[/_. -])", base)  # with what stands between them
    kept = next((words[:n] + words[n + 1 :] for n, word in enumerate(words) if word.lower() in WORDS), words)
    return "".join(kept).strip("/_. -") or base


@runtime_checkable
class FollowsValidation(Protocol):
    """A callback that needs a metric of validation, which is checked before training where a task says what it logs."""

    def check_logged(self, names: Collection[str]) -> None:
        """Make sure that the metric is one of those that validation logs.

        Raises:
            ValueError: It is not.
        """


def stages_of(trainer: L.Trainer) -> Stages:
    """Return the callback of a run's trainer that knows the stages."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next(callback for callback in callbacks if isinstance(callback, Stages))

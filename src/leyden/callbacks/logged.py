"""What a LightningModule has logged in the epoch so far: Lightning's running results, and the states of metrics.

Lightning forgets both when a run is stopped within an epoch: `self.log(on_epoch=True)` then gives a mean over the rest of the
epoch only. It has no public way to them.
"""

import builtins
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.connectors.logger_connector.result import (
    _Metadata,
    _ResultCollection,
    _ResultMetric,
    _Sync,
)
from torch import Tensor
from torchmetrics import Metric

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


def state(trainer: L.Trainer) -> dict[str, Any]:
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

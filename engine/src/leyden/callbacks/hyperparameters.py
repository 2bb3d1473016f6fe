"""Optimizers' and losses' values that a run may change when it resumes."""

import copy
import math
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden.base.errors import UserError
from leyden.callbacks.display import state_digest

WEIGHTS_ALONE = "init_from loads only the weights"
STATE_KEYS = ("params", "param_names")  # entries of a parameter group that are not hyperparameters


class Hyperparameters(L.Callback):
    """Saves in checkpoints the values that optimizers and schedules had before the first step.

    Restored optimizers and schedules have the values of their checkpoint. If a fork's configuration
    differs from that of the run it was forked from, the values that differ are set again. A
    schedule is then advanced to where it would be if it had run with these values from the start.
    Buffers of the module's `loss`, such as class weights, are handled in the same way.

    Args:
        is_fork: Whether the run is a fork.

    Raises:
        UserError: The optimizer's class has changed.
    """

    state_key = "Hyperparameters"  # fixed key in the checkpoint, independent of the class name

    def __init__(self, *, is_fork: bool) -> None:
        self.is_fork = is_fork
        self._configured: dict[str, Any] = {}
        self._restored: dict[str, Any] = {}
        self._schedules: list[dict[str, Any]] = []  # state dicts at the start
        self._loss_buffers: dict[str, torch.Tensor] = {}  # buffers of the loss at the start

    def state_dict(self) -> dict[str, Any]:
        """Return the values configured for this run."""
        return self._configured

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the values of the checkpoint's run."""
        self._restored = state_dict

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Copy the loss's buffers, before they are restored from the checkpoint."""
        if stage == "fit":
            self._loss_buffers = loss_buffers(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the configured values, before they are restored from the checkpoint."""
        self._schedules = [
            copy.deepcopy(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs
        ]
        self._configured = {
            "optimizers": [_description(optimizer) for optimizer in trainer.optimizers],
            "schedules": state_digest(self._schedules),
            "loss": {name: state_digest(each) for name, each in self._loss_buffers.items()},
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the values that differ from the checkpoint's."""
        if not self.is_fork or self._restored == self._configured:
            return
        buffers = dict(pl_module.named_buffers())
        for name, configured in self._configured["loss"].items():
            if self._restored["loss"].get(name) != configured:
                buffers[name].copy_(self._loss_buffers[name])
        configs = trainer.lr_scheduler_configs
        if any(isinstance(each.scheduler, ReduceLROnPlateau) for each in configs):
            raise UserError(
                "fork: a schedule that follows a metric can't be recomputed for different "
                f"settings of the optimizer; {WEIGHTS_ALONE}"
            )
        # A schedule changes some of the values, so all of them are reset, and the schedule is run
        # again below.
        reset_all = bool(configs) or self._restored["schedules"] != self._configured["schedules"]
        optimizers = zip(
            trainer.optimizers,
            self._restored["optimizers"],
            self._configured["optimizers"],
            strict=True,
        )
        for optimizer, restored, configured in optimizers:
            _set_again(optimizer, restored, configured, reset_all=reset_all)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that the optimizer takes no steps
            for config, start in zip(configs, self._schedules, strict=True):
                num_steps = _num_steps(trainer, config)
                config.scheduler.load_state_dict(copy.deepcopy(start))
                for _ in range(num_steps):
                    # Those that follow a metric, and so take one, were refused above.
                    config.scheduler.step()  # type: ignore[call-arg]


def _set_again(
    optimizer: Optimizer, restored: dict[str, Any], configured: dict[str, Any], *, reset_all: bool
) -> None:
    """Set an optimizer's values that differ from those of the checkpoint, or all of them.

    Raises:
        UserError: The optimizer's class has changed.
    """
    there = restored["class"]
    here = configured["class"]
    if there != here:
        raise UserError(
            f"fork: the optimizer is {there} there, {here} here, whose state is different; "
            f"{WEIGHTS_ALONE}"
        )
    groups = zip(optimizer.param_groups, restored["groups"], configured["groups"], strict=True)
    for group, old, new in groups:
        for key, value in new.items():
            if reset_all or old.get(key) != value:
                group[key] = value


def loss_buffers(module: L.LightningModule) -> dict[str, torch.Tensor]:
    """Return copies of the buffers of a module's `loss`, such as class weights.

    These are settings, not learned.
    """
    return {name: each.clone() for name, each in module.named_buffers() if name.startswith("loss.")}


def _num_steps(trainer: L.Trainer, config: LRSchedulerConfig) -> int:
    """Return the steps that a schedule would have taken, with the current epoch length.

    For a schedule that the module steps by hand, or whose frequency is not 1, return the steps
    taken.
    """
    if not trainer.lightning_module.automatic_optimization or config.frequency != 1:
        return int(config.scheduler.last_epoch)
    loop: Any = trainer.fit_loop
    num_epochs: int = loop.epoch_progress.current.processed
    batches = loop.epoch_loop.batch_progress
    if config.interval == "epoch":
        return num_epochs
    if trainer.num_training_batches == math.inf:
        return trainer.global_step
    within = 0
    if not batches.is_last_batch:
        within = batches.current.ready
    each = trainer.accumulate_grad_batches
    return num_epochs * math.ceil(trainer.num_training_batches / each) + int(within // each)


def _description(optimizer: Optimizer) -> dict[str, Any]:
    kind = type(optimizer)
    groups = [_plain_group(group) for group in optimizer.param_groups]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "groups": groups}


def _plain_group(group: dict[str, Any]) -> dict[str, Any]:
    return {key: _to_plain(value) for key, value in group.items() if key not in STATE_KEYS}


def _to_plain(value: Any) -> Any:
    """Return a value as plain Python values, for a checkpoint."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, tuple):
        return list(value)
    return value

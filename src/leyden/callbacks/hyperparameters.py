"""What optimizers and schedules are set to, so that a fork goes on with other values."""

import copy
import math
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from leyden.callbacks.fingerprint import state_digest
from leyden.config.errors import UserError

STATE = ("params", "param_names")  # of a group of parameters; all else in it is a value that was set


class Hyperparameters(L.Callback):
    """Keeps in each checkpoint what optimizers and schedules were set to before the first step.

    Optimizers and schedules that are restored have the values of their checkpoint. Where a fork is configured otherwise than the
    run that the checkpoint is of, the values that differ are set anew. A schedule is then where it would be if it had run with them
    from the start. Buffers of the module's `loss`, as class weights, are such values, too.

    Args:
        is_fork: Whether the run is one.

    Raises:
        UserError: The optimizer is another one, or its schedule follows a metric, which would have been another one.
    """

    state_key = "Hyperparameters"  # in the checkpoint, whatever the class is called

    def __init__(self, *, is_fork: bool) -> None:
        self.is_fork = is_fork
        self._here: dict[str, Any] = {}
        self._there: dict[str, Any] = {}
        self._schedules: list[dict[str, Any]] = []  # as they are at the start
        self._loss: dict[str, torch.Tensor] = {}  # its buffers then

    def state_dict(self) -> dict[str, Any]:
        """What was set here."""
        return self._here

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What was set where the checkpoint comes from."""
        self._there = state_dict

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """See the buffers, before those of the checkpoint take their place."""
        if stage == "fit":
            self._loss = chosen_buffers(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See what is configured, before the checkpoint takes its place."""
        self._schedules = [copy.deepcopy(each.scheduler.state_dict()) for each in trainer.lr_scheduler_configs]
        self._here = {
            "optimizers": [_description(optimizer) for optimizer in trainer.optimizers],
            "schedules": state_digest(self._schedules),
            "loss": {name: state_digest(each) for name, each in self._loss.items()},
        }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set what differs."""
        if not self.is_fork or self._there == self._here:
            return
        for name, buffer in pl_module.named_buffers():
            if name in self._loss and self._there["loss"].get(name) != self._here["loss"][name]:
                buffer.copy_(self._loss[name])
        configs = trainer.lr_scheduler_configs
        if any(isinstance(each.scheduler, ReduceLROnPlateau) for each in configs):
            raise UserError(
                "fork: the schedule follows a metric: with other values of the optimizer it would stand elsewhere; leave them, "
                "or take the weights alone by init_from"
            )
        # A schedule changes some of the values: they are set anew, and it runs below.
        anew = bool(configs) or self._there["schedules"] != self._here["schedules"]
        pairs = zip(trainer.optimizers, self._there["optimizers"], self._here["optimizers"], strict=True)
        for optimizer, there, here in pairs:
            if there["class"] != here["class"]:
                raise UserError(
                    f"fork: the optimizer is {there['class']} there, {here['class']} here, whose state is another one; "
                    "init_from takes the weights alone"
                )
            groups = zip(optimizer.param_groups, there["groups"], here["groups"], strict=True)
            for group, old, new in groups:
                group.update({key: value for key, value in new.items() if anew or old.get(key) != value})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer takes no step meanwhile
            for config, start in zip(configs, self._schedules, strict=True):
                num_steps = _num_steps(trainer, config)
                config.scheduler.load_state_dict(copy.deepcopy(start))
                for _ in range(num_steps):
                    config.scheduler.step()  # type: ignore[call-arg]  # none that follows a metric is left


def chosen_buffers(module: L.LightningModule) -> dict[str, torch.Tensor]:
    """Copies of the buffers of its `loss`, as class weights, by name: they are choices of a run, not what it has learned."""
    return {name: each.clone() for name, each in module.named_buffers() if name.startswith("loss.")}


def _num_steps(trainer: L.Trainer, config: LRSchedulerConfig) -> int:
    """The steps that a schedule would have taken from the start, by epochs of the length that they have now.

    One that the module steps by hand, or that is not stepped each time, has taken those that it has.
    """
    if not trainer.lightning_module.automatic_optimization or config.frequency != 1:
        return int(config.scheduler.last_epoch)
    loop = trainer.fit_loop
    num_epochs: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # in each loop over epochs
    batches = loop.epoch_loop.batch_progress
    if config.interval == "epoch":
        return num_epochs
    if trainer.num_training_batches == math.inf:
        return trainer.global_step
    within = 0 if batches.is_last_batch else batches.current.ready
    each = trainer.accumulate_grad_batches
    return num_epochs * math.ceil(trainer.num_training_batches / each) + int(within // each)


def _description(optimizer: Optimizer) -> dict[str, Any]:
    kind = type(optimizer)
    groups = [{key: _plain(each[key]) for key in each if key not in STATE} for each in optimizer.param_groups]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "groups": groups}


def _plain(value: Any) -> Any:
    """A value as a checkpoint can hold it."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value

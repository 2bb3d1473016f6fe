"""Callbacks for what a checkpoint holds besides the state of training: optimizers' values, epochs, an average."""

import contextlib
import copy
import math
import warnings
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.utilities.types import LRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import get_ema_avg_fn

from leyden.callbacks.display import state_digest
from leyden.config.errors import UserError
from leyden.data.contract import divides_batches, sizes_of
from leyden.data.transforms import check_integers
from leyden.exact.lightning import place_average
from leyden.exact.loaders import flatten_loaders

STATE_KEYS = ("params", "param_names")  # entries of a parameter group that are not hyperparameters


class Hyperparameters(L.Callback):
    """Saves in each checkpoint the hyperparameters that optimizers and schedules had before the first step.

    Restored optimizers and schedules have the values of their checkpoint. If a fork's configuration differs from
    that of the run it was forked from, the values that differ are set again. A schedule is then advanced to where
    it would be if it had run with these values from the start. Buffers of the module's `loss`, such as class
    weights, are handled in the same way.

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
                "fork: a schedule that follows a metric can't be recomputed for different settings of the optimizer; "
                "init_from loads only the weights"
            )
        # A schedule changes some of the values, so all of them are reset, and the schedule is run again below.
        reset_all = bool(configs) or self._restored["schedules"] != self._configured["schedules"]
        pairs = zip(
            trainer.optimizers,
            self._restored["optimizers"],
            self._configured["optimizers"],
            strict=True,
        )
        for optimizer, restored, configured in pairs:
            if restored["class"] != configured["class"]:
                raise UserError(
                    f"fork: the optimizer is {restored['class']} there, {configured['class']} here, whose state is different; "
                    "init_from loads only the weights"
                )
            groups = zip(
                optimizer.param_groups, restored["groups"], configured["groups"], strict=True
            )
            for group, old, new in groups:
                for key, value in new.items():
                    if reset_all or old.get(key) != value:
                        group[key] = value
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that the optimizer takes no steps
            for config, start in zip(configs, self._schedules, strict=True):
                num_steps = _num_steps(trainer, config)
                config.scheduler.load_state_dict(copy.deepcopy(start))
                for _ in range(num_steps):
                    config.scheduler.step()  # type: ignore[call-arg]  # schedules that follow a metric were refused above


def loss_buffers(module: L.LightningModule) -> dict[str, torch.Tensor]:
    """Return copies of the buffers of a module's `loss`, such as class weights; these are settings, not learned."""
    return {name: each.clone() for name, each in module.named_buffers() if name.startswith("loss.")}


def _num_steps(trainer: L.Trainer, config: LRSchedulerConfig) -> int:
    """Return the steps that a schedule would have taken from the start, with the current epoch length.

    For a schedule that the module steps by hand, or whose frequency is not 1, return the steps taken.
    """
    if not trainer.lightning_module.automatic_optimization or config.frequency != 1:
        return int(config.scheduler.last_epoch)
    loop = trainer.fit_loop
    num_epochs: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]  # every epoch loop has it
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
    groups = [_plain_group(group) for group in optimizer.param_groups]
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "groups": groups}


def _plain_group(group: dict[str, Any]) -> dict[str, Any]:
    return {key: _to_plain(value) for key, value in group.items() if key not in STATE_KEYS}


def _to_plain(value: Any) -> Any:
    """Return a value as plain Python values, for a checkpoint."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


MAX_LOSSES = 1000  # that are kept before they are looked at


class SamplesSeen(L.Callback):
    """Counts the completed epochs and the samples of a validation, and keeps losses until they are looked at.

    An epoch is complete after its last batch, as limited by `trainer.limit_train_batches` and `overfit_batches`. An
    epoch that `max_steps`, `max_time` or a callback ends earlier is not counted.
    """

    state_key = "SamplesSeen"  # fixed key in the checkpoint, independent of the class name

    def __init__(self) -> None:
        self.num_epochs = 0
        self.num_validated: int | None = None  # samples of the last validation
        self._losses: list[
            tuple[int, int, torch.Tensor]
        ] = []  # of batches, with their epoch and index
        self._bad_batch: tuple[int, int] | None = None

    def on_before_backward(
        self, trainer: L.Trainer, pl_module: L.LightningModule, loss: torch.Tensor
    ) -> None:
        """Remember the loss, which is on its device; to look at each would wait for it."""
        self._losses.append((trainer.current_epoch, trainer.fit_loop.batch_idx, loss.detach()))

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Look at the losses, if many are kept."""
        parts = [batch]
        if isinstance(batch, list | tuple):
            parts = [*batch]
        elif isinstance(batch, dict):
            parts = [*batch.values()]
        sizes = [len(each) for each in parts if isinstance(each, torch.Tensor) and each.ndim]
        if sizes and not any(sizes) and self._losses:  # the mean of a process's empty part is NaN
            self._losses.pop()
        if len(self._losses) >= MAX_LOSSES:
            self.bad_batch()

    def bad_batch(self) -> tuple[int, int] | None:
        """Return epoch and index of this start's first batch whose loss was not finite; None if there was none."""
        losses = self._losses
        self._losses = []
        if losses and self._bad_batch is None:
            finite = torch.stack([loss.isfinite().all() for *_, loss in losses]).tolist()
            if not all(finite):
                epoch, index, _ = losses[finite.index(False)]
                self._bad_batch = epoch, index
        return self._bad_batch

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count an epoch, if it is complete."""
        self.num_epochs += trainer.is_last_batch

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count the samples of a validation."""
        self.num_validated = num_validated(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers."""
        return {"num_epochs": self.num_epochs, "num_validated": self.num_validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the numbers; an earlier version had no second one."""
        self.num_epochs = int(state_dict["num_epochs"])
        found = state_dict.get("num_validated")
        self.num_validated = found if isinstance(found, int) else None


def samples_per_batch(trainer: L.Trainer) -> float | None:
    """Return the mean number of samples of a training batch, over all processes.

    None if it is unknown, as for several loaders or one without a length.
    """
    with contextlib.suppress(
        Exception
    ):  # a user's loader may raise anything, and counting ends no run
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        (loader,) = flatten_loaders(trainer.train_dataloader)
        num = sizes_of(data, loader, []).get("train")
        if num:
            return num / len(loader)
    return None


def num_validated(trainer: L.Trainer) -> int | None:
    """Return the number of samples that a validation takes, over all processes; None if it is unknown."""
    with contextlib.suppress(Exception):  # as above
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loaders = flatten_loaders(trainer.val_dataloaders)
        total = 0
        is_whole = True
        for loader, num in zip(loaders, trainer.num_val_batches, strict=True):
            total += int(num) * loader.batch_size
            is_whole = is_whole and num == len(loader)
        if is_whole:
            return sizes_of(data, [], loaders)["val"]
        if divides_batches(data):
            return total
        return total * trainer.world_size
    return None


class EMA(WeightAveraging):
    """Exponential moving average of the weights and running statistics, from the first step on.

    Counters, indices and masks, which have no average, are those of the last update.

    Validation, checkpoints, tests and exports use the average; training continues from the weights themselves.

    Args:
        decay: Factor that the average is multiplied by at each update, from 0 to 1.
        update_every_n_steps: Optimizer steps between updates of the average.
    """

    def __init__(self, *, decay: float, update_every_n_steps: int) -> None:
        check_integers(update_every_n_steps=(update_every_n_steps, 1))
        self.update_every_n_steps = update_every_n_steps
        moving = get_ema_avg_fn(decay)  # type: ignore[no-untyped-call]

        def average(old: Tensor, new: Tensor, number: Any) -> Tensor:
            has_average = old.is_floating_point() or old.is_complex()
            return moving(old, new, number) if has_average else new

        super().__init__(avg_fn=average)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return whether so many steps were taken since the last update; several optimizers take several at once."""
        if step_idx is None:
            return False
        latest: int = self.state_dict()["latest_update_step"]
        return latest == 0 or step_idx + 1 - latest >= self.update_every_n_steps

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Place the average on the device of the training; Lightning places it where the module was made."""
        place_average(self, trainer.strategy.root_device)
        super().setup(trainer, pl_module, stage)


def check_averaging(callback: Any, num_epochs: int) -> None:
    """Check that checkpoints contain the validated weights of a callback that averages.

    Raises:
        ValueError: The average is in no checkpoint (Lightning's `StochasticWeightAveraging`); is updated at the end
            of an epoch, between validation and checkpoint; or consists of the initial weights until it begins.
    """
    if isinstance(callback, StochasticWeightAveraging):
        raise ValueError(
            "StochasticWeightAveraging: its average is not saved in checkpoints; use +callbacks/averaging=ema"
        )
    if not isinstance(callback, WeightAveraging):
        return
    is_by_epoch = any(callback.should_update(epoch_idx=epoch) for epoch in range(num_epochs))
    if is_by_epoch or not callback.should_update(step_idx=0):
        raise ValueError(
            f"{type(callback).__name__}: must average after steps, from the first one on, as "
            "+callbacks/averaging=ema; at the end of an epoch its validation is over, and before "
            "the average begins the initial weights are validated"
        )

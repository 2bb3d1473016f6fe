"""The length of a run in batches, steps and epochs, and learning-rate schedules of that length."""

import math
import warnings
from typing import Any

import lightning as L
from lightning.pytorch.utilities import CombinedLoader
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden.assembly.instantiate import instantiate, user_errors
from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.exact.first_batches import divides_batches
from leyden.exact.loaders import flatten_loaders
from leyden.run.process import is_main_process


def num_steps(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Return the number of optimizer steps of a run: those of its epochs, or `max_steps` if that is fewer.

    Raises:
        UserError: Neither the data nor `max_steps` determine the number.
    """
    # Not by `trainer.estimated_stepping_batches`: it sets up the loaders, and a resumed run would then not restore
    # their position within an epoch.
    batches = num_batches(trainer, data)
    limits = [trainer.max_steps] * (trainer.max_steps > 0)
    if batches < math.inf:
        limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1))
    if not limits:
        raise UserError("scheduler: the number of batches of these data is unknown; set trainer.max_steps")
    return min(limits)


def num_batches(trainer: L.Trainer, data: L.LightningDataModule) -> float:
    """Return the number of training batches per epoch, within the trainer's limits; infinity if unknown."""
    return apply_limit(unlimited_batches(trainer, data), trainer.limit_train_batches)


def unlimited_batches(trainer: L.Trainer, data: L.LightningDataModule) -> float:
    """Return the number of training batches per epoch and process, without limits; infinity if unknown.

    Raises:
        UserError: Lightning can't train on loaders that are combined in this mode.
    """
    loaders = data.train_dataloader()
    if _mode(loaders) == "sequential":
        raise UserError(
            "data: train_dataloader combines its loaders by mode=sequential, which Lightning supports for validation and test only; "
            "choose min_size, max_size or max_size_cycle, or torch.utils.data.ConcatDataset"
        )
    whole = max_batches(loaders)
    if whole < math.inf and not divides_batches(data) and all(map(_is_divided, flatten_loaders(loaders))):
        whole = math.ceil(whole / trainer.world_size)
    return whole


def _is_divided(loader: Any) -> bool:
    """Return whether Lightning gives each process a part of a loader, by a DistributedSampler."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and not isinstance(loader.sampler, DistributedSampler)
    )


def max_batches(loaders: Any) -> float:
    """Return the number of batches of the longest loader, or of the shortest in the mode `min_size`.

    0 without loaders; infinity if a length is unknown.
    """
    lengths = list(map(_length, flatten_loaders(loaders))) or [0.0]
    return min(lengths) if _mode(loaders) == "min_size" else max(lengths)


def _mode(loaders: Any) -> str | None:
    """Return the mode of a CombinedLoader; None for other loaders."""
    # Lightning has no public attribute for it.
    return loaders._mode if isinstance(loaders, CombinedLoader) else None


def _length(loader: Any) -> float:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


def apply_limit(whole: float, limit: float | int | None) -> float:
    """Return the number of batches within a limit of the trainer: a number of batches, or a fraction of all."""
    if limit is None or whole == math.inf:
        return whole if limit is None or isinstance(limit, float) else limit
    return min(whole, limit) if isinstance(limit, int) else int(whole * limit)


def partial_test_message(trainer: L.Trainer) -> str:
    """Return a message if the trainer tested on a part of the test set only; empty if it used every batch."""
    whole, taken = map(_length, flatten_loaders(trainer.test_dataloaders)), trainer.num_test_batches
    pairs = list(zip(taken, whole, strict=True))
    fast: bool | int = trainer.fast_dev_run  # type: ignore[attr-defined]
    if not fast and all(num >= of for num, of in pairs):
        return ""
    key = f"fast_dev_run={fast}" if fast else f"limit_test_batches={trainer.limit_test_batches}"
    num, of = (sum(numbers) for numbers in zip(*pairs, strict=True))
    whole_text = f" of {of:.0f}" if of < math.inf else ""
    return (
        f"trainer.{key}: {num:.0f}{whole_text} test batches are not a test evaluation, and are not recorded as one"
    )


def validates_at_epoch_end(trainer: L.Trainer, batches: float) -> bool:
    """Return whether a run validates at the end of at least one epoch, where the best epoch is selected.

    `batches` is the number of training batches per epoch.
    """
    interval = getattr(trainer, "val_check_interval", None)  # None if the interval is a time
    if interval is None:
        return False
    if batches == math.inf:  # the length of an epoch is unknown
        return isinstance(interval, float) and (trainer.check_val_every_n_epoch or 0) <= (trainer.max_epochs or 1)
    after = interval if isinstance(interval, int) else max(1, int(batches * interval))
    num_epochs = trainer.max_epochs or 1
    if trainer.max_steps > 0:
        num_epochs = min(num_epochs, trainer.max_steps // math.ceil(batches / trainer.accumulate_grad_batches))
    if every := trainer.check_val_every_n_epoch:
        return batches % after == 0 and every <= num_epochs
    return any(epoch * batches % after == 0 for epoch in range(1, num_epochs + 1))


class ScheduleFactory:
    """Builds the schedule that a configuration node describes, when called with an optimizer.

    Args:
        node: The node; a missing value in it (`???`) is filled with the number of steps.

    Attributes:
        num_steps: Optimizer steps of the run.
        built: All schedules built so far.
    """

    def __init__(self, node: DictConfig) -> None:
        self.node, self.num_steps = node, 1
        self.built: list[LRScheduler] = []

    @property
    def has_length(self) -> bool:
        """True if the schedule depends on the number of steps."""
        return any(OmegaConf.is_missing(self.node, key) for key in self.node)

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the schedule, to be stepped once per optimizer step."""
        self.built.append(make_schedule(self.node, self.num_steps, optimizer))
        return self.built[-1]

    def check(self, optimizer: Optimizer) -> None:
        """Check the node by stepping a new schedule a few times, as some mistakes show only then.

        Raises:
            UserError: A value is wrong.
        """
        with user_errors("scheduler", self.node), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns, as the optimizer makes no step
            schedule = make_schedule(self.node, self.num_steps, optimizer)
            for _ in range(min(3, self.num_steps - 1)):
                rates = [float(group["lr"]) for group in optimizer.param_groups]
                if not all(0 <= rate < math.inf for rate in rates):
                    raise ValueError(f"sets the learning rate to {rates[0]:g}; must be 0 or larger")
                if not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()


def make_schedule(node: DictConfig, num_steps: int, optimizer: Optimizer) -> LRScheduler:
    """Return the schedule that a node describes, with the number of steps for a missing value."""
    given: dict[str, Any] = {str(key): num_steps for key in node if OmegaConf.is_missing(node, key)}
    schedule: LRScheduler = instantiate(node, "scheduler", optimizer=optimizer, **given)
    return schedule


class ScheduleLength(L.Callback):
    """Has a schedule that is as long as the run stepped per optimizer step, whatever interval the module names.

    Args:
        schedule: The factory that built the schedule.

    Raises:
        UserError: The module steps the schedule seldom, or as a part of another one by epoch.
    """

    def __init__(self, schedule: ScheduleFactory) -> None:
        self.schedule = schedule

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the intervals, which are known only after Lightning has called `configure_optimizers`."""
        for built in self.schedule.built:
            if built.optimizer in trainer.optimizers:  # skips those of earlier calls of configure_optimizers
                self._set_interval(built, trainer, pl_module)

    def _set_interval(self, built: LRScheduler, trainer: L.Trainer, module: L.LightningModule) -> None:
        name = type(module).__name__
        # Compare optimizers, since a module may have wrapped the schedule, for example in a SequentialLR.
        configs = [each for each in trainer.lr_scheduler_configs if each.scheduler.optimizer is built.optimizer]
        if (not configs or not module.automatic_optimization) and is_main_process():
            warn(
                f"scheduler: is built for {self.schedule.num_steps} steps, one per optimizer step, but {name} steps it "
                "manually or not at all"
            )
        for config in configs if module.automatic_optimization else ():
            is_alone = config.scheduler is built
            if config.frequency != 1 or (config.interval != "step" and not is_alone):
                within = "" if is_alone else f", as a part of {type(config.scheduler).__name__}"
                raise UserError(
                    f"scheduler: is built for {self.schedule.num_steps} optimizer steps, but {name} has it stepped every "
                    f"{config.frequency} {config.interval}{within}; its configure_optimizers must return "
                    '{"scheduler": ..., "interval": "step"}'
                )
            config.interval = "step"

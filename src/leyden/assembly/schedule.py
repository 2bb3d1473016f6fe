"""The length of a run in batches, steps and epochs, and learning-rate schedules as long as that."""

import copy
import math
import warnings
from dataclasses import dataclass
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
from leyden.data.contract import divides_batches
from leyden.data.resumable import flatten_loaders
from leyden.run.process import is_main_process


def num_steps(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Optimizer steps of a run: those of its epochs, unless `max_steps` ends it before.

    Raises:
        UserError: That is not known.
    """
    # The trainer could tell it, but when asked it sets up its loaders, and forgets to put them back to where a run
    # goes on within an epoch.
    batches = num_batches(trainer, data)
    limits = [trainer.max_steps] * (trainer.max_steps > 0)
    if batches < math.inf:
        limits.append(math.ceil(batches / trainer.accumulate_grad_batches) * (trainer.max_epochs or 1))
    if not limits:
        raise UserError("scheduler: the data don't tell the number of batches; trainer.max_steps tells when to end")
    return min(limits)


def run_epochs(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Epochs of a run, the last of which `max_steps` can end before its end; 0 where that is not known."""
    batches = num_batches(trainer, data)
    epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else math.inf
    if trainer.max_steps > 0 and 0 < batches < math.inf:
        epochs = min(epochs, math.ceil(trainer.max_steps / math.ceil(batches / trainer.accumulate_grad_batches)))
    return int(epochs) if epochs < math.inf else 0


def num_batches(trainer: L.Trainer, data: L.LightningDataModule) -> float:
    """Training batches of an epoch, by all the trainer's limits; infinity where the data don't tell."""
    return limited(whole_batches(trainer, data), trainer.limit_train_batches)


def whole_batches(trainer: L.Trainer, data: L.LightningDataModule) -> float:
    """Training batches of an epoch in one process, without limits; infinity where the data don't tell.

    Raises:
        UserError: Lightning does not train on loaders that are combined in this way.
    """
    loaders = data.train_dataloader()
    if _mode(loaders) == "sequential":
        raise UserError(
            "data: train_dataloader combines its loaders by mode=sequential, which Lightning does for validation and test only; "
            "choose min_size, max_size or max_size_cycle, or torch.utils.data.ConcatDataset"
        )
    whole = max_batches(loaders)
    if whole < math.inf and not divides_batches(data) and all(map(_is_divided, flatten_loaders(loaders))):
        whole = math.ceil(whole / trainer.world_size)
    return whole


def _is_divided(loader: Any) -> bool:
    """Whether Lightning lets each process have a part of a loader."""
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and not isinstance(loader.sampler, DistributedSampler)
    )


def max_batches(loaders: Any) -> float:
    """Batches of the longest of some loaders, or of the shortest where they end together; 0 for none, infinity where it is not known."""
    lengths = list(map(_length, flatten_loaders(loaders))) or [0.0]
    return min(lengths) if _mode(loaders) == "min_size" else max(lengths)


def _mode(loaders: Any) -> str | None:
    """Return how loaders are combined; None where Lightning combines them in its own way."""
    # Lightning has no public way to it.
    return loaders._mode if isinstance(loaders, CombinedLoader) else None


def _length(loader: Any) -> float:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return math.inf


def limited(whole: float, limit: float | int | None) -> float:
    """Batches by a limit of the trainer's: a number of them, or a part of all."""
    if limit is None or whole == math.inf:
        return whole if limit is None or isinstance(limit, float) else limit
    return min(whole, limit) if isinstance(limit, int) else int(whole * limit)


def tested_part(trainer: L.Trainer) -> str:
    """Return why the trainer's test was no evaluation on the test set; empty where it took every batch in earnest."""
    whole, taken = map(_length, flatten_loaders(trainer.test_dataloaders)), trainer.num_test_batches
    pairs = list(zip(taken, whole, strict=True))
    fast: bool | int = trainer.fast_dev_run  # type: ignore[attr-defined]
    if not fast and all(num >= of for num, of in pairs):
        return ""
    key = f"fast_dev_run={fast}" if fast else f"limit_test_batches={trainer.limit_test_batches}"
    num, of = (sum(numbers) for numbers in zip(*pairs, strict=True))
    whole_text = f" of {of:.0f}" if of < math.inf else ""
    return f"trainer.{key}: {num:.0f}{whole_text} batches of the test set are no test evaluation, and not recorded as one"


def validates(trainer: L.Trainer, batches: float) -> bool:
    """Whether a run of epochs of so many batches validates at the end of any of them, where the best one is chosen."""
    interval = getattr(trainer, "val_check_interval", None)  # none where validation goes by time
    if interval is None:
        return False
    if batches == math.inf:  # an epoch ends when the data do
        return isinstance(interval, float) and (trainer.check_val_every_n_epoch or 0) <= (trainer.max_epochs or 1)
    after = interval if isinstance(interval, int) else max(1, int(batches * interval))
    num_epochs = trainer.max_epochs or 1
    if trainer.max_steps > 0:
        num_epochs = min(num_epochs, trainer.max_steps // math.ceil(batches / trainer.accumulate_grad_batches))
    if every := trainer.check_val_every_n_epoch:
        return batches % after == 0 and every <= num_epochs
    return any(epoch * batches % after == 0 for epoch in range(1, num_epochs + 1))


@dataclass
class Made:
    """A schedule that was made.

    Args:
        schedule: The schedule.
        groups: The values of its optimizer's groups before.
    """

    schedule: LRScheduler
    groups: list[dict[str, Any]]


class Schedule:
    """Makes the schedule that a node describes, when called with an optimizer.

    Args:
        node: Of the configuration; its value that is missing there is the number of steps.

    Attributes:
        num_steps: Optimizer steps of the run.
        num_epochs: Epochs of the run.
    """

    def __init__(self, node: DictConfig) -> None:
        self.node = node
        self.num_steps = self.num_epochs = 1
        self.made: list[Made] = []

    @property
    def has_length(self) -> bool:
        """Whether the schedule depends on the number of its steps."""
        return any(OmegaConf.is_missing(self.node, key) for key in self.node)

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """The schedule, counted in optimizer steps."""
        groups = [
            {key: copy.copy(value) for key, value in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self.made.append(Made(make_schedule(self.node, self.num_steps, optimizer), groups))
        return self.made[-1].schedule

    def by_epoch(self, made: Made) -> LRScheduler:
        """The same schedule counted in epochs, in place of one that was made."""
        optimizer = made.schedule.optimizer
        for group, before in zip(optimizer.param_groups, made.groups, strict=True):
            for key in {*group} - {*before, "params"}:  # that the schedule has added
                del group[key]
            group.update(before)
        with user_errors("scheduler", self.node):
            return make_schedule(self.node, self.num_epochs, optimizer)

    def check(self, optimizer: Optimizer) -> None:
        """Take a few steps of a schedule: some mistakes show only then.

        Raises:
            UserError: A value is wrong.
        """
        with user_errors("scheduler", self.node), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the optimizer takes none
            schedule = make_schedule(self.node, self.num_steps, optimizer)
            for _ in range(min(3, self.num_steps - 1)):
                rates = [float(group["lr"]) for group in optimizer.param_groups]
                if not all(0 <= rate < math.inf for rate in rates):
                    raise ValueError(f"sets the learning rate to {rates[0]:g}; must be 0 or larger")
                if not isinstance(schedule, ReduceLROnPlateau):
                    schedule.step()


def make_schedule(node: DictConfig, num_steps: int, optimizer: Optimizer) -> LRScheduler:
    """The schedule that a node describes; its value that is missing there is the number of steps."""
    given: dict[str, Any] = {str(key): num_steps for key in node if OmegaConf.is_missing(node, key)}
    schedule: LRScheduler = instantiate(node, "scheduler", optimizer=optimizer, **given)
    return schedule


class ScheduleLength(L.Callback):
    """Lets a schedule be as long as the run in what the module steps it by: in optimizer steps, or in epochs.

    How a module has its schedule stepped is known when Lightning has called its `configure_optimizers`.

    Args:
        schedule: Has made it.

    Raises:
        UserError: The module has it stepped in another way.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """See how it is stepped."""
        for made in self.schedule.made:
            if made.schedule.optimizer in trainer.optimizers:  # not of an earlier call
                self._see(made, trainer, pl_module)

    def _see(self, made: Made, trainer: L.Trainer, module: L.LightningModule) -> None:
        name = type(module).__name__
        # A module can have put it into another one, as SequentialLR.
        configs = [
            each for each in trainer.lr_scheduler_configs if each.scheduler.optimizer is made.schedule.optimizer
        ]
        if not configs or not module.automatic_optimization:
            if is_main_process():
                warn(
                    f"scheduler: is made for {self.schedule.num_steps} steps, one per optimizer step; {name} steps it by hand, "
                    "or not at all"
                )
            return
        for config in configs:
            if (config.interval, config.frequency) == ("step", 1):
                continue
            is_alone = config.scheduler is made.schedule
            if (config.interval, config.frequency) != ("epoch", 1) or not is_alone or not self.schedule.num_epochs:
                within = "" if is_alone else f", as a part of {type(config.scheduler).__name__}"
                raise UserError(
                    f"scheduler: is made for {self.schedule.num_steps} optimizer steps; {name} has it stepped every "
                    f"{config.frequency} {config.interval}{within}; its configure_optimizers must give "
                    '{"scheduler": ..., "interval": "step"}'
                )
            config.scheduler = self.schedule.by_epoch(made)

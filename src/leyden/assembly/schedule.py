"""Schedules of the learning rate, as long as the run: in optimizer steps, or in epochs where a module steps them so."""

import copy
import math
import warnings
from dataclasses import dataclass
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from leyden.assembly.instantiate import instantiate, user_errors
from leyden.config.mistakes import UserError
from leyden.config.terminal import warn
from leyden.run.process import is_main_process


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

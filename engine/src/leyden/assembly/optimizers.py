"""The optimizer, its parameter groups and its schedule, and frozen parameters."""

import fnmatch
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from leyden.assembly.instantiate import (
    instantiate,
    user_errors,
)
from leyden.base.errors import UserError
from leyden.base.terminal import some_of, warn
from leyden.data.transforms import check_integers
from leyden.run.process import is_main_process


class ScheduleFactory:
    """Builds the schedule that a configuration node describes, when called with an optimizer.

    Args:
        node: The node; a missing value in it (`???`) is filled with the number of steps.

    Attributes:
        num_steps: Optimizer steps of the run.
        options: How Lightning steps the schedule: per step, or per validation by a metric.
        built: All schedules built so far.
    """

    def __init__(self, node: DictConfig) -> None:
        self.node = node
        self.num_steps = 1
        self.options: dict[str, Any] = {"interval": "step"}
        self.built: list[LRScheduler] = []

    @property
    def has_length(self) -> bool:
        """True if the schedule depends on the number of steps."""
        return any(OmegaConf.is_missing(self.node, key) for key in self.node)

    def __call__(self, optimizer: Optimizer) -> LRScheduler:
        """Build the schedule, to be stepped once per optimizer step."""
        schedule = make_schedule(self.node, self.num_steps, optimizer)
        self.built.append(schedule)
        return schedule

    def check(self, optimizer: Optimizer) -> None:
        """Check the node by a step of a new schedule, as some mistakes show only then.

        Raises:
            UserError: A value is wrong.
        """
        with user_errors("scheduler", self.node), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns, as the optimizer makes no step
            schedule = make_schedule(self.node, self.num_steps, optimizer)
            if not isinstance(schedule, ReduceLROnPlateau):
                schedule.step()


def make_schedule(node: DictConfig, num_steps: int, optimizer: Optimizer) -> LRScheduler:
    """Return the schedule that a node describes, with the number of steps for a missing value.

    With `warmup_steps`, the learning rate rises linearly for so many steps, and the schedule is
    that much shorter.
    """
    num_rising = node.get("warmup_steps") or 0
    check_integers(warmup_steps=(num_rising, 0))
    missing = [str(key) for key in node if OmegaConf.is_missing(node, key)]
    given: dict[str, Any] = dict.fromkeys(missing, num_steps - num_rising)
    own = ("warmup_steps", "monitor")
    schedule: LRScheduler = instantiate(
        node, "scheduler", without=own, optimizer=optimizer, **given
    )
    if not num_rising:
        return schedule
    if isinstance(schedule, ReduceLROnPlateau):
        raise ValueError(f"warmup_steps={num_rising}: a schedule that follows a metric takes none")
    if num_rising >= num_steps:
        raise ValueError(
            f"warmup_steps={num_rising}: must be fewer than the run's {num_steps} optimizer steps"
        )
    rise = LinearLR(optimizer, start_factor=1 / (num_rising + 1), total_iters=num_rising)
    return SequentialLR(optimizer, [rise, schedule], milestones=[num_rising])


class ScheduleLength(L.Callback):
    """Has a schedule that is as long as the run stepped per optimizer step.

    Args:
        schedule: The factory that built the schedule.

    Raises:
        UserError: The module steps the schedule seldom, or as a part of another one by epoch.
    """

    def __init__(self, schedule: ScheduleFactory) -> None:
        self.schedule = schedule

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the intervals, known only after Lightning has called `configure_optimizers`."""
        # Those of the last call alone.
        built = [each for each in self.schedule.built if each.optimizer in trainer.optimizers]
        optimizers = [each.optimizer for each in built]
        # Compare optimizers, since a module may have wrapped the schedule, for example in a
        # SequentialLR.
        configs = []
        for config in trainer.lr_scheduler_configs:
            if config.scheduler.optimizer in optimizers:
                configs.append(config)
        name = type(pl_module).__name__
        is_automatic = pl_module.automatic_optimization
        if (len(configs) < len(built) or not is_automatic) and is_main_process():
            warn(
                f"scheduler: is built for {self.schedule.num_steps} steps, one per optimizer step, "
                f"but {name} steps it manually or not at all"
            )
        if not is_automatic:
            return
        for config in configs:
            is_by_step = config.interval == "step" or config.scheduler in built
            if config.frequency != 1 or not is_by_step:
                raise UserError(
                    f"scheduler: is built for {self.schedule.num_steps} optimizer steps, but "
                    f"{name} has it stepped every {config.frequency} {config.interval}; its "
                    "configure_optimizers must return "
                    '{"scheduler": ..., "interval": "step"}'
                )
            config.interval = "step"


def match_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match at least one of the patterns.

    Raises:
        ValueError: A pattern matches no name.

    Example:
        >>> match_names(["0.weight", "0.bias", "2.bias", "2.weight"], ["0.*", "*.bias"])
        ['0.weight', '0.bias', '2.bias']
    """
    names = list(names)
    matching: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"{pattern} matches none of {some_of(names)}")
        matching.update(found)
    return [name for name in names if name in matching]


def freeze(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the matching parameters and running statistics, independently of the optimizer.

    A layer whose `running_mean` matches is kept in evaluation mode during training, so that it
    normalises by its running statistics and does not update them. For a BatchNorm,
    `network.layers.1.*` matches it, and `*.weight` does not. If only such a layer's parameters
    match, they are frozen, but its statistics are still updated.

    Args:
        module: Module with the parameters and running statistics.
        patterns: Patterns of their names, as in `state_dict()`.

    Raises:
        ValueError: A pattern matches nothing, or no parameter is left to train.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        >>> freeze(layers, ["1.*", "0.weight"])
        >>> [name for name, each in layers.named_parameters() if each.requires_grad]
        ['0.bias', '2.weight', '2.bias']
        >>> layers[1].training
        False
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    names = [*parameters]
    for name, _ in module.named_buffers():
        if name.endswith("running_mean"):
            names.append(name)
    for name in match_names(names, patterns):
        if name in parameters:
            parameters[name].requires_grad_(False)
        else:
            # Not of its submodules; Lightning restores each layer's mode after a validation.
            layer = module.get_submodule(name.rpartition(".")[0])
            layer.training = False
    trained = [each for each in module.parameters() if each.requires_grad]
    if patterns and not trained:
        raise ValueError("leaves no parameter to train")


def parameter_groups(
    named: Iterable[tuple[str, nn.Parameter]], groups: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return an optimizer's parameter groups: ungrouped parameters, then groups with options.

    Args:
        named: Names and parameters, from the task's `named_parameters()`:
            `network.layers.1.weight`.
        groups: Groups by arbitrary name: `match`, a pattern or a list of patterns (`*.bias`), and
            options of the optimizer (`lr`, `weight_decay`). A parameter belongs to the first group
            that it matches.

    Raises:
        ValueError: A group has no `match`, one of its patterns matches none of the parameters left
            by earlier groups, or it has the option `freeze`, which is not an optimizer's.

    Example:
        >>> named = [*nn.Linear(1, 1).named_parameters()]
        >>> parameter_groups(named, {"biases": {"match": "*.bias", "weight_decay": 0.0}})
        Traceback (most recent call last):
            ...
        ValueError: groups.biases: *.bias matches none of weight, bias
        >>> groups = parameter_groups(named, {"biases": {"match": "*bias", "weight_decay": 0.0}})
        >>> [len(group["params"]) for group in groups]
        [1, 1]
    """
    left = dict(named)
    made: list[dict[str, Any]] = []
    for name, group in groups.items():
        if not isinstance(group, Mapping) or not group.get("match"):
            raise ValueError(f"groups.{name}: must have match, a pattern of names, such as *.bias")
        match = group["match"]
        patterns = [match] if isinstance(match, str) else list(match)
        if "freeze" in group:
            raise ValueError(
                f"groups.{name}.freeze: can't be set per group; set the root key "
                f"freeze=[{','.join(patterns)}] instead"
            )
        try:
            chosen = {key: left.pop(key) for key in match_names(left, patterns)}
        except ValueError as error:
            raise ValueError(f"groups.{name}: {error}") from error
        options = {key: value for key, value in group.items() if key != "match"}
        options["params"] = list(chosen.items())
        made.append(options)
    if left:
        made.insert(0, {"params": list(left.items())})
    return made


def make_optimizer(node: DictConfig) -> Callable[..., Optimizer]:
    """Return a function that builds a node's optimizer, with its `groups`, of named parameters."""
    build: Callable[..., Optimizer] = instantiate(node, "optimizer", without=("groups",))
    if not node.get("groups"):
        return build
    groups: Any = OmegaConf.to_container(node.groups, resolve=True)
    return lambda named: build(parameter_groups(named, groups))

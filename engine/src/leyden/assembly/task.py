"""The task: a LightningModule with its network, loss, metrics, optimizer and schedule."""

import contextlib
import fnmatch
import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from leyden.assembly.instantiate import (
    REQUIRED,
    arguments,
    check_lightning_kind,
    instantiate,
    target,
    user_errors,
)
from leyden.assembly.trainer import without_empty_hooks
from leyden.config.checks import objective_of, require_choice
from leyden.config.errors import UserError
from leyden.config.terminal import some_of, warn
from leyden.data.contract import Facts, ModuleData, divides_batches, facts_of, own_loaders, sizes_of
from leyden.data.transforms import check_integers
from leyden.exact.lightning import combining_mode
from leyden.exact.loaders import flatten_loaders
from leyden.exact.random_state import undisturbed
from leyden.run.process import is_main_process
from leyden.tasks import Outcome, Task


def num_steps(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Return the number of optimizer steps of a run: those of its epochs, or `max_steps` if that is fewer.

    Raises:
        UserError: Neither the data nor `max_steps` determine the number.
    """
    # Not by `trainer.estimated_stepping_batches`: it sets up the loaders, and a resumed run would then not restore
    # their position within an epoch.
    per_epoch = math.ceil(num_batches(trainer, data) / trainer.accumulate_grad_batches)
    steps = per_epoch * (trainer.max_epochs or 1)
    if trainer.max_steps > 0:
        steps = min(steps, trainer.max_steps)
    if steps >= UNKNOWN_LENGTH:
        raise UserError(
            "scheduler: the number of batches of these data is unknown; set trainer.max_steps"
        )
    return steps


UNKNOWN_LENGTH = 2**60  # batches of a loader without a length


def num_batches(trainer: L.Trainer, data: L.LightningDataModule) -> int:
    """Return the number of training batches per epoch and process, within the trainer's limits; `UNKNOWN` if it is unknown.

    Raises:
        UserError: Lightning can't train on loaders that are combined in this mode.
    """
    loaders, limit = data.train_dataloader(), trainer.limit_train_batches
    mode = combining_mode(loaders)
    if mode == "sequential":
        raise UserError(
            "data: train_dataloader combines its loaders by mode=sequential, which Lightning supports for validation and test only; "
            "choose min_size, max_size or max_size_cycle, or torch.utils.data.ConcatDataset"
        )
    each = flatten_loaders(loaders)
    whole = (min if mode == "min_size" else max)(map(length_of, each), default=0)
    if whole < UNKNOWN_LENGTH and not divides_batches(data) and all(map(_is_divided, each)):
        whole = math.ceil(whole / trainer.world_size)
    if isinstance(limit, float):
        return whole if whole == UNKNOWN_LENGTH else int(whole * limit)
    return whole if limit is None else min(whole, limit)


def _is_divided(loader: Any) -> bool:
    """Return whether Lightning gives each process a part of a loader, by a DistributedSampler."""
    if not isinstance(loader, DataLoader):
        return False
    is_stream = isinstance(loader.dataset, IterableDataset)
    return not (is_stream or isinstance(loader.sampler, DistributedSampler))


def length_of(loader: Any) -> int:
    """Return the number of batches of a loader; `UNKNOWN` if it has no length."""
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return UNKNOWN_LENGTH


def validates_at_epoch_end(trainer: L.Trainer, batches: int) -> bool:
    """Return whether a run validates at the end of at least one epoch, where the best epoch is selected.

    `batches` is the number of training batches per epoch.
    """
    interval = getattr(trainer, "val_check_interval", None)  # None if the interval is a time
    if interval is None:
        return False
    num_epochs = trainer.max_epochs or 1
    every = trainer.check_val_every_n_epoch
    if batches >= UNKNOWN_LENGTH:
        return isinstance(interval, float) and (every or 0) <= num_epochs
    after = interval
    if isinstance(interval, float):
        after = max(1, int(batches * interval))
    if trainer.max_steps > 0:
        steps_per_epoch = math.ceil(batches / trainer.accumulate_grad_batches)
        num_epochs = min(num_epochs, trainer.max_steps // steps_per_epoch)
    if every:
        return every <= num_epochs and batches % after == 0
    # Without `every`, batches are counted over the epochs.
    return any(epoch * batches % after == 0 for epoch in range(1, num_epochs + 1))


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

    With `warmup_steps`, the learning rate rises linearly for so many steps, and the schedule is that much shorter.
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
        # Those of the last call alone.
        built = [each for each in self.schedule.built if each.optimizer in trainer.optimizers]
        optimizers = [each.optimizer for each in built]
        # Compare optimizers, since a module may have wrapped the schedule, for example in a SequentialLR.
        configs = []
        for config in trainer.lr_scheduler_configs:
            if config.scheduler.optimizer in optimizers:
                configs.append(config)
        name = type(pl_module).__name__
        is_automatic = pl_module.automatic_optimization
        if (len(configs) < len(built) or not is_automatic) and is_main_process():
            warn(
                f"scheduler: is built for {self.schedule.num_steps} steps, one per optimizer step, but {name} steps it "
                "manually or not at all"
            )
        if not is_automatic:
            return
        for config in configs:
            is_by_step = config.interval == "step" or config.scheduler in built
            if config.frequency != 1 or not is_by_step:
                raise UserError(
                    f"scheduler: is built for {self.schedule.num_steps} optimizer steps, but {name} has it stepped every "
                    f"{config.frequency} {config.interval}; its configure_optimizers must return "
                    '{"scheduler": ..., "interval": "step"}'
                )
            config.interval = "step"


def match_names(names: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Return the names that match at least one of the patterns.

    Raises:
        ValueError: A pattern matches no name.

    Example:
        >>> match_names(["network.0.weight", "network.0.bias", "network.2.bias"], ["network.0.*", "*.bias"])
        ['network.0.weight', 'network.0.bias', 'network.2.bias']
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

    A layer whose `running_mean` matches is kept in evaluation mode during training, so that it normalises by its
    running statistics and does not update them. For a BatchNorm, `network.layers.1.*` matches it, and `*.weight`
    does not. If only such a layer's parameters match, they are frozen, but its statistics are still updated.

    Args:
        module: Module with the parameters and running statistics.
        patterns: Patterns of their names, as in `state_dict()`.

    Raises:
        ValueError: A pattern matches nothing, or no parameter is left to train.

    Example:
        >>> layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 3))
        >>> freeze(layers, ["1.*", "0.weight"])
        >>> layers[1].training, [name for name, parameter in layers.named_parameters() if parameter.requires_grad]
        (False, ['0.bias', '2.weight', '2.bias'])
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
    """Return an optimizer's parameter groups: the ungrouped parameters, then each group with its options.

    Args:
        named: Names and parameters, from the task's `named_parameters()`: `network.layers.1.weight`.
        groups: Groups by arbitrary name: `match`, a pattern or a list of patterns (`*.bias`), and options of the
            optimizer (`lr`, `weight_decay`). A parameter belongs to the first group that it matches.

    Raises:
        ValueError: A group has no `match`, one of its patterns matches none of the parameters left by earlier
            groups, or it has the option `freeze`, which is not an optimizer's.

    Example:
        >>> groups = {"biases": {"match": "*.bias", "weight_decay": 0.0}}
        >>> [len(group["params"]) for group in parameter_groups(nn.Linear(1, 1).named_parameters(), groups)]
        Traceback (most recent call last):
            ...
        ValueError: groups.biases: *.bias matches none of weight, bias
        >>> groups = {"biases": {"match": "*bias", "weight_decay": 0.0}}
        >>> [len(group["params"]) for group in parameter_groups(nn.Linear(1, 1).named_parameters(), groups)]
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


def network(cfg: DictConfig, facts: Facts) -> torch.nn.Module:
    """Return the network that `cfg.model` describes, for data with these facts."""
    module: torch.nn.Module = instantiate(cfg.model, "model", facts.by_name)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"model: creates a {type(module).__name__}; must be a torch.nn.Module")
    # Faster for convolutions, on a CPU and on a GPU in half precision; it does not change other layers.
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_step(module: Task, facts: Facts, *, with_targets: bool = True) -> Outcome | None:
    """Check that a task can learn from data with these facts, by a batch of zeros.

    Nothing is tried if the facts have no sample shape or no number of outputs.

    Args:
        module: The task.
        facts: Facts of the data.
        with_targets: Whether batches are samples and targets, so that the task's step can be tried, too.

    Returns:
        The outcome of the batch; None if the step was not tried.

    Raises:
        UserError: The targets are of another kind, the output has another shape, or the code raises an error.
    """
    with user_errors("task"):
        module.check_facts(facts)
    outcome: Outcome | None = None
    if facts.input_shape is None or not facts.num_outputs:
        return outcome
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    is_text = facts.vocabulary is not None
    inputs = torch.zeros(
        2, *facts.input_shape, device=device, dtype=torch.int64 if is_text else torch.float32
    )
    if facts.num_classes is not None:
        targets = inputs.new_zeros(2, dtype=torch.int64)
    else:
        targets = (
            inputs
            if is_text
            else inputs.new_zeros(2, *([] if facts.num_outputs == 1 else [facts.num_outputs]))
        )
    given = f"given samples of shape {tuple(inputs.shape)}"
    module.eval()  # draw no random numbers, and leave running means unchanged
    eager = torch.compiler.set_stance("force_eager")  # don't compile for this batch of two
    # What the meta device does not support is checked again when the run starts.
    with torch.no_grad(), eager, contextlib.suppress(NotImplementedError):
        with user_errors(f"model, {given}"):
            module.check_network(inputs, facts)
        if with_targets:
            with user_errors(f"task, {given} and targets of shape {tuple(targets.shape)}"):
                outcome = module.step((inputs, targets))
    module.train()
    return outcome


def check_single_values(cfg: DictConfig, facts: Facts, outcome: Outcome) -> None:
    """Check that each metric that the configuration describes is one number, by an outcome of zeros.

    What a metric can't compute from zeros is left to the training.

    Raises:
        UserError: A metric has several values, such as one per class.
    """
    zeros = []
    for each in (outcome.predictions, outcome.targets):
        if not isinstance(each, torch.Tensor):
            return
        # The network may be on the meta device, which has shapes only.
        zeros.append(torch.zeros_like(each, device="cpu"))
    for name, node in (cfg.task.get("metrics") or {}).items():
        shape: tuple[int, ...] = ()
        with (
            contextlib.suppress(Exception),
            warnings.catch_warnings(),
            undisturbed(),
            torch.device("cpu"),
        ):
            warnings.simplefilter("ignore")
            metric = instantiate(node, f"task.metrics.{name}", facts.by_name)
            if not list(
                metric.parameters()
            ):  # not a network, such as that of a perceptual distance
                metric.update(*zeros)
                found = metric.compute()
                if isinstance(found, tuple | list):
                    shape = (len(found),)
                else:
                    shape = tuple(getattr(found, "shape", ()))
        if math.prod(shape) > 1:
            raise UserError(
                f"task.metrics.{name}: gives values of shape {shape}, and a metric is one number: choose average=macro, or "
                "torchmetrics.ClasswiseWrapper, with this metric and its num_classes as metric, to log one per class"
            )


def task(cfg: DictConfig, data: L.LightningDataModule, trainer: L.Trainer) -> L.LightningModule:
    """Return the LightningModule to train, with a schedule as long as the run.

    Raises:
        UserError: A part of the configuration is wrong, or the objective is not a logged metric.
    """
    if isinstance(data, ModuleData):
        module, scheduler = data.attached
    else:
        module, scheduler = new_module(cfg, facts_of(data))
        own = own_loaders(module)
        if own:
            raise UserError(
                f"task: {type(module).__name__} defines {' and '.join(own)}, which {type(data).__name__} would "
                "replace; set data=module to use those of the task"
            )
    if scheduler:
        scheduler.num_steps = num_steps(trainer, data)
        if "monitor" in cfg.scheduler:
            every = trainer.check_val_every_n_epoch or 1
            scheduler.options = {
                "interval": "epoch",
                "frequency": every,
                "monitor": cfg.scheduler.monitor,
            }
        if scheduler.has_length:
            trainer.callbacks.insert(0, without_empty_hooks(ScheduleLength(scheduler)))  # type: ignore[attr-defined]
    if isinstance(module, Task):
        facts = facts_of(data)
        outcome = check_step(module, facts, with_targets=divides_batches(data))
        if outcome:
            check_single_values(cfg, facts, outcome)
    with user_errors("freeze"):
        freeze(module, list(cfg.freeze))
    if isinstance(module, Task):
        with user_errors("optimizer", cfg.optimizer):
            # Build the optimizer once now, so that an invalid value is reported before training.
            optimizer = make_optimizer(cfg.optimizer)(module.named_parameters())
        _check_metrics(cfg, module, data)
        if scheduler:
            scheduler.check(optimizer)
    return module


def new_module(cfg: DictConfig, facts: Facts) -> tuple[L.LightningModule, ScheduleFactory | None]:
    """Return a new LightningModule, and the factory of its schedule (None without one).

    The length of the schedule is not set yet.

    Raises:
        UserError: A part of the configuration is wrong.
    """
    scheduler = ScheduleFactory(cfg.scheduler) if cfg.scheduler else None
    if scheduler and "scheduler" not in taken_arguments(cfg, facts):
        raise UserError(
            f"scheduler={cfg.scheduler.get('_target_')}: {target(cfg.task, 'task').__name__} takes no scheduler; "
            "choose scheduler=none"
        )
    optimizer = make_optimizer(cfg.optimizer)
    module = task_module(cfg, facts, optimizer=optimizer, scheduler=scheduler)
    return module, scheduler


def task_module(
    cfg: DictConfig,
    facts: Facts,
    *,
    optimizer: Callable[..., Optimizer] | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
) -> L.LightningModule:
    """Return the LightningModule that `cfg.task` describes.

    It receives the `taken_arguments`. Its loss and its metrics receive the facts that their constructors name.

    Raises:
        UserError: A part of the configuration is wrong.
    """
    parts: dict[str, Any] = {}
    for name, node in cfg.task.items():
        if _is_part(node):
            parts[str(name)] = _part(node, f"task.{name}", facts)
    offered = facts.by_name
    offered["optimizer"] = optimizer
    offered["scheduler"] = scheduler
    taken = taken_arguments(cfg, facts)
    offered = {name: value for name, value in offered.items() if name in taken}
    if "network" in taken:
        offered["network"] = network(cfg, facts)
    module: L.LightningModule = instantiate(
        cfg.task, "task", offered, without=tuple(parts), **parts
    )
    check_lightning_kind(module, L.LightningModule, "task")
    loss = getattr(module, "loss", None)
    if isinstance(module, Task) and loss is not None and not callable(loss):
        raise UserError(
            f"task.loss={loss}: must be an object with a _target_, such as task.loss={{_target_: torch.nn.NLLLoss}}"
        )
    if optimizer and cfg.get("compile") and "network" in offered:
        offered["network"].compile()  # in place: the keys in checkpoints stay the same
    return module


def taken_arguments(cfg: DictConfig, facts: Facts) -> set[str]:
    """Return the arguments that the task's constructor takes from the program: facts, and network, optimizer, scheduler.

    A `Task` takes all that it names. Any other module may use these names for settings of its own: it takes those
    that neither its signature nor the configuration gives a value.
    """
    offered = {*facts.by_name, "network", "optimizer", "scheduler"}
    callee = target(cfg.task, "task")
    defaults = arguments(callee)
    if inspect.isclass(callee) and issubclass(callee, Task):
        return offered & {*defaults}
    given = {str(name) for name in cfg.task if not OmegaConf.is_missing(cfg.task, name)}
    without_value = set()
    for name, default in defaults.items():
        if default is None or default is REQUIRED:
            without_value.add(name)
    return offered & without_value - given


def _is_part(node: Any) -> bool:
    """Return whether a node of a task describes an object (a loss), or several by name (metrics)."""
    if not isinstance(node, DictConfig):
        return False
    if "_target_" in node:
        return True
    values = [*node.values()]
    return bool(values) and all(map(_is_part, values))


def _part(node: DictConfig, key: str, facts: Facts) -> Any:
    if "_target_" in node:
        return instantiate(node, key, facts.by_name)
    parts = {}
    for name in map(str, node):
        parts[name] = _part(node[name], f"{key}.{name}", facts)
    return parts


def _check_metrics(cfg: DictConfig, module: Task, data: L.LightningDataModule) -> None:
    """Check that a task logs the metrics of the objective, and the one that the schedule follows."""
    sizes = sizes_of(data)
    allowed = module.logged_on(sizes)
    if "monitor" in cfg.scheduler:
        monitor = str(cfg.scheduler.monitor)
        if monitor not in allowed:
            metrics = ", ".join(sorted(allowed))
            raise UserError(f"scheduler.monitor={monitor}: must be one of {metrics}")
        require_choice(cfg, "scheduler.mode", "max", "min")
    objective = objective_of(cfg.objective)
    if objective and objective.metric not in allowed:
        why = "; data.val_size=0 leaves no validation split" if "val" not in sizes else ""
        raise UserError(
            f"objective.metric={objective.metric}: must be one of {', '.join(sorted(allowed))}{why}\n"
            "objective=null selects nothing and keeps the last epoch"
        )


def make_optimizer(node: DictConfig) -> Callable[..., Optimizer]:
    """Return a function that builds a node's optimizer from named parameters, divided into the node's `groups`."""
    build: Callable[..., Optimizer] = instantiate(node, "optimizer", without=("groups",))
    if not node.get("groups"):
        return build
    groups: Any = OmegaConf.to_container(node.groups, resolve=True)
    return lambda named: build(parameter_groups(named, groups))

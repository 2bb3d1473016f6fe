"""The task: a LightningModule with its network, loss, metrics, optimizer and schedule."""

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MetricCollection

from leyden.assembly.instantiate import (
    REQUIRED,
    arguments,
    check_lightning_kind,
    instantiate,
    target,
    user_errors,
)
from leyden.assembly.lengths import num_steps
from leyden.assembly.optimizers import ScheduleFactory, ScheduleLength, freeze, make_optimizer
from leyden.assembly.trainer import without_empty_hooks
from leyden.base.errors import UserError
from leyden.config.checks import objective_of, require_choice
from leyden.data.contract import Facts, ModuleData, divides_batches, facts_of, own_loaders, sizes_of
from leyden.exact.random_state import undisturbed
from leyden.tasks import Outcome, Task


def network(cfg: DictConfig, facts: Facts) -> torch.nn.Module:
    """Return the network that `cfg.model` describes, for data with these facts."""
    module: torch.nn.Module = instantiate(cfg.model, "model", facts.by_name)
    if not isinstance(module, torch.nn.Module):
        raise UserError(f"model: creates a {type(module).__name__}; must be a torch.nn.Module")
    # Faster for convolutions, on a CPU and on a GPU in half precision; it does not change other
    # layers.
    convert: Any = module.to
    converted: torch.nn.Module = convert(memory_format=torch.channels_last)
    return converted


def check_step(module: Task, facts: Facts, *, with_targets: bool = True) -> Outcome | None:
    """Check that a task can learn from data with these facts, by a batch of zeros.

    Nothing is tried if the facts have no sample shape or no number of outputs.

    Args:
        module: The task.
        facts: Facts of the data.
        with_targets: Whether batches are samples and targets, so that the task's step can be tried,
            too.

    Returns:
        The outcome of the batch; None if the step was not tried.

    Raises:
        UserError: The targets are of another kind, the output has another shape, or the code raises
            an error.
    """
    with user_errors("task"):
        module.check_facts(facts)
    if facts.input_shape is None or not facts.num_outputs:
        return None
    device = next((parameter.device for parameter in module.parameters()), None)
    inputs = torch.zeros(2, *facts.input_shape, device=device)
    if facts.vocabulary is not None:
        inputs = inputs.long()
    targets = inputs
    if facts.kind == "classes":
        targets = inputs.new_zeros(2, dtype=torch.int64)
    elif facts.kind == "values":
        targets = inputs.new_zeros(2, facts.num_outputs).squeeze(1)
    given = f"given samples of shape {tuple(inputs.shape)}"
    outcome = None
    module.eval()  # draw no random numbers, and leave running means unchanged
    # Don't compile for this batch of two.
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        with user_errors(f"model, {given}"):
            module.check_network(inputs, facts)
        if with_targets:
            with user_errors(f"task, {given} and targets of shape {tuple(targets.shape)}"):
                outcome = module.step((inputs, targets))
                module.check_outcome(outcome)
    module.train()
    return outcome


def check_single_values(module: Task, outcome: Outcome) -> None:
    """Check that each of a task's metrics is one number, by the outcome of a batch of zeros.

    What a metric can't compute from that is left to the training.

    Raises:
        UserError: A metric has several values, such as one per class.
    """
    collection: Any = module.val_metrics or MetricCollection({})
    for name, metric in collection.items(keep_base=True):
        shape: tuple[int, ...] = ()
        with contextlib.suppress(Exception), warnings.catch_warnings(), undisturbed():
            warnings.simplefilter("ignore")
            if not [*metric.parameters()]:  # not a network's, as a perceptual distance
                tried = metric.clone()
                tried.update(outcome.predictions, outcome.targets)
                found = tried.compute()
                is_several = isinstance(found, tuple | list)
                shape = (len(found),) if is_several else tuple(getattr(found, "shape", ()))
        if math.prod(shape) > 1:
            raise UserError(
                f"task.metrics.{name}: gives values of shape {shape}, and a metric is one number: "
                "choose average=macro, or torchmetrics.ClasswiseWrapper, with this metric and its "
                "num_classes as metric, to log one per class"
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
                f"task: {type(module).__name__} defines {' and '.join(own)}, which "
                f"{type(data).__name__} would replace; set data=module to use those of the task"
            )
    if scheduler:
        scheduler.num_steps = num_steps(trainer, data)
        if "monitor" in cfg.scheduler:
            every = trainer.check_val_every_n_epoch or 1
            monitor = cfg.scheduler.monitor
            scheduler.options = {"interval": "epoch", "frequency": every, "monitor": monitor}
        if scheduler.has_length:
            callback = without_empty_hooks(ScheduleLength(scheduler))
            trainer.callbacks.insert(0, callback)  # type: ignore[attr-defined]
    if isinstance(module, Task):
        outcome = check_step(module, facts_of(data), with_targets=divides_batches(data))
        if outcome:
            check_single_values(module, outcome)
        _check_metrics(cfg, module, data)
        # Build the optimizer once now, so that an invalid value is reported before training.
        with user_errors("optimizer", cfg.optimizer):
            optimizer = make_optimizer(cfg.optimizer)(module.named_parameters())
        if scheduler:
            scheduler.check(optimizer)
    with user_errors("freeze"):
        freeze(module, list(cfg.freeze))
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
            f"scheduler={cfg.scheduler.get('_target_')}: {target(cfg.task, 'task').__name__} takes "
            "no scheduler; choose scheduler=none"
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

    It receives the `taken_arguments`. Its loss and its metrics receive the facts that their
    constructors name.

    Raises:
        UserError: A part of the configuration is wrong.
    """
    parts: dict[str, Any] = {}
    for name, node in cfg.task.items():
        if _is_part(node):
            parts[str(name)] = _part(node, f"task.{name}", facts)
    offered = {**facts.by_name, "optimizer": optimizer, "scheduler": scheduler}
    taken = taken_arguments(cfg, facts)
    offered = {name: value for name, value in offered.items() if name in taken}
    if "network" in taken:
        offered["network"] = network(cfg, facts)
    module: L.LightningModule = instantiate(cfg.task, "task", offered, without=[*parts], **parts)
    check_lightning_kind(module, L.LightningModule, "task")
    loss = getattr(module, "loss", None)
    if isinstance(module, Task) and loss is not None and not callable(loss):
        raise UserError(
            f"task.loss={loss}: must be an object with a _target_, such as task.loss={{_target_: "
            "torch.nn.NLLLoss}"
        )
    if optimizer and cfg.get("compile") and "network" in offered:
        offered["network"].compile()  # in place: the keys in checkpoints stay the same
    return module


def taken_arguments(cfg: DictConfig, facts: Facts) -> set[str]:
    """Return the facts and parts (`network` …) that the task's constructor takes from the program.

    A `Task` takes all that it names. Any other module may use these names for settings of its own:
    it takes those that neither its signature nor the configuration gives a value.
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
    """Return whether a node of a task describes an object (a loss), or several (metrics)."""
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
    """Check that a task logs the metrics of the objective and of the schedule."""
    sizes = sizes_of(data)
    allowed = sorted(module.logged_on(sizes))
    if "monitor" in cfg.scheduler:
        require_choice(cfg, "scheduler.monitor", *allowed)
        require_choice(cfg, "scheduler.mode", "max", "min")
    objective = objective_of(cfg.objective)
    if objective and objective.metric not in allowed:
        why = "" if "val" in sizes else "; data.val_size=0 leaves no validation split"
        raise UserError(
            f"objective.metric={objective.metric}: must be one of {', '.join(allowed)}{why}\n"
            "objective=null selects nothing and keeps the last epoch"
        )

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

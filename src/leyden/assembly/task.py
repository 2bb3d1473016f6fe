"""What is learned: a LightningModule, with its network, loss, metrics, optimizer and schedule."""

from collections.abc import Callable
from typing import Any

import lightning as L
from omegaconf import DictConfig, OmegaConf
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.assembly.instantiate import check_made, instantiate, target, user_errors
from leyden.assembly.length import num_steps, run_epochs
from leyden.assembly.network import check_logits, check_step, network
from leyden.assembly.schedule import Schedule, ScheduleLength
from leyden.assembly.signatures import argument_names
from leyden.assembly.trainer import without_empty_hooks
from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.data.contract import divides_batches, facts_of, sizes_of
from leyden.data.facts import Facts
from leyden.data.module import ModuleData, own_loaders
from leyden.tasks.freeze import freeze
from leyden.tasks.parameter_groups import parameter_groups
from leyden.tasks.task import Task


def task(cfg: DictConfig, data: L.LightningDataModule, trainer: L.Trainer) -> L.LightningModule:
    """What is learned, for as many steps as the trainer will take.

    Raises:
        UserError: A part of the configuration is wrong, or the objective is nothing that is logged.
    """
    module, scheduler = data.made if isinstance(data, ModuleData) else new_module(cfg, facts_of(data))
    if scheduler:
        scheduler.num_steps, scheduler.num_epochs = num_steps(trainer, data), run_epochs(trainer, data)
        if scheduler.has_length:
            trainer.callbacks.insert(0, without_empty_hooks(ScheduleLength(scheduler)))  # type: ignore[attr-defined]
    if not isinstance(data, ModuleData) and (own := own_loaders(module)):
        raise UserError(
            f"task: {type(module).__name__} has {' and '.join(own)} of its own, which {type(data).__name__} would take the place of; "
            "data=module trains on what the module brings"
        )
    if isinstance(module, Task) and divides_batches(data):  # their batches are samples and targets
        check_step(module, facts_of(data))
    with user_errors("freeze"):
        freeze(module, list(cfg.freeze))
    if isinstance(module, Task):
        with user_errors("optimizer", cfg.optimizer, given=("params", "groups")):
            # A value that it refuses shows now, not in training.
            made = make_optimizer(cfg.optimizer)(module.named_parameters())
        if scheduler:
            scheduler.check(made)
        _check_objective(cfg, module, data)
    return module


def new_module(cfg: DictConfig, facts: Facts) -> tuple[L.LightningModule, Schedule | None]:
    """The LightningModule that is to be trained, and what makes its schedule, whose length is not known yet; None for none.

    Raises:
        UserError: A part of the configuration is wrong.
    """
    scheduler = Schedule(cfg.scheduler) if cfg.scheduler else None
    if scheduler and "scheduler" not in argument_names(kind := target(cfg.task, "task")):
        raise UserError(
            f"scheduler={cfg.scheduler.get('_target_')}: {kind.__name__} has no argument of that name, and takes none; "
            "choose scheduler=none"
        )
    return task_module(cfg, facts, optimizer=make_optimizer(cfg.optimizer), scheduler=scheduler), scheduler


def task_module(
    cfg: DictConfig,
    facts: Facts,
    *,
    optimizer: Callable[..., Optimizer] | None = None,
    scheduler: Callable[[Optimizer], LRScheduler] | None = None,
) -> L.LightningModule:
    """The LightningModule that `cfg.task` describes, with the network of `cfg.model` if its constructor names one.

    It gets the facts, optimizer and scheduler that its constructor names, and so do its loss and its metrics.

    Raises:
        UserError: A part of the configuration is wrong.
    """
    nodes = {str(name): node for name, node in cfg.task.items() if _is_part(node)}
    parts = {name: _part(node, f"task.{name}", facts) for name, node in nodes.items()}
    names = argument_names(target(cfg.task, "task"))
    offered: dict[str, Any] = {**facts.by_name, "optimizer": optimizer, "scheduler": scheduler}
    if "network" in names:
        offered["network"] = network(cfg, facts)
    module: L.LightningModule = instantiate(cfg.task, "task", offered, without=tuple(parts), **parts)
    check_made(module, L.LightningModule, "task")
    if isinstance(module, Task) and (loss := getattr(module, "loss", None)) is not None and not callable(loss):
        raise UserError(
            f"task.loss={loss}: must be made by a _target_, as task.loss={{_target_: torch.nn.NLLLoss}}"
        )
    if isinstance(module, Task) and module.kind == facts.kind == "classes":
        check_logits(module.network, facts)
    if cfg.compile and "network" in offered:
        offered["network"].compile()  # in place, so that its keys in a checkpoint do not depend on it
    return module


def _is_part(node: Any) -> bool:
    """Whether a node of a task describes an object (a loss), or several by name (metrics)."""
    if not isinstance(node, DictConfig):
        return False
    return "_target_" in node or (len(node) > 0 and all(map(_is_part, node.values())))


def _part(node: DictConfig, key: str, facts: Facts) -> Any:
    if "_target_" in node:
        return instantiate(node, key, facts.by_name)
    return {name: _part(inner, f"{key}.{name}", facts) for name, inner in ((str(n), i) for n, i in node.items())}


def _check_objective(cfg: DictConfig, module: Task, data: L.LightningDataModule) -> None:
    """Make sure that a task logs what is selected on."""
    allowed = module.logged_on(sizes := sizes_of(data))
    for objective in objectives(cfg.objective):
        if objective.metric not in allowed:
            why = "; data.val_size=0 leaves no validation split" if "val" not in sizes else ""
            raise UserError(
                f"objective.metric={objective.metric}: must be one of {', '.join(sorted(allowed))}{why}\n"
                "objective=null selects nothing and keeps the last epoch"
            )
        allowed.add("num_parameters")  # the first one selects among epochs, which have it in common


def make_optimizer(node: DictConfig) -> Callable[..., Optimizer]:
    """What makes the optimizer that a node describes, when called with named parameters, which it divides by its `groups`."""
    made: Callable[..., Optimizer] = instantiate(node, "optimizer", without=("groups",))
    groups = OmegaConf.to_container(node.groups, resolve=True) if node.get("groups") else None
    if not groups:
        return made
    return lambda named: made(parameter_groups(named, groups))  # type: ignore[arg-type]

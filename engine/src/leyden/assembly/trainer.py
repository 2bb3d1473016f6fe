"""Lightning's trainer, its callbacks and its strategy, as all commands use them."""

import inspect
import logging
import warnings
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy, StrategyRegistry
from omegaconf import DictConfig

from leyden.assembly.instantiate import (
    argument_names,
    check_lightning_kind,
    instantiate,
    switched_on,
    target,
    user_errors,
)
from leyden.callbacks.averaging import check_averaging
from leyden.callbacks.checkpoint import RunCheckpoint, SafeCheckpointIO
from leyden.callbacks.display import DisplayCallback
from leyden.config.errors import UserError
from leyden.data.facts import Facts
from leyden.scheduler import current

STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STRATEGIES = "auto, ddp or ddp_find_unused_parameters_true"  # for messages


def callbacks_of(cfg: DictConfig, facts: Facts) -> tuple[list[L.Callback], RunCheckpoint]:
    """Return all enabled callbacks, and the one among them that saves checkpoints.

    A DisplayCallback that needs facts that the data don't have is left out.
    """
    callbacks: list[L.Callback] = []
    for name, node in switched_on(cfg.callbacks):
        if _lacks_facts(node, f"callbacks.{name}", facts):
            continue
        callbacks.append(instantiate(node, f"callbacks.{name}", facts.by_name))
        check_lightning_kind(callbacks[-1], L.Callback, f"callbacks.{name}")
        with user_errors(f"callbacks.{name}"):
            check_averaging(callbacks[-1], cfg.trainer.max_epochs)
    checkpoints = [callback for callback in callbacks if isinstance(callback, RunCheckpoint)]
    if len(checkpoints) != 1:
        raise UserError(
            "callbacks: must have one RunCheckpoint, such as callbacks.checkpoint, without which there is no result"
        )
    return callbacks, checkpoints[0]


def _lacks_facts(node: DictConfig, key: str, facts: Facts) -> bool:
    """Return whether a node is a DisplayCallback that needs a fact that these data do not have."""
    if not facts.missing:
        return False
    kind = target(node, key)
    is_display = inspect.isclass(kind) and issubclass(kind, DisplayCallback)
    return is_display and bool(facts.missing & argument_names(kind, needed=True))


def check_strategy(cfg: DictConfig) -> None:
    """Check the strategy: its processes can be started on all nodes, and its checkpoints can be resumed from.

    Raises:
        UserError: The strategy is unknown or not supported.
    """
    strategy = cfg.trainer.get("strategy", "auto")
    if strategy in StrategyRegistry:
        kind, arguments = StrategyRegistry[strategy]["strategy"], StrategyRegistry[strategy]["init_params"]
    elif isinstance(strategy, DictConfig):
        kind, arguments = target(strategy, "trainer.strategy"), strategy
        strategy = strategy.get("_target_")
    elif strategy == "auto":
        kind, arguments = SingleDeviceStrategy, {}
    else:
        raise UserError(f"trainer.strategy={strategy}: must be {STRATEGIES}, or a node with a _target_")
    if arguments.get("start_method", "popen") != "popen":
        raise UserError(f"trainer.strategy={strategy}: each process is started by its own command; choose ddp")
    if inspect.isclass(kind):  # otherwise checked when the trainer exists
        check_unsharded(kind, strategy)
    launched = (
        _cluster_environment()
        or TorchElasticEnvironment.detect()
        or LightningEnvironment().creates_processes_externally
    )
    if cfg.trainer.num_nodes > 1 and not launched and not cfg.cluster.get("nodes"):
        raise UserError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: nothing starts the other nodes' processes, so the run "
            "would wait for them forever; use cluster=slurm_multinode, or torchrun on each node"
        )


def _cluster_environment() -> ClusterEnvironment | None:
    """Return Lightning's environment of a process that a cluster's scheduler has started; None for any other."""
    scheduler = current()
    return scheduler.environment() if scheduler else None


def check_unsharded(kind: type, strategy: Any) -> None:
    """Check that each process of a strategy holds all weights and optimizer states, as checkpoints do.

    Raises:
        UserError: The strategy may shard them.
    """
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy) or issubclass(kind, DeepSpeedStrategy):
        raise UserError(
            f"trainer.strategy={strategy}: {kind.__name__} may shard weights or optimizer states; checkpoints "
            f"hold them whole, so the run could not be resumed; choose {STRATEGIES}"
        )


def plain_trainer(cfg: DictConfig, callbacks: list[L.Callback], **kwargs: Any) -> L.Trainer:
    """Return a trainer with these callbacks, and with the plugins and options of all commands."""
    plugins: list[Any] = [SafeCheckpointIO()]
    if environment := _cluster_environment():
        plugins.append(environment)
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        "trainer",
        without=["max_time"],  # the callback Timer applies it
        callbacks=[without_empty_hooks(callback) for callback in callbacks],
        plugins=plugins,
        # No progress bar of Lightning's if the configuration has none.
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **{"use_distributed_sampler": False, **kwargs},
    )
    for logger in trainer.loggers:
        if hasattr(logger, "attach_trainer"):  # Leyden's for TensorBoard, which needs the stage
            logger.attach_trainer(trainer)
    # Deterministic mode would also fill new tensors, at the cost of a pass over each; it is not needed here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def without_empty_hooks(callback: L.Callback) -> L.Callback:
    """Return a callback after disabling the per-step hooks that its class does not override.

    Lightning calls empty hooks, too: together they take 4 % of the default run's training time (median of 9 pairs
    of runs, 2 CPU cores). Callbacks from outside the library stay unchanged.
    """
    if not type(callback).__module__.startswith("leyden."):
        return callback  # it may call its hooks itself, or set them later
    for name in STEP_HOOKS:
        if getattr(type(callback), name) is getattr(L.Callback, name):
            setattr(callback, name, None)  # on the instance; Lightning skips what is not callable
    return callback


def silence_lightning() -> None:
    """Silence Lightning's messages at each start, and warnings that a user can't act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A profiler reports by its logger.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # no validation split
    warnings.filterwarnings(
        "ignore", "You defined a `validation_step` but have no"
    )  # fine if the objective is a training metric
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on the login node of a cluster
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # by `freeze`
    warnings.filterwarnings("ignore", ".*is already saved during checkpointing")  # Leyden saves no hparams
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # means per epoch are logged anyway

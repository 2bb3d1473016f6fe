"""Lightning's trainer with its callbacks, as all of the engine's trainers are."""

import inspect
import logging
import warnings
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
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

HOOKS_OF_A_STEP = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STRATEGIES = "auto, ddp or ddp_find_unused_parameters_true"  # for messages


def callbacks_of(cfg: DictConfig, facts: Facts) -> tuple[list[L.Callback], RunCheckpoint]:
    """All that are switched on, and the one of them that keeps the checkpoints."""
    callbacks: list[L.Callback] = []
    for name, node in switched_on(cfg.callbacks):
        if _wants_other_data(node, f"callbacks.{name}", facts):
            continue
        callbacks.append(instantiate(node, f"callbacks.{name}", facts.by_name))
        check_lightning_kind(callbacks[-1], L.Callback, f"callbacks.{name}")
        with user_errors(f"callbacks.{name}"):
            check_averaging(callbacks[-1], cfg.trainer.max_epochs)
    checkpoints = [callback for callback in callbacks if isinstance(callback, RunCheckpoint)]
    if len(checkpoints) != 1:
        raise UserError(
            "callbacks: must have one RunCheckpoint, as callbacks.checkpoint is, else there is no result"
        )
    return callbacks, checkpoints[0]


def _wants_other_data(node: DictConfig, key: str, facts: Facts) -> bool:
    """Whether a callback that only shows something names a fact that these data do not have."""
    if not facts.lacking:
        return False
    made = target(node, key)
    shows = inspect.isclass(made) and issubclass(made, DisplayCallback)
    return shows and bool(facts.lacking & argument_names(made, needed=True))


def check_strategy(cfg: DictConfig) -> None:
    """Make sure that processes can be started, will find each other, and that their checkpoints can be resumed from."""
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
        raise UserError(f"trainer.strategy={strategy}: each process is started as a command of its own; choose ddp")
    if inspect.isclass(kind):  # else it is known when it is made
        check_unsharded(kind, strategy)
    launched = (
        SLURMEnvironment.detect()
        or TorchElasticEnvironment.detect()
        or LightningEnvironment().creates_processes_externally
    )
    if cfg.trainer.num_nodes > 1 and not launched and not cfg.cluster.get("nodes"):
        raise UserError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: nothing starts the other nodes' processes, and they would be "
            "waited for for ever; use cluster=slurm_multinode, or torchrun on each node"
        )


def check_unsharded(kind: type, strategy: Any) -> None:
    """Make sure that each process of a strategy has all weights and states of optimizers, as the file of a checkpoint holds them.

    Raises:
        UserError: They may be divided among the processes.
    """
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy) or issubclass(kind, DeepSpeedStrategy):
        raise UserError(
            f"trainer.strategy={strategy}: {kind.__name__} may divide weights or optimizer states among processes; checkpoints "
            f"hold them whole, so the run could not be resumed; choose {STRATEGIES}"
        )


def plain_trainer(cfg: DictConfig, callbacks: list[L.Callback], **kwargs: Any) -> L.Trainer:
    """The trainer with these callbacks, and with what all of Leyden's trainers have."""
    plugins: list[Any] = [SafeCheckpointIO()]
    if SLURMEnvironment.detect():
        plugins.append(SLURMEnvironment(auto_requeue=False))  # that is `Preemption`'s
    made: L.Trainer = instantiate(
        cfg.trainer,
        "trainer",
        without=["max_time"],  # a Timer's
        callbacks=[without_empty_hooks(callback) for callback in callbacks],
        plugins=plugins,
        # Without one in the configuration there is none of Lightning's either.
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **{"use_distributed_sampler": False, **kwargs},
    )
    # Deterministic mode would also fill all new memory: no need here, and it costs a pass over every tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return made


def without_empty_hooks(callback: L.Callback) -> L.Callback:
    """One of the engine's callbacks, less the hooks of a step that it does not have: Lightning calls empty ones, too.

    All of them together take 4 % of the default run's training (median of 9 pairs of runs, 2 CPU cores).
    """
    if not type(callback).__module__.startswith("leyden."):
        return callback  # somebody else's may call its own hooks, or get some later
    for name in HOOKS_OF_A_STEP:
        if getattr(type(callback), name) is getattr(L.Callback, name):
            setattr(callback, name, None)  # of this object alone; Lightning leaves out what can't be called
    return callback


def silence_lightning() -> None:
    """Leave out what Lightning tells at each start, and warnings that leave a user nothing to do."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Who has asked for a profiler wants its report.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)  # Lightning 2.6 on torch 2.13
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # no validation split
    warnings.filterwarnings(
        "ignore", "You defined a `validation_step` but have no"
    )  # the objective is one of training
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on the login node of a cluster
    warnings.filterwarnings("ignore", r"Found \d+ module\(s\) in eval mode")  # as `freeze` asks for
    warnings.filterwarnings("ignore", ".*is already saved during checkpointing")  # hyperparameters are in none
    warnings.filterwarnings("ignore", ".*smaller than the logging interval")  # means of epochs are logged anyway

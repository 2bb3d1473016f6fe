"""Lightning's trainer, with callbacks and strategy, and with what a run records."""

import functools
import inspect
import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy
from omegaconf import DictConfig, OmegaConf

from leyden.assembly.instantiate import (
    REQUIRED,
    arguments,
    check_extra,
    check_keys,
    check_lightning_kind,
    instantiate,
    switched_on,
    target,
    user_errors,
)
from leyden.base.errors import UserError, leave
from leyden.callbacks.averaging import check_averaging
from leyden.callbacks.checkpoint import RunCheckpoint
from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.hyperparameters import Hyperparameters
from leyden.callbacks.samples import SamplesSeen
from leyden.data.contract import Facts, ModuleData, divides_batches, facts_of
from leyden.exact.checkpoint import SafeCheckpointIO
from leyden.exact.elastic import Elastic, check_ranks
from leyden.exact.fit import Parts, refuse_search
from leyden.exact.lightning import derived, logged_steps_at
from leyden.exact.loaders import flatten_loaders
from leyden.exact.sharding import FSDP2
from leyden.exact.state import RunState
from leyden.queue import RequeueSignal, slurm
from leyden.run.directory import Position

STEP_HOOKS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)
STRATEGIES = (
    "auto",
    "ddp",
    "ddp_find_unused_parameters_true",
    "ddp_find_unused_parameters_false",
    "fsdp2",
    "elastic",
)


def callbacks_of(cfg: DictConfig, facts: Facts) -> tuple[list[L.Callback], RunCheckpoint]:
    """Return all enabled callbacks, and the one among them that saves checkpoints.

    A DisplayCallback that needs facts that the data don't have is left out.
    """
    callbacks: list[L.Callback] = []
    for name, node in switched_on(cfg.callbacks):
        key = f"callbacks.{name}"
        if _lacks_facts(node, key, facts):
            continue
        callback = instantiate(node, key, facts.by_name)
        check_lightning_kind(callback, L.Callback, key)
        with user_errors(key):
            check_averaging(callback, cfg.trainer.max_epochs)
        refusal = refuse_search(callback)
        if refusal:
            raise UserError(f"{key}: {refusal}")
        callbacks.append(callback)
    checkpoints = [callback for callback in callbacks if isinstance(callback, RunCheckpoint)]
    if len(checkpoints) != 1:
        raise UserError(
            "callbacks: must have one RunCheckpoint, such as callbacks.checkpoint, without which "
            "there is no result"
        )
    return callbacks, checkpoints[0]


def _lacks_facts(node: DictConfig, key: str, facts: Facts) -> bool:
    """Return whether a node is a DisplayCallback that needs a fact that these data do not have."""
    if not facts.missing:
        return False
    kind = target(node, key)
    is_display = inspect.isclass(kind) and issubclass(kind, DisplayCallback)
    if not is_display:
        return False
    defaults = arguments(kind)
    return any(defaults.get(name) is REQUIRED for name in facts.missing)


def check_strategy(cfg: DictConfig) -> None:
    """Check that a strategy's processes can be started, and its checkpoints resumed from.

    Raises:
        UserError: The strategy is unknown or not supported.
    """
    strategy = cfg.trainer.get("strategy", "auto")
    if isinstance(strategy, DictConfig):
        check_unsharded(target(strategy, "trainer.strategy"), strategy.get("_target_"))
        if strategy.get("start_method", "popen") != "popen":
            raise UserError(
                "trainer.strategy.start_method: each process is started by its own command; "
                "choose popen"
            )
    elif strategy not in STRATEGIES:
        raise UserError(
            f"trainer.strategy={strategy}: must be one of {', '.join(STRATEGIES)}, or a node with "
            "a _target_; checkpoints hold weights and optimizer states whole, and each process is "
            "started by its own command"
        )
    _check_virtual_ranks(cfg.trainer)
    launched = (
        slurm.environment()
        or TorchElasticEnvironment.detect()
        or LightningEnvironment().creates_processes_externally
    )
    if cfg.trainer.num_nodes > 1 and not launched and not cfg.cluster.get("nodes"):
        raise UserError(
            f"trainer.num_nodes={cfg.trainer.num_nodes}: nothing starts the other nodes' "
            "processes, so the run would wait for them forever; use a cluster with cluster.nodes, "
            "such as cluster=slurm_multinode, or torchrun on each node"
        )


def _check_virtual_ranks(trainer: DictConfig) -> None:
    """Check that the strategy elastic, and no other, has virtual ranks, which its processes share.

    Raises:
        UserError: It has none, or its processes can't share them.
    """
    number = trainer.get("virtual_ranks")
    kind = trainer.get("strategy", "auto")
    if kind != "elastic":
        if number is not None:
            raise UserError(
                f"trainer.virtual_ranks={number}: needs trainer.strategy=elastic, not {kind}"
            )
        return
    with user_errors("trainer"):
        check_ranks(number)
        if isinstance(trainer.devices, int) and isinstance(trainer.num_nodes, int):
            check_ranks(number, trainer.devices * trainer.num_nodes)


def check_unsharded(kind: Any, strategy: Any) -> None:
    """Check that each process of a strategy holds all weights and optimizer states.

    A function that makes the strategy is not known yet; the trainer's is checked again.

    Raises:
        UserError: The strategy may shard them.
    """
    if not inspect.isclass(kind):
        return
    if issubclass(kind, FSDP2) and strategy != "fsdp2":
        raise UserError(f"trainer.strategy={strategy}: must be fsdp2")
    if issubclass(kind, Elastic) and strategy != "elastic":
        raise UserError(f"trainer.strategy={strategy}: must be elastic, with trainer.virtual_ranks")
    if not issubclass(kind, SingleDeviceStrategy | DDPStrategy | FSDP2) or issubclass(
        kind, DeepSpeedStrategy
    ):
        raise UserError(
            f"trainer.strategy={strategy}: {kind.__name__} may shard weights or optimizer states; "
            "checkpoints hold them whole, so the run could not be resumed; choose one of "
            f"{', '.join(STRATEGIES)}"
        )


def plain_trainer(cfg: DictConfig, callbacks: list[L.Callback], **kwargs: Any) -> L.Trainer:
    """Return a trainer with these callbacks, and with the plugins and options of all commands."""
    plugins = [derived(SafeCheckpointIO, TorchCheckpointIO)(), slurm.environment()]
    without = ["max_time", "virtual_ranks"]  # which the callback Timer and the strategy apply
    if cfg.trainer.get("strategy") == "fsdp2":
        without.append("strategy")
        kwargs = {"strategy": FSDP2(), **kwargs}
    if cfg.trainer.get("strategy") == "elastic":
        without += ["strategy", "num_nodes"]
        nodes = slurm.num_nodes() or cfg.trainer.num_nodes
        strategy = Elastic(cfg.trainer.virtual_ranks)
        kwargs = {"strategy": strategy, "num_nodes": nodes, **kwargs}
    trainer: L.Trainer = instantiate(
        cfg.trainer,
        "trainer",
        without=without,
        callbacks=[without_empty_hooks(callback) for callback in callbacks],
        plugins=[*filter(None, plugins)],
        # No progress bar of Lightning's if the configuration has none.
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        num_sanity_val_steps=0,
        enable_model_summary=False,
        **{"use_distributed_sampler": False, **kwargs},
    )
    for name in ("training_step", "validation_step", "test_step"):
        step = getattr(trainer.strategy, name)
        setattr(trainer.strategy, name, _without_stop_iteration(step))
    for logger in trainer.loggers:
        if hasattr(logger, "attach_trainer"):  # Leyden's for TensorBoard, which needs the stage
            logger.attach_trainer(trainer)
    # Deterministic mode would also fill new tensors, at the cost of a pass over each; it is not
    # needed here.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return trainer


def _without_stop_iteration(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step whose StopIteration, for Lightning the end of the data, is another error."""

    @functools.wraps(step)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return step(*args, **kwargs)
        except StopIteration as error:
            raise RuntimeError(
                f"{step.__name__} has raised StopIteration, as `next` does at an iterator's end"
            ) from error

    return call


def without_empty_hooks(callback: L.Callback) -> L.Callback:
    """Return a callback after disabling the per-step hooks that its class does not override.

    Lightning calls empty hooks, too: together they take 4 % of the default run's training time
    (median of 9 pairs of runs, 2 CPU cores). Callbacks from outside the library stay unchanged.
    """
    if not type(callback).__module__.startswith("leyden."):
        return callback  # it may call its hooks itself, or set them later
    for name in STEP_HOOKS:
        if getattr(type(callback), name) is getattr(L.Callback, name):
            setattr(callback, name, None)  # on the instance; Lightning skips what is not callable
    return callback


NOT_FOR_USERS = (
    "Total length of `list` across ranks is zero",  # no validation split
    "You defined a `validation_step` but have no",  # fine if the objective is a training metric
    "The `srun` command is available",  # on the login node of a cluster
    r"Found \d+ module\(s\) in eval mode",  # by `freeze`
    ".*is already saved during checkpointing",  # Leyden saves no hparams
    ".*smaller than the logging interval",  # means per epoch are logged anyway
    "Validating sparse tensor invariants",  # of a checkpoint that has one, since torch 2.15
    # a task shards in its hook, where it is asked to
    "You're using the WeightAveraging callback with a model",
)


def silence_lightning() -> None:
    """Silence Lightning's messages at each start, and warnings that a user can't act on."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # A profiler reports by its logger.
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)
    # Of Lightning 2.6 on torch 2.13.
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
    for text in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", text)


class KeptFacts(L.Callback):
    """Saves the facts of the data in the checkpoint, by which the network is built without them."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts.to_state()

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add the facts."""
        checkpoint["facts"] = self._facts


@dataclass(frozen=True)
class RunTrainer:
    """A run's trainer, and the callbacks that its result is read from.

    Args:
        trainer: Lightning's trainer.
        checkpoint: Saves the checkpoints, and has the metrics of the best one.
        timer: Measures the seconds of training, over all starts of the run.
        seen: Counts completed epochs, over all starts of the run.
        exact: Callbacks that make the run resume to the same bits.
    """

    trainer: L.Trainer
    checkpoint: RunCheckpoint
    timer: Timer
    seen: SamplesSeen
    exact: Parts

    @property
    def state(self) -> RunState:
        """The callback that saves what checkpoints hold besides weights, as random states."""
        return self.exact.state

    @property
    def callbacks(self) -> list[L.Callback]:
        """All callbacks of the trainer, including Lightning's own."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    @property
    def position(self) -> Position:
        """The progress of training: epochs, optimizer steps, whether it has started, processes."""
        return Position(
            self.seen.num_epochs,
            self.trainer.global_step,
            self.state.is_restored,
            self.trainer.world_size,
        )

    @property
    def status(self) -> str:
        """The status of an ended run: `fast_dev_run`, `finished`, or `pruned` by a callback."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return "fast_dev_run"
        is_pruned = any(getattr(callback, "pruned", False) for callback in self.callbacks)
        return "pruned" if is_pruned else "finished"


def run_trainer(
    cfg: DictConfig,
    directory: Path,
    data: L.LightningDataModule,
    content: dict[str, Any] | None,
    *,
    requeue_signal: RequeueSignal,
    pictures: bool = True,
) -> RunTrainer:
    """Return the trainer of a run, with its callbacks and loggers.

    Args:
        cfg: The configuration of the run.
        directory: The run directory, which callbacks and loggers write to.
        data: The data of the run.
        content: Content of the checkpoint to resume from; loggers delete their points from its step
            on.
        requeue_signal: Receiver of the scheduler's signal.
        pictures: True if callbacks draw at the end of the run.

    Raises:
        UserError: A part is wrong.
    """
    facts = facts_of(data)
    callbacks, checkpoint = callbacks_of(cfg, facts)
    if not pictures:
        drawing = [each for each in callbacks if isinstance(each, DisplayCallback) and each.at_end]
        callbacks = [each for each in callbacks if each not in drawing]
    seen = SamplesSeen()
    is_fork = cfg.fork is not None
    timer = _timer(cfg, callbacks)
    exact = Parts(
        cfg.seed, checkpoint, directory, requeue_signal, cfg.exact, is_fork=is_fork, leave=leave
    )
    own = [KeptFacts(facts), *callbacks, seen, Hyperparameters(is_fork=is_fork)]
    trainer = plain_trainer(
        cfg,
        callbacks=exact.around(own),
        logger=_loggers(cfg, directory, content),
        default_root_dir=str(directory),
        use_distributed_sampler=not divides_batches(data),
    )
    data.trainer = trainer
    if isinstance(data, ModuleData):  # the module's loaders may use it, too
        data.attached[0].trainer = trainer
    checkpoint.within_epochs = all(
        hasattr(each, "state_dict") for each in flatten_loaders(data.train_dataloader())
    )
    check_unsharded(type(trainer.strategy), cfg.trainer.get("strategy", "auto"))
    return RunTrainer(trainer, checkpoint, timer, seen, exact)


def _timer(cfg: DictConfig, callbacks: list[L.Callback]) -> Timer:
    """Return the Timer among the callbacks; without one, one for `max_time` joins them.

    Lightning's own would be out of reach.
    """
    duration: Any = cfg.trainer.get("max_time")
    for each in callbacks:
        if isinstance(each, Timer):
            if duration:
                raise UserError("trainer.max_time: callbacks has a Timer; remove one of the two")
            return each
    if OmegaConf.is_config(duration):
        duration = OmegaConf.to_container(duration)
    with user_errors("trainer.max_time"):
        timer = Timer(duration)
    callbacks.append(timer)
    return timer


def check_loggers(cfg: DictConfig) -> None:
    """Check the loggers without creating them, which may write.

    Raises:
        UserError: A logger's package is not installed, or it has no such argument.
    """
    for name, node in switched_on(cfg.logger):
        check_extra(node, f"logger.{name}")
        check_keys(node, f"logger.{name}")


def _loggers(cfg: DictConfig, directory: Path, content: dict[str, Any] | None) -> list[Any]:
    """Return the loggers, which delete their points after a checkpoint."""
    loggers: list[Any] = []
    step = num_logged(content) if content else 0
    logged = content.get("logged", {}) if content else {}
    for name, node in switched_on(cfg.logger):
        key = f"logger.{name}"
        check_extra(node, key)
        given: dict[str, Any] = {"save_dir": str(directory)}
        if OmegaConf.is_missing(node, "purge_step"):
            given["purge_step"] = step
        logger = instantiate(node, key, **given)
        if hasattr(logger, "kept"):
            logger.kept = logged.get(type(logger).__name__)
        loggers.append(logger)
    return loggers


def num_processes_at(content: dict[str, Any]) -> int:
    """Return the number of processes that trained a checkpoint's run."""
    return len(content["callbacks"]["RankState"]["processes"])


def num_logged(content: dict[str, Any]) -> int:
    """Return the number of logged steps at a checkpoint: batches in which an optimizer stepped.

    `global_step` may be larger, as it counts each of several optimizers. Lightning counts a batch
    after its last hook, so 1 is added for a checkpoint within an epoch.
    """
    loops = content["loops"]["fit_loop"]
    is_within = not loops["epoch_loop.batch_progress"]["is_last_batch"]
    return logged_steps_at(content) + is_within

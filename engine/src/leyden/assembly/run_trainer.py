"""The trainer of a run, with callbacks and loggers that write to the run directory."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer, WeightAveraging
from omegaconf import DictConfig, OmegaConf

from leyden.assembly.data import attach_trainer, resumes_within_epoch
from leyden.assembly.instantiate import check_extra, instantiate, switched_on, user_errors
from leyden.assembly.trainer import callbacks_of, check_strategy, check_unsharded, plain_trainer
from leyden.callbacks.checkpoint import RunCheckpoint, load_weights
from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.hyperparameters import Hyperparameters
from leyden.callbacks.preemption import Preemption
from leyden.callbacks.samples_seen import SamplesSeen
from leyden.config.errors import UserError
from leyden.config.values import flatten
from leyden.data.contract import facts_of
from leyden.exact.encoding import digest_of_content
from leyden.exact.first_batches import divides_batches
from leyden.exact.logged_metrics import Stages
from leyden.exact.random_state import seeded
from leyden.exact.run_state import BeforeEnd, Gradients, ModuleHooks, RunState
from leyden.pictures.base import OnEvaluation
from leyden.run.directory import Run
from leyden.run.identity import identity_values
from leyden.run.session import Position
from leyden.scheduler.requeue import RequeueSignal
from leyden.tasks.task import Task


@dataclass(frozen=True)
class RunTrainer:
    """A run's trainer, and the callbacks that its result is read from.

    Args:
        trainer: Lightning's trainer.
        checkpoint: Saves the checkpoints, and has the metrics of the best one.
        timer: Measures the seconds of training, over all starts of the run.
        seen: Counts samples and completed epochs, over all starts of the run.
        preemption: Stops training on a signal.
        state: Saves state other than weights in checkpoints, such as random states.
        stages: Records which stage logged each metric.
    """

    trainer: L.Trainer
    checkpoint: RunCheckpoint
    timer: Timer
    seen: SamplesSeen
    preemption: Preemption
    state: RunState
    stages: Stages

    @property
    def callbacks(self) -> list[L.Callback]:
        """All callbacks of the trainer, including Lightning's own."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    @property
    def position(self) -> Position:
        """The progress of training: epochs, optimizer steps, and whether training has started, and processes."""
        return Position(
            self.seen.num_epochs, self.trainer.global_step, self.state.is_restored, self.trainer.world_size
        )

    def shows_evaluation(self, module: L.LightningModule) -> bool:
        """Return whether a callback draws pictures from the final evaluation of a module."""
        kinds = {callback.kind for callback in self.callbacks if isinstance(callback, OnEvaluation)}
        return isinstance(module, Task) and module.kind in kinds

    def evaluate(
        self, module: L.LightningModule, data: L.LightningDataModule, content: dict[str, Any], *, test: bool
    ) -> dict[str, float]:
        """Return the metrics of a checkpoint's weights, on the test set or on the validation split."""
        # A WeightAveraging callback would swap in the averaged weights of the last step.
        others = [callback for callback in self.callbacks if not isinstance(callback, WeightAveraging)]
        self.trainer.callbacks = others  # type: ignore[attr-defined]
        late = self.state.set_late(module)
        load_weights(module, content, strict=False)  # what the end of training has added stays
        self.state.restore_best(module, content, late)
        evaluate = self.trainer.test if test else self.trainer.validate
        with seeded(self.state.seed, "test"):  # the same random numbers in each evaluation
            measured = evaluate(module, datamodule=data, verbose=False)
        return {name: value for each in measured for name, value in each.items()}  # one dictionary per loader

    @property
    def status(self) -> str:
        """The status of a run that has ended: `fast_dev_run`, `finished`, or `pruned` if a callback pruned it."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return "fast_dev_run"
        return "pruned" if any(getattr(callback, "pruned", False) for callback in self.callbacks) else "finished"


def run_trainer(
    cfg: DictConfig,
    run: Run,
    data: L.LightningDataModule,
    content: dict[str, Any] | None,
    *,
    requeue_signal: RequeueSignal,
    pictures: bool = True,
) -> RunTrainer:
    """Return the trainer of a run, with its callbacks and loggers.

    Args:
        cfg: The configuration of the run.
        run: The run directory, which callbacks and loggers write to.
        data: The data of the run.
        content: Content of the checkpoint to resume from; loggers delete their points from its step on.
        requeue_signal: Receiver of the scheduler's signal.
        pictures: True if callbacks draw at the end of the run; `leyden.training.redraw` can draw later.

    Raises:
        UserError: A part is wrong, or the run was trained by another number of processes.
    """
    step = num_logged(content) if content else 0
    check_strategy(cfg)
    callbacks, checkpoint = callbacks_of(cfg, facts := facts_of(data))
    if not pictures:
        callbacks = [
            callback for callback in callbacks if not (isinstance(callback, DisplayCallback) and callback.at_end)
        ]
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    if timers and cfg.trainer.get("max_time"):
        raise UserError("trainer.max_time: callbacks has a Timer already; remove one of the two")
    duration: Any = cfg.trainer.get("max_time")
    if OmegaConf.is_config(duration):
        duration = OmegaConf.to_container(duration)
    with user_errors("trainer.max_time"):  # Lightning would create a Timer of its own, out of reach
        timer = timers[0] if timers else Timer(duration)
    loggers = []
    for name, node in switched_on(cfg.logger):
        given: dict[str, Any] = {"purge_step": step} if OmegaConf.is_missing(node, "purge_step") else {}
        check_extra(node, f"logger.{name}")
        loggers.append(instantiate(node, f"logger.{name}", save_dir=str(run.directory), **given))
    settings = identity_values(dict(flatten({"data": OmegaConf.to_container(cfg.data, resolve=True)})))
    preemption = Preemption(requeue_signal, checkpoint.save_last, checkpoint.commit)
    trainer = plain_trainer(
        cfg,
        callbacks=[
            stages := Stages(),  # first, as other callbacks read from it
            BeforeEnd(state := RunState(facts.to_state(), cfg.seed, digest_of_content(settings), cfg.exact)),
            *callbacks,
            ModuleHooks(),
            *([] if timers else [timer]),
            seen := SamplesSeen(),
            state,
            Gradients(),
            Hyperparameters(is_fork=cfg.fork is not None),
            preemption,
        ],
        logger=loggers,
        default_root_dir=str(run.directory),
        use_distributed_sampler=not divides_batches(data),
    )
    attach_trainer(data, trainer)
    checkpoint.within_epochs = resumes_within_epoch(data)
    check_unsharded(type(trainer.strategy), cfg.trainer.get("strategy", "auto"))
    num_processes = len(content["callbacks"]["RankState"]["processes"]) if content else trainer.world_size
    if num_processes != trainer.world_size:
        raise UserError(
            f"{run.directory} was trained by {num_processes} processes, this run would have {trainer.world_size}, and their "
            "number can't change; set trainer.devices and trainer.num_nodes to match, or choose another run_dir"
        )
    return RunTrainer(trainer, checkpoint, timer, seen, preemption, state, stages)


def num_logged(content: dict[str, Any]) -> int:
    """Return the number of logged steps at a checkpoint: batches in which an optimizer stepped.

    `global_step` may be larger, as it counts each of several optimizers. Lightning counts a batch after its last
    hook, so 1 is added for a checkpoint within an epoch.
    """
    loops = content["loops"]["fit_loop"]
    is_within = not loops["epoch_loop.batch_progress"]["is_last_batch"]
    return int(loops["epoch_loop.state_dict"]["_batches_that_stepped"]) + is_within

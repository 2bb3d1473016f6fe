"""The trainer of a run, with what watches it: callbacks and loggers that write to the run directory."""

from dataclasses import dataclass
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer, WeightAveraging
from omegaconf import DictConfig, OmegaConf

from leyden.assembly.data import resumes_within_epoch
from leyden.assembly.instantiate import check_extra, instantiate, switched_on, user_errors
from leyden.assembly.trainer import callbacks_of, check_strategy, check_unsharded, plain_trainer
from leyden.callbacks.checkpoint import RunCheckpoint, load_weights
from leyden.callbacks.display import DisplayCallback
from leyden.callbacks.hyperparameters import Hyperparameters
from leyden.callbacks.logged_metrics import Stages
from leyden.callbacks.preemption import Preemption
from leyden.callbacks.run_state import Gradients, ModuleHooks, RunState
from leyden.callbacks.samples_seen import SamplesSeen
from leyden.config.errors import UserError
from leyden.config.values import flatten
from leyden.data.contract import divides_batches, facts_of
from leyden.data.files import digest_of_content
from leyden.data.random_state import seeded
from leyden.pictures.base import OnEvaluation
from leyden.run.directory import Run
from leyden.run.identity import identity_values
from leyden.run.session import Position
from leyden.tasks.task import Task


@dataclass(frozen=True)
class RunTrainer:
    """A trainer, and what is asked of its parts when it has trained.

    Args:
        trainer: Lightning's.
        checkpoint: Keeps the checkpoints, and the metrics of the best one.
        timer: Knows the seconds of training, over all starts.
        seen: Counts samples and completed epochs, over all starts.
        preemption: Ends it when it is told to.
        state: Keeps what changes beside weights.
        stages: Knows which stage has logged each metric.
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
        """All of them, those too that Lightning has made."""
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return callbacks

    @property
    def position(self) -> Position:
        """How far it has come."""
        has_trained = self.timer.start_time() is not None
        return Position(self.seen.num_epochs, self.trainer.global_step, has_trained)

    def shows_evaluation(self, module: L.LightningModule) -> bool:
        """Whether something is drawn from the evaluation of a module at the end."""
        kinds = {callback.kind for callback in self.callbacks if isinstance(callback, OnEvaluation)}
        return isinstance(module, Task) and module.kind in kinds

    def evaluate(
        self, module: L.LightningModule, data: L.LightningDataModule, content: dict[str, Any], *, test: bool
    ) -> dict[str, float]:
        """The metrics of a checkpoint's weights, as they are: on the test set, or else on the validation split."""
        # An average of weights would swap in those of the last step.
        others = [callback for callback in self.callbacks if not isinstance(callback, WeightAveraging)]
        self.trainer.callbacks = others  # type: ignore[attr-defined]
        load_weights(module, content)
        self.state.restore_best(module, content)
        evaluate = self.trainer.test if test else self.trainer.validate
        with seeded(self.state.seed, "test"):  # what it draws, each evaluation draws
            measured = evaluate(module, datamodule=data, verbose=False)
        return {name: value for each in measured for name, value in each.items()}  # one per loader

    @property
    def status(self) -> str:
        """What a training that has ended is; a callback that has pruned it says so by `pruned`."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return "fast_dev_run"
        return "pruned" if any(getattr(callback, "pruned", False) for callback in self.callbacks) else "finished"


def run_trainer(
    cfg: DictConfig,
    run: Run,
    data: L.LightningDataModule,
    content: dict[str, Any] | None,
    *,
    pictures: bool = True,
) -> RunTrainer:
    """The trainer with its callbacks and loggers, all of which write to the run directory.

    Args:
        cfg: The configuration of the run.
        run: Its directory.
        data: Its data.
        content: Of the checkpoint that the run goes on from; logged points from its step on are dropped.
        pictures: Whether callbacks draw at the end of the run; else `leyden.training.redraw` can do so later.

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
    checkpoint.within_epochs = resumes_within_epoch(data)
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    if timers and cfg.trainer.get("max_time"):
        raise UserError("trainer.max_time: callbacks has a Timer already; give one of the two")
    duration: Any = cfg.trainer.get("max_time")
    if OmegaConf.is_config(duration):
        duration = OmegaConf.to_container(duration)
    with user_errors("trainer.max_time"):  # by a timer that is known here, where Lightning would make one
        timer = timers[0] if timers else Timer(duration)
    loggers = []
    for name, node in switched_on(cfg.logger):
        given: dict[str, Any] = {"purge_step": step} if OmegaConf.is_missing(node, "purge_step") else {}
        check_extra(node, f"logger.{name}")
        loggers.append(instantiate(node, f"logger.{name}", save_dir=str(run.directory), **given))
    settings = identity_values(dict(flatten({"data": OmegaConf.to_container(cfg.data, resolve=True)})))
    preemption = Preemption(checkpoint.save_last, checkpoint.commit)
    made = plain_trainer(
        cfg,
        callbacks=[
            stages := Stages(),  # the first: others ask it
            *callbacks,
            ModuleHooks(),
            *([] if timers else [timer]),
            seen := SamplesSeen(),
            state := RunState(facts, cfg.seed, digest_of_content(settings), cfg.exact),
            Gradients(),
            Hyperparameters(is_fork=cfg.fork is not None),
            preemption,
        ],
        logger=loggers,
        default_root_dir=str(run.directory),
        use_distributed_sampler=not divides_batches(data),
    )
    check_unsharded(type(made.strategy), cfg.trainer.get("strategy", "auto"))
    num_processes = len(content["callbacks"]["RankState"]["processes"]) if content else made.world_size
    if num_processes != made.world_size:
        raise UserError(
            f"{run.directory} was trained by {num_processes} processes, this would be {made.world_size}: another number "
            "is another run; choose the same by trainer.devices and trainer.num_nodes, or another run_dir"
        )
    return RunTrainer(made, checkpoint, timer, seen, preemption, state, stages)


def num_logged(content: dict[str, Any]) -> int:
    """Return the steps that a checkpoint's run has logged: batches after which an optimizer has stepped.

    Several optimizers may have stepped in a batch, and `global_step` counts each. Lightning counts a batch after its last hook, so one
    is added within an epoch.
    """
    loops = content["loops"]["fit_loop"]
    is_within = not loops["epoch_loop.batch_progress"]["is_last_batch"]
    return int(loops["epoch_loop.state_dict"]["_batches_that_stepped"]) + is_within

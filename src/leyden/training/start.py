"""From the configuration of a run to its result: training and evaluation."""

import contextlib
import shlex
import sys
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden import assembly
from leyden.assembly import RunTrainer, reporting_restore_errors
from leyden.assembly.schedule import partial_test_message
from leyden.callbacks.checkpoint import SafeCheckpointIO
from leyden.config.errors import UserError
from leyden.config.terminal import one_line, quoted_override, warn
from leyden.data.contract import digests_of, has_split
from leyden.report.hparams import write_hparams
from leyden.run.directory import Run, RunContents, changed_names, check_resumable, trained_on
from leyden.run.evaluations import check_test_evaluations, record_test_evaluation
from leyden.run.identity import RunIdentity
from leyden.run.process import is_main_process
from leyden.run.result import Result
from leyden.run.session import session
from leyden.scheduler import num_restarts


def fit(
    module: L.LightningModule,
    data: L.LightningDataModule,
    trainer: RunTrainer,
    run: Run,
    *,
    checkpoint: Path | None,
    test: bool,
) -> Result:
    """Train, then evaluate the best checkpoint: on the test set, or for pictures on the validation split.

    Args:
        module: What is trained.
        data: On what.
        trainer: By what.
        run: Where.
        checkpoint: From where on; None: from the start.
        test: Whether to evaluate on the test set in the end.

    Returns:
        What has come of it, with all metrics.

    Raises:
        UserError: The objective was never logged, or the checkpoint can't be gone on from.
    """
    lightning, kept = trainer.trainer, trainer.checkpoint
    trainer.state.note_made(module)
    with reporting_restore_errors(trainer, checkpoint), trainer.preemption.interruptible(lightning):
        lightning.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    if kept.needed and not kept.best:
        raise UserError(kept.no_best_reason(lightning))
    metrics = {**kept.best, "num_parameters": sum(parameter.numel() for parameter in module.parameters())}
    seconds = trainer.timer.time_elapsed()
    num_samples = trainer.seen.num_samples
    result = Result(
        status=trainer.status,
        objectives=(),
        metrics=metrics,
        epochs=trainer.seen.num_epochs,
        optimizer_steps=lightning.global_step,
        seconds=seconds,
        samples_per_second=num_samples / seconds if num_samples is not None and seconds else None,
        checkpoint="checkpoints/best.ckpt",
        requeues=num_restarts(),
        stages=trainer.stages.by_stage(kept.best),
        can_be_tested=has_split(data, "test") and is_overridden("test_step", module),
    )
    if test or (has_split(data, "val") and trainer.shows_evaluation(module)):
        best = SafeCheckpointIO().load_checkpoint(run.checkpoint("best"))  # as `evaluate` reads it
        measured = trainer.evaluate(module, data, best, test=test)
        if test and not partial_test_message(lightning):
            return result.with_test(measured)
    return result


def start(
    cfg: DictConfig,
    choices: RunIdentity,
    run: Run,
    *,
    test: bool,
    pictures: bool,
    overrides: list[str],
) -> Result:
    """Build what is configured, train, evaluate, and write down what came of it.

    Args:
        cfg: The configuration.
        choices: The same, resolved.
        run: The directory, which this process has locked.
        test: Whether to evaluate on the test set in the end.
        pictures: Whether to draw some at the end.
        overrides: What the user has typed.

    Raises:
        UserError: Something is wrong with a part, or the run has failed by what is no bug.
    """
    assembly.silence_lightning()
    L.seed_everything(cfg.seed, verbose=False)
    fork = assembly.read_fork(cfg, run)
    checkpoint = None if fork or cfg.trainer.get("fast_dev_run") else run.newest_checkpoint()
    content = fork.content if fork else assembly.read_checkpoint(checkpoint) if checkpoint else None
    data = assembly.datamodule(cfg)
    digests = _digests(data, run if checkpoint else None, fork.parent if fork else None)
    trainer = assembly.run_trainer(cfg, run, data, content, pictures=pictures)
    assembly.check_world_size(data, trainer.trainer.world_size)
    L.seed_everything(
        cfg.seed, verbose=False
    )  # callbacks may have drawn, which are not there when the run is evaluated
    module = assembly.task(cfg, data, trainer.trainer)
    test = assembly.evaluates_test_set(cfg, module, data, test=test)
    assembly.check_run(cfg, module, data, trainer.trainer, trainer.checkpoint, test=test)
    if fork:
        fork.check(module, data)
    if content and (path := fork.path if fork else checkpoint):
        assembly.check_fits(content, path, module, data)
        del content
        parent = fork.origin if fork else None
    else:
        parent = assembly.load_parent_weights(cfg, module)
    if is_main_process():
        _check_evaluation(cfg, choices, test=test)
    if trainer.trainer.world_size > 1 and not any(argument.startswith("run_dir=") for argument in sys.argv):
        # Lightning starts the other processes by these arguments: the time in a name would be another one.
        sys.argv += shlex.split(quoted_override("run_dir", run.directory))
    with contextlib.ExitStack() as at_the_end:
        for logger in trainer.trainer.loggers:
            if hasattr(logger, "close"):  # Lightning's own have no such thing
                at_the_end.callback(logger.close)
        begun = at_the_end.enter_context(
            session(
                run,
                choices,
                overrides,
                parent=parent,
                data=digests,
                position=lambda: trainer.position,
                before_end=write_hparams,
            )
        )
        if num_restarts() > cfg.cluster.max_requeues:
            raise UserError(
                f"requeued {num_restarts()} times, more than cluster.max_requeues={cfg.cluster.max_requeues}"
            )
        if fork:
            # The first process makes it before the others read it.
            checkpoint = run.directory / "checkpoints" / "last.ckpt"
            if is_main_process():
                fork.begin(run)
                found = choices.differences(fork.parent.config, defaults_count=True)
                changed = [each for each in found if not each.startswith("fork:")]
                print(f"fork of {fork.path}, with {'; '.join(map(one_line, changed)) or 'nothing changed'}")
            del fork  # and with it the content of a checkpoint
        result = fit(module, data, trainer, run, checkpoint=checkpoint, test=test)
        if test and is_main_process():
            _record_evaluation(cfg, run, trainer.trainer, result)
        result = begun.end(result)
    return result  # noqa: RET504 - now that the loggers are closed


def _check_evaluation(cfg: DictConfig, choices: RunIdentity, *, test: bool) -> None:
    """Find, before training, what would be in the way of an evaluation after it."""
    try:
        assembly.trusted(choices.config)
    except UserError as error:
        warn(f"evaluate, predict and export will refuse this run: {error}")
    if test:
        check_test_evaluations(cfg.outputs)


def _record_evaluation(cfg: DictConfig, run: Run, trainer: L.Trainer, result: Result) -> None:
    """Add the run's test evaluation to the list; that of a part of the test set is none, and a line says so."""
    if part := partial_test_message(trainer):
        print(part)
    else:
        record_test_evaluation(cfg.outputs, run, "best", result.test_metrics)


def _digests(data: L.LightningDataModule, resumed: Run | None, parent: RunContents | None) -> dict[str, str]:
    """Return what identifies the data; those of a run that is resumed must be the same, and for a fork a line names others."""
    with assembly.user_errors("data"):
        digests = digests_of(data)
    if resumed:
        check_resumable(resumed, digests)
    if parent and (names := changed_names(trained_on(parent), digests)) and is_main_process():
        warn(f"fork: the data differ from those of {parent.directory}: {', '.join(names)}")
    return digests

"""Training and evaluation of a run, from its configuration to its result."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig

from leyden.assembly.build import Build, build, check_overrides
from leyden.assembly.instantiate import import_targets
from leyden.assembly.start_from import Fork, read_checkpoint, reporting_restore_errors, starting_point
from leyden.assembly.task import partial_test_message
from leyden.assembly.trainer import silence_lightning
from leyden.callbacks.kept import samples_per_batch
from leyden.config.errors import UserError, log_and_continue
from leyden.config.terminal import leyden_command, one_line, quoted_override, some_of
from leyden.data.contract import first_batches, has_split
from leyden.data.splits import SplitLoader
from leyden.exact.random_state import undisturbed
from leyden.report.outcome import write_hparams
from leyden.report.records import check_test_evaluations, record_test_evaluation
from leyden.run.directory import Run, session
from leyden.run.identity import RunIdentity
from leyden.run.process import is_main_process
from leyden.run.result import STAGES, Result
from leyden.scheduler import RequeueSignal, this_job
from leyden.tasks import Task

SIGNAL_DELAY_S = 120  # seconds between the signal and the end of a job that `scripts/slurm.sh` submits


def fit(build: Build, run: Run, *, checkpoint: Path | None, test: bool) -> Result:
    """Train, then evaluate the best checkpoint on the test set and on the splits of further stages.

    Without a test, evaluate it on the validation split if pictures need this.

    Args:
        build: The parts of the run.
        run: The run directory.
        checkpoint: The checkpoint to resume from; None to train from the start.
        test: True to evaluate on the test set.

    Returns:
        The result, with all metrics.

    Raises:
        UserError: The objective was never logged, or the checkpoint can't be resumed from.
    """
    module, data, trainer = build.module, build.data, build.trainer
    lightning, kept = trainer.trainer, trainer.checkpoint
    try:
        with reporting_restore_errors(trainer, checkpoint):
            trainer.exact.fit(lightning, module, data, checkpoint)
    except FloatingPointError as error:
        with log_and_continue("finding the batch"):
            error.args = ("; ".join([str(error), *_where_not_finite(build, run)]),)
        raise
    if kept.metric is not None and not kept.best:
        raise UserError(kept.no_best_reason(lightning))
    metrics = {**kept.best, "num_parameters": sum(parameter.numel() for parameter in module.parameters())}
    seconds = trainer.timer.time_elapsed()
    each = samples_per_batch(lightning)
    result = Result(
        status=trainer.status,
        objective=None,
        metrics=metrics,
        epochs=trainer.seen.num_epochs,
        optimizer_steps=lightning.global_step,
        seconds=seconds,
        samples_per_second=round(each * (lightning.fit_loop.total_batch_idx + 1)) / seconds
        if each and seconds
        else None,
        checkpoint="checkpoints/best.ckpt",
        requeues=this_job().restarts,
        stages=trainer.exact.stages.by_stage(kept.best),
        can_be_tested=has_split(data, "test") and is_overridden("test_step", module),
        best_epoch=kept.best_at and kept.best_at.epoch,
        best_step=kept.best_at and kept.best_at.step,
    )
    for split in _evaluated(build, test=test):
        best = read_checkpoint(run.checkpoint("best"))  # as `leyden.evaluate` does
        measured = trainer.evaluate(module, data, best, split)
        if split == "test" and not partial_test_message(lightning):
            result = replace(result.with_stage(split, measured), test_batches=first_batches(data, "test"))
        elif split not in ("val", "test"):
            result = result.with_stage(split, measured)
    return result


def _evaluated(build: Build, *, test: bool) -> list[str]:
    """Return the splits on which the best checkpoint is evaluated: the validation split for pictures, without a test."""
    shows = not test and build.trainer.shows_evaluation(build.module)
    wanted = {"train": False, "val": shows, "test": test}
    found = [stage for stage in STAGES if wanted.get(stage, True) and has_split(build.data, stage)]
    further = [stage for stage in found if stage not in wanted]
    if not further or is_overridden("test_step", build.module):
        return found
    if is_main_process():
        print(f"no evaluation on {', '.join(further)}: the task has no test_step")
    return [stage for stage in found if stage in wanted]


def _where_not_finite(build: Build, run: Run) -> Iterator[str]:
    """Yield the batch whose loss was not finite first, and the command that starts before it."""
    if bad := build.trainer.seen.bad_batch():
        epoch, batch = bad
        loader = build.trainer.trainer.train_dataloader
        samples = loader.samples_of(epoch, batch) if isinstance(loader, SplitLoader) else []
        names = f", of the samples {some_of(samples, 8)}" if samples else ""
        yield f"first in batch {batch + 1} of epoch {epoch + 1}{names}"
    if run.newest_checkpoint():
        rate = (run.config.get("optimizer") or {}).get("lr")
        lower = f" optimizer.lr={rate / 10:g}" if isinstance(rate, float) and isinstance(build.module, Task) else ""
        yield f"{leyden_command('train')} {quoted_override('fork', run.directory)}{lower} starts from the checkpoint before it"


def start(
    cfg: DictConfig,
    identity: RunIdentity,
    run: Run,
    *,
    test: bool,
    pictures: bool,
    overrides: list[str],
) -> Result:
    """Build all parts of a run, train, evaluate, and record the result.

    Args:
        cfg: The configuration.
        identity: The resolved configuration, with the settings that identify the run.
        run: The run directory, locked by this process.
        test: True to evaluate on the test set at the end.
        pictures: True to draw the final pictures.
        overrides: The user's overrides.

    Raises:
        UserError: A part is wrong, or the run fails for a reason that is not a bug, such as a full disk.
    """
    with contextlib.ExitStack() as at_the_end:
        requeue_signal = at_the_end.enter_context(
            RequeueSignal(cfg.cluster.get("signal_delay_s", SIGNAL_DELAY_S) / 2)
        )
        at_the_end.enter_context(undisturbed())
        silence_lightning()
        import_targets(cfg)
        check_overrides(cfg, overrides)  # before the data, which can take long
        beginning = starting_point(cfg, run)
        parts = build(cfg, run, beginning, requeue_signal=requeue_signal, pictures=pictures)
        test = parts.check(test=test)
        step = beginning.step if beginning.recorded is None else 0
        beginning.load(parts.module, parts.data)  # the last check before the run directory changes
        if test and is_main_process():
            check_test_evaluations(cfg.outputs)
        trainer = parts.trainer.trainer
        if trainer.world_size > 1 and not any(argument.startswith("run_dir=") for argument in sys.argv):
            # Lightning starts the other processes with these arguments; a default run_dir would contain another time.
            sys.argv += shlex.split(quoted_override("run_dir", run.directory))
        for logger in trainer.loggers:
            if hasattr(logger, "close"):  # Lightning's own loggers have no `close`
                at_the_end.callback(logger.close)
        # From here on, an error is recorded as the run's result.
        end = at_the_end.enter_context(
            session(
                run,
                identity,
                overrides,
                parent=beginning.recorded,
                data=parts.digests,
                step=step,
                job=this_job(),
                position=lambda: parts.trainer.position,
                before_end=write_hparams,
            )
        )
        _check_restarts(cfg, run)
        checkpoint = beginning.begin(run)
        if isinstance(beginning, Fork) and is_main_process():
            _print_changes(beginning, identity)
        result = fit(parts, run, checkpoint=checkpoint, test=test)
        if test and is_main_process():
            _record_evaluation(cfg, run, trainer, result)
        result = end(result)
    return result  # noqa: RET504 - after the loggers are closed


def _check_restarts(cfg: DictConfig, run: Run) -> None:
    """Check that the job of this process was not requeued too often, and makes progress.

    Raises:
        UserError: The job was requeued more than `cluster.max_requeues` times, or twice at the same step.
    """
    job = this_job()
    if job.restarts > cfg.cluster.max_requeues:
        raise UserError(f"requeued {job.restarts} times, more than cluster.max_requeues={cfg.cluster.max_requeues}")
    if job.id is not None:
        steps = [start.get("step") for start in run.starts if start.get("job") == job.id]
        steps = [step for step in steps if step is not None][-3:]
        if job.restarts >= 2 and len(steps) == 3 and len({*steps}) == 1:
            raise UserError(
                f"requeued twice without a checkpoint after step {steps[0]}; if reading the data, a validation or the test "
                "evaluation takes longer than the time limit of the job, raise cluster.time_min"
            )


def _print_changes(fork: Fork, identity: RunIdentity) -> None:
    found = identity.differences(fork.run.config, all_keys=True)
    changed = [each for each in found if not each.startswith("fork:")]
    print(f"fork of {fork.path}, with {'; '.join(map(one_line, changed)) or 'nothing changed'}")


def _record_evaluation(cfg: DictConfig, run: Run, trainer: L.Trainer, result: Result) -> None:
    """Add the run's test evaluation to the list, or print a message if it used a part of the test set only."""
    if message := partial_test_message(trainer):
        print(message)
    else:
        record_test_evaluation(cfg.outputs, run, "best", result.test_metrics)

"""Training and evaluation of a run, from its configuration to its result."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.parameter import is_lazy

from leyden.assembly.build import Build, build, check_overrides
from leyden.assembly.instantiate import import_targets
from leyden.assembly.start_from import (
    Fork,
    StartingPoint,
    reporting_restore_errors,
    starting_point,
)
from leyden.assembly.trainer import silence_lightning
from leyden.base.errors import UserError, log_and_continue
from leyden.base.terminal import (
    leyden_command,
    one_line,
    quoted_override,
    relative_path,
    show,
    some_of,
)
from leyden.callbacks.samples import samples_per_batch
from leyden.config.values import dict_at, flatten
from leyden.data.contract import has_split
from leyden.data.splits import SplitLoader
from leyden.exact.memory import say
from leyden.exact.random_state import undisturbed
from leyden.queue import RequeueSignal, this_job
from leyden.report.hparams import write_hparams
from leyden.report.records import (
    check_test_evaluations,
    read_test_evaluations,
    record_test_evaluation,
)
from leyden.run.directory import Run, session
from leyden.run.fork import parse_parent
from leyden.run.identity import RunIdentity
from leyden.run.keys import Role, has
from leyden.run.process import is_main_process
from leyden.run.result import Result
from leyden.tasks import Task
from leyden.training.evaluation import evaluate_best, evaluated_splits, partial_test_message

# Seconds between the signal and the end of a job that `scripts/slurm.sh` submits.
SIGNAL_DELAY_S = 120


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
    trainer = build.trainer
    try:
        with reporting_restore_errors(trainer, checkpoint):
            trainer.exact.fit(trainer.trainer, build.module, build.data, checkpoint)
    except FloatingPointError as error:
        with log_and_continue("finding the batch"):
            lines = [str(error), *_where_not_finite(build, run)]
            error.args = ("; ".join(lines),)
        raise
    late = trainer.state.late
    if late:
        say(
            f"{some_of(late)}: changed by on_train_end, after the last checkpoint, so the test "
            "evaluation, evaluate, predict and export do without"
        )
    result = _result_of_training(build)
    # The list that decides it may have changed between the starts of the processes.
    test = trainer.trainer.strategy.broadcast(test)
    for split in evaluated_splits(build, test=test):
        result = evaluate_best(build, run.checkpoint("best"), result, split)
    return result


def _result_of_training(build: Build) -> Result:
    """Return the result of a training that has ended, with the metrics of its best epoch.

    Raises:
        UserError: The objective was never logged.
    """
    trainer = build.trainer
    lightning = trainer.trainer
    kept = trainer.checkpoint
    if kept.metric is not None and not kept.best:
        raise UserError(kept.no_best_reason(lightning))
    num, num_trained = num_parameters(build.module)
    metrics = {**kept.best, "num_parameters": num}
    if num_trained < num:
        metrics["num_trained_parameters"] = num_trained
    seconds = trainer.timer.time_elapsed()
    each = samples_per_batch(lightning)
    samples_per_second = None
    if each and seconds:
        num_batches = lightning.fit_loop.total_batch_idx + 1
        samples_per_second = round(each * num_batches) / seconds
    return Result(
        status=trainer.status,
        objective=None,
        metrics=metrics,
        epochs=trainer.seen.num_epochs,
        optimizer_steps=lightning.global_step,
        seconds=seconds,
        samples_per_second=samples_per_second,
        checkpoint="checkpoints/best.ckpt",
        requeues=this_job().restarts,
        stages=trainer.exact.stages.by_stage(kept.best),
        can_be_tested=has_split(build.data, "test") and is_overridden("test_step", build.module),
        best_epoch=kept.best_at.epoch if kept.best_at else None,
        best_step=kept.best_at.step if kept.best_at else None,
        val_samples=trainer.seen.num_validated,
    )


def _where_not_finite(build: Build, run: Run) -> Iterator[str]:
    """Yield the batch whose loss was not finite first, and the command that starts before it."""
    bad = build.trainer.seen.bad_batch()
    if bad:
        epoch, batch = bad
        loader = build.trainer.trainer.train_dataloader
        samples = ""
        if isinstance(loader, SplitLoader):
            samples = f", of the samples {some_of(loader.samples_of(epoch, batch), 8)}"
        yield f"first in batch {batch + 1} of epoch {epoch + 1}{samples}"
    if run.newest_checkpoint():
        command = f"{leyden_command('train')} {quoted_override('fork', run.directory)}"
        rate = dict_at(run.config, "optimizer").get("lr")
        if isinstance(rate, float) and isinstance(build.module, Task):
            command += f" optimizer.lr={rate / 10:g}"
        yield f"{command} starts from the checkpoint before it"


def wants_test(cfg: DictConfig, run: Run, *, is_job: bool) -> bool:
    """Return whether a run is evaluated on the test set at its end.

    With `test=auto`, a job of a sweep is not, also where it is resumed by itself. Nor is a run of
    an experiment that was evaluated already, or that starts from such a run: a line then asks for
    `test=true`.
    """
    if cfg.test != "auto":
        return bool(cfg.test)
    if is_job or run.is_of_sweep:
        return False
    before = ""
    if not cfg.trainer.get("fast_dev_run"):  # no test evaluation, but its code is tried
        before = _tested_before(cfg, run)
    if before and is_main_process():
        show(f"not evaluated on the test set: {before}; test=true evaluates again")
    return not before


def _tested_before(cfg: DictConfig, run: Run) -> str:
    """Return in words which run's evaluation has used this run's test set; empty if none has."""
    name = str(cfg.name)
    rows: list[list[str]] = []
    with contextlib.suppress(OSError):  # which `check_test_evaluations` reports
        rows = read_test_evaluations(Path(cfg.outputs))
    # This run's own may have been killed after it, before its end was recorded.
    own = [] if run.result and run.result.is_tested else [one_line(run.directory)]
    for row in reversed(rows):
        of_run = row[2:3]
        if row[1:2] == [name] and of_run != own:
            return f"{name} was already, at {row[0][:19]} ({''.join(of_run)})"
    for key in ("fork", "init_from"):
        if cfg[key] is None:
            continue
        parent = parse_parent(cfg[key])[0]
        with contextlib.suppress(UserError):  # reported where it is read
            if parent.result and parent.result.is_tested and _has_test_set_of(cfg, parent):
                return f"{key}={relative_path(parent.directory)} was already"
    return ""


def _has_test_set_of(cfg: DictConfig, parent: Run) -> bool:
    """Return whether a run is evaluated on the test set of another one."""
    here: Any = OmegaConf.to_container(cfg, resolve=True)
    there = dict(flatten(parent.config))
    for key, value in flatten(here):
        if has(key, Role.TEST_SET) and there.get(key, value) != value:
            return False
    return True


def num_parameters(module: nn.Module) -> tuple[int, int]:
    """Return the number of a module's parameters, and of those that are trained.

    Lazy ones are not counted.
    """
    parameters = [each for each in module.parameters() if not is_lazy(each)]
    trained = [each for each in parameters if each.requires_grad]
    num = sum(each.numel() for each in parameters)
    return num, sum(each.numel() for each in trained)


def _print_weights(beginning: StartingPoint, module: nn.Module) -> None:
    """Print which weights are another run's, and how many are trained if some are frozen."""
    num, num_trained = num_parameters(module)
    parts = [beginning.in_words()]
    if num_trained < num:
        parts.append(f"trained: {num_trained:,} of {num:,}")
    text = "; ".join(filter(None, parts))
    if text:
        show(text)


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
        UserError: A part is wrong, or the run fails for a reason that is not a bug, such as a full
            disk.
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
        if trainer.world_size > 1 and not any(each.startswith("run_dir=") for each in sys.argv):
            # Lightning starts the other processes with these arguments; a default run_dir would
            # contain another time.
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
        if is_main_process():
            _print_weights(beginning, parts.module)
            if isinstance(beginning, Fork):
                _print_changes(beginning, identity)
        result = fit(parts, run, checkpoint=checkpoint, test=test)
        if test and is_main_process():
            _record_evaluation(cfg, run, trainer, result)
        result = end(result)
    return result  # noqa: RET504 - after the loggers are closed


def _check_restarts(cfg: DictConfig, run: Run) -> None:
    """Check that the job of this process was not requeued too often, and makes progress.

    Raises:
        UserError: The job was requeued more than `cluster.max_requeues` times, or twice at the same
            step.
    """
    job = this_job()
    most = cfg.cluster.max_requeues
    if job.restarts > most:
        raise UserError(f"requeued {job.restarts} times, more than cluster.max_requeues={most}")
    if job.id is None or job.restarts < 2:
        return
    of_job = [start.get("step") for start in run.starts if start.get("job") == job.id]
    steps = [step for step in of_job if step is not None][-3:]
    if len(steps) == 3 and len({*steps}) == 1:
        raise UserError(
            f"requeued twice without a checkpoint after step {steps[0]}; if reading the data, a "
            "validation or the test evaluation takes longer than the time limit of the job, raise "
            "cluster.time_min"
        )


def _print_changes(fork: Fork, identity: RunIdentity) -> None:
    found = identity.differences(fork.run.config, all_keys=True)
    changed = [each for each in found if not each.startswith("fork:")]
    text = "; ".join(map(one_line, changed)) or "nothing changed"
    print(f"fork of {fork.path}, with {text}")


def _record_evaluation(cfg: DictConfig, run: Run, trainer: L.Trainer, result: Result) -> None:
    """Add the run's test evaluation to the list, or print why it is none."""
    message = partial_test_message(trainer)
    if message:
        print(message)
    else:
        record_test_evaluation(cfg.outputs, run, "best", result.test_metrics)

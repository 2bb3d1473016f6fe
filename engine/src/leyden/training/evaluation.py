"""Evaluation of a checkpoint by a new module: at the end of a run, and by `leyden evaluate`; and its record."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden

from leyden.assembly.build import Build, datamodule
from leyden.assembly.instantiate import user_errors
from leyden.assembly.start_from import read_checkpoint
from leyden.assembly.task import UNKNOWN_LENGTH, length_of
from leyden.config.errors import UserError
from leyden.data.contract import ModuleData, first_batches, has_split
from leyden.exact.loaders import flatten_loaders
from leyden.exact.random_state import seeded
from leyden.pictures import OnEvaluation
from leyden.report.ranking import merge_rows, read_sweep
from leyden.report.records import (
    check_test_evaluations,
    count_text,
    read_records,
    record_test_evaluation,
)
from leyden.run.directory import changed_names, trained_on
from leyden.run.process import is_main_process
from leyden.run.result import STAGES, Result
from leyden.training.trained import Trained, fitting, load_weights, module_at
from leyden.verdict.difference import LEVEL
from leyden.verdict.groups import MIN_VALUES
from leyden.verdict.numbers import is_finite, metric_digits, metric_text
from leyden.verdict.quantiles import t_quantile


def measure(
    trainer: L.Trainer,
    module: L.LightningModule,
    data: L.LightningDataModule,
    path: Path,
    split: str,
    seed: int,
) -> dict[str, float]:
    """Return the metrics of a checkpoint on a split other than `train`.

    Args:
        trainer: Lightning's trainer.
        module: A module that `module_at` has made for this checkpoint.
        data: The data.
        path: Path of the checkpoint.
        split: Name of the split.
        seed: Seed of the run, so that each evaluation draws the same random numbers.

    Raises:
        UserError: The checkpoint does not fit the module.
    """
    trainer.evaluated_stage = split  # type: ignore[attr-defined]  # which `evaluated_stage` reads
    evaluate = trainer.validate if split == "val" else trainer.test
    given: dict[str, Any] = {"datamodule": data}
    if split not in ("val", "test"):
        given = {"dataloaders": getattr(data, f"{split}_dataloader")()}
    _load_in_setup(trainer, module, path)
    with seeded(seed, "test"):
        by_loader = evaluate(module, **given, verbose=False)
    metrics: dict[str, float] = {}
    for measured in by_loader:
        metrics.update(measured)
    return metrics


def _load_in_setup(trainer: L.Trainer, module: L.LightningModule, path: Path) -> None:
    """Make a trainer load a checkpoint's weights where it would by `ckpt_path`: after the module's `setup`.

    With `ckpt_path`, it would also take its callbacks back to the checkpoint.
    """
    content = read_checkpoint(path)
    strategy = trainer.strategy
    original = strategy.setup

    def setup(trainer: L.Trainer) -> None:
        del strategy.setup
        if strategy.restore_checkpoint_after_setup:
            original(trainer)
        trainer.precision_plugin.convert_module(module)  # which would round weights of 64 bits
        with fitting(path):
            load_weights(module, content)
        if not strategy.restore_checkpoint_after_setup:
            original(trainer)

    strategy.setup = setup  # type: ignore[method-assign]


def evaluate_best(build: Build, path: Path, result: Result, split: str) -> Result:
    """Return a run's result with the metrics of its best checkpoint on a split.

    On the validation split, which has its metrics already, pictures are drawn.

    Args:
        build: The parts of the run, which has been trained.
        path: Path of the checkpoint.
        result: The result so far.
        split: Name of the split.

    Raises:
        UserError: The checkpoint does not fit a new module.
    """
    trainer = build.trainer.trainer
    module, _ = module_at(build.cfg, path, with_weights=False)
    data = build.data
    if isinstance(data, ModuleData):  # whose loaders are those of a module
        data = datamodule(build.cfg, module=module)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = [each for each in callbacks if _takes_part(each, split)]
    trainer.callbacks = kept  # type: ignore[attr-defined]
    try:
        measured = measure(trainer, module, data, path, split, build.cfg.seed)
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
    if split == "val" or (split == "test" and partial_test_message(trainer)):
        return result
    result = result.with_stage(split, measured)
    if split == "test":
        result = replace(result, test_batches=first_batches(data, "test"))
    return result


TEST_HOOKS = [name for name in dir(L.Callback) if name.startswith("on_test_")]


def _takes_part(callback: L.Callback, split: str) -> bool:
    """Return whether a callback takes part in an evaluation at the end of a run.

    The others have been set up for the trained module, as one that prunes its layers.
    """
    if split == "val":  # whose pictures are drawn; no other callback sees a validation twice
        return isinstance(callback, OnEvaluation)
    return any(is_overridden(name, callback, L.Callback) for name in TEST_HOOKS)


def evaluated_splits(build: Build, *, test: bool) -> list[str]:
    """Return the splits on which a run's best checkpoint is evaluated: without a test the validation split, for pictures."""
    found = []
    if test:
        found.append("test")
    elif draws_outputs(build.trainer.callbacks, build.module):
        found.append("val")
    further = {*STAGES} - {"train", "val", "test"}
    found += sorted(further, key=STAGES.index)
    splits = [stage for stage in found if has_split(build.data, stage)]
    if is_overridden("test_step", build.module):
        return splits
    left_out = [stage for stage in splits if stage in further]
    if left_out and is_main_process():
        print(f"no evaluation on {', '.join(left_out)}: the task has no test_step")
    return [stage for stage in splits if stage not in further]


def draws_outputs(callbacks: Sequence[L.Callback], module: L.LightningModule) -> bool:
    """Return whether a callback draws pictures of a module's outputs in an evaluation."""
    return any(isinstance(each, OnEvaluation) and each.draws(module) for each in callbacks)


def partial_test_message(trainer: L.Trainer) -> str:
    """Return a message if the trainer tested on a part of the test set only; empty if it used every batch."""
    loaders = flatten_loaders(trainer.test_dataloaders)
    num = sum(trainer.num_test_batches)
    of = sum(map(length_of, loaders))
    fast: bool | int = trainer.fast_dev_run  # type: ignore[attr-defined]
    if fast:
        key = f"fast_dev_run={fast}"
    elif num < of:  # no loader gives more than it has
        key = f"limit_test_batches={trainer.limit_test_batches}"
    else:
        return ""
    whole = f" of {of}" if of < UNKNOWN_LENGTH else ""
    return f"trainer.{key}: {num:.0f}{whole} test batches are not a test evaluation, and are not recorded as one"


class Evaluation(NamedTuple):
    """An evaluation on the test set.

    Args:
        where: What was evaluated, in words.
        metrics: The metrics; of several runs, a list each.
        shown: The metrics as text; of several runs, their mean with the 95 % interval.
        message: How many test evaluations the experiment has, or why this one was not recorded.
        number: That number; None if this one was not recorded.
    """

    where: str
    metrics: Mapping[str, float | list[float]]
    shown: dict[str, str]
    message: str
    number: int | None


def evaluate(
    runs: Sequence[Trained],
    *,
    outputs: str,
    accelerator: str | None,
    row: str = "",
    overlap: float = 0.0,
) -> Evaluation:
    """Evaluate checkpoints on the test set, and record this as one test evaluation.

    An evaluation is not recorded if a run's `limit_test_batches` restricts it to a part of the test set.

    Args:
        runs: A run and its checkpoint, or all runs of a sweep's setting.
        outputs: Folder with the list of test evaluations.
        accelerator: Lightning's name of an accelerator; None for the run's.
        row: The setting, in words; empty for a run.
        overlap: As in `Group`, of the setting's values.

    Raises:
        UserError: The configuration or the checkpoint is refused, or the data are not available.
    """
    measured = [_measure_test(each, outputs, accelerator) for each in runs]
    first = runs[0]
    metrics, message = measured[0]
    columns: dict[str, list[float]] = {}
    means: dict[str, float] = {}
    shown: dict[str, str] = {}
    for name in metrics:
        values = [found[name] for found, _ in measured if name in found]
        columns[name] = values
        means[name] = statistics.fmean(values)
        if row:
            shown[name] = mean_text(values, overlap)
        else:
            shown[name] = metric_text(means[name])
    number = None
    if not message:
        name = str(first.run.config.get("name"))
        checkpoint = first.path.stem
        number = record_test_evaluation(outputs, first.run, checkpoint, means, where=row or None)
        message = count_text(name, number)
    where = row or str(first.path)
    return Evaluation(where, columns if row else means, shown, message, number)


def _measure_test(
    trained: Trained, outputs: str, accelerator: str | None
) -> tuple[dict[str, float], str]:
    """Return a run's test metrics, and a message if they are those of a part of the test set."""
    trainer = trained.trainer(accelerator)
    module = trained.module
    if not is_overridden("test_step", module):
        raise UserError(f"{trained.run.directory}: {type(module).__name__} has no test_step")
    data = trained.data
    if not has_split(data, "test"):
        raise UserError(f"{trained.run.directory}: {type(data).__name__} has no test_dataloader")
    with user_errors("data"):
        data.setup("test")
    _check_splits(trained)
    check_test_evaluations(outputs)
    metrics = measure(trainer, module, data, trained.path, "test", trained.cfg.seed)
    return metrics, partial_test_message(trainer)


def _check_splits(trained: Trained) -> None:
    """Check that the data have the same splits as in training, by comparing the first batches.

    Raises:
        UserError: A split differs, so that the test set may contain samples that were trained on.
    """
    before = dict(trained_on(trained.run))
    if trained.run.result:
        before |= trained.run.result.test_batches
    here = first_batches(trained.data, "val")
    here |= first_batches(trained.data, "test")
    names = changed_names(before, here)
    if names:
        raise UserError(
            f"{trained.run.directory}: {', '.join(names)} differs from that in training, so the test set may contain training "
            "samples: its data draw from the system's entropy, or have changed"
        )


def runs_of_row(
    directory: Path,
    number: int,
    checkpoint: str,
    *,
    data_root: str | None,
    trust: bool,
) -> tuple[list[Trained], str, float]:
    """Return all runs of a sweep's setting, the setting in words, and the overlap of its values.

    Args:
        directory: The sweep's folder.
        number: Number of the setting's row in the table of `leyden summarize`, from 1 on.
        checkpoint: Name of the checkpoint, as `best`.
        data_root: Folder of the data set; None for the folder used in training.
        trust: Whether the user trusts what the runs' records name, whoever wrote them.

    Raises:
        UserError: There is no such row, or it has no finished run.
    """
    rows = merge_rows(read_records(directory), read_sweep(directory)["average_over"])
    if not 1 <= number <= len(rows):
        raise UserError(f"row={number}: {directory} has rows 1 to {len(rows)}")
    row = rows[number - 1]
    runs = [record.run for record in row.distinct]
    if not runs:
        raise UserError(f"row={number}: none of its runs has finished")
    setting = row.setting
    named = f" ({setting.name})" if row.choices else ""
    num = len(setting.values) + setting.lost
    words = f"{directory} row {number}{named}, {len(runs)} of {num} runs"
    trained = []
    for run in runs:
        run.trust = trust
        trained.append(Trained(run, checkpoint, data_root=data_root))
    return trained, words, setting.overlap


def mean_text(values: Sequence[float], overlap: float = 0.0) -> str:
    """Return a mean with its 95 % interval by Student's t, as text; without the interval if there is none.

    Args:
        values: The values.
        overlap: As in `Group`.

    Example:
        >>> mean_text([0.97, 0.98, 0.96])
        '0.9700 (95 % interval 0.9452 to 0.9948, n = 3)'
    """
    num = len(values)
    mean = statistics.fmean(values)
    has_interval = num >= MIN_VALUES and all(map(is_finite, values))
    spread = statistics.stdev(values) if has_interval else 0.0
    if not spread:
        return f"{metric_text(mean)} (n = {num})"
    standard_error = spread * math.sqrt(1 / num + overlap)
    half = t_quantile(LEVEL / 2, num - 1) * standard_error
    in_digits = metric_digits(mean, half)
    ends = f"{in_digits(mean - half)} to {in_digits(mean + half)}"
    return f"{in_digits(mean)} (95 % interval {ends}, n = {num})"

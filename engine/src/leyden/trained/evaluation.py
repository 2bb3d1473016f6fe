"""Test evaluations of trained runs by `leyden evaluate`, and their record."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lightning.pytorch.utilities.model_helpers import is_overridden

from leyden.assembly.instantiate import user_errors
from leyden.base.errors import UserError
from leyden.data.contract import first_batches, has_split
from leyden.report.ranking import merge_rows, read_sweep, tested_seeds
from leyden.report.records import (
    check_test_evaluations,
    count_text,
    read_records,
    record_test_evaluation,
)
from leyden.run.directory import changed_names, trained_on
from leyden.trained.loading import Trained
from leyden.training.evaluation import measure, partial_test_message
from leyden.verdict.difference import LEVEL
from leyden.verdict.groups import MIN_VALUES
from leyden.verdict.numbers import is_finite, metric_digits, metric_text
from leyden.verdict.quantiles import t_quantile


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

    An evaluation is not recorded if a run's `limit_test_batches` restricts it to a part of the test
    set.

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
    for name in metrics:
        columns[name] = [found[name] for found, _ in measured if name in found]
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    if row:
        shown = {name: mean_text(values, overlap) for name, values in columns.items()}
    else:
        shown = {name: metric_text(mean) for name, mean in means.items()}
    number = None
    if not message:
        name = str(first.run.config.get("name"))
        checkpoint = first.path.stem
        number = record_test_evaluation(outputs, first.run, checkpoint, means, where=row or None)
        lines = [count_text(name, number)]
        if not row:
            lines += tested_seeds(first.run)
        message = "\n".join(lines)
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
            f"{trained.run.directory}: {', '.join(names)} differs from that in training, so the "
            "test set may contain training samples: its data draw from the system's entropy, or "
            "have changed"
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
    for run in runs:
        run.trust = trust
    trained = [Trained(run, checkpoint, data_root=data_root) for run in runs]
    return trained, words, setting.overlap


def mean_text(values: Sequence[float], overlap: float = 0.0) -> str:
    """Return a mean with its 95 % interval by Student's t, as text.

    Without the interval if there is none.

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

"""A trained run put to use: its module, data and evaluation; and `leyden.load` for notebooks and scripts."""

import contextlib
import functools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from omegaconf import DictConfig, OmegaConf
from torch import nn

from leyden.assembly.build import check_world_size, datamodule
from leyden.assembly.instantiate import import_targets, instantiate, user_errors
from leyden.assembly.start_from import read_checkpoint
from leyden.assembly.task import partial_test_message, task_module
from leyden.assembly.trainer import plain_trainer, silence_lightning
from leyden.callbacks.checkpoint import load_weights
from leyden.config.checks import check_folder
from leyden.config.errors import UserError, log_and_continue
from leyden.config.paths import add_to_path, root
from leyden.config.terminal import warn
from leyden.data.contract import (
    Facts,
    digests_of,
    facts_of,
    first_batches,
    has_split,
)
from leyden.exact.random_state import seeded, seeded_as_run, undisturbed
from leyden.exact.sharding import load_whole
from leyden.exact.state import restore_module
from leyden.report.listing import list_runs
from leyden.report.ranking import merge_rows, read_sweep
from leyden.report.records import (
    check_test_evaluations,
    count_text,
    read_records,
    record_test_evaluation,
)
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.result import Result, read_curves
from leyden.tasks import Task, network_of
from leyden.verdict.difference import LEVEL
from leyden.verdict.groups import MIN_VALUES
from leyden.verdict.numbers import is_finite, metric_digits, metric_text
from leyden.verdict.quantiles import t_quantile

# Settings of the trainer that evaluation takes from a run: plain values that change a metric.
TRAINER_KEYS = ("precision", "limit_test_batches", "deterministic")


class Trained:
    """A trained run and one of its checkpoints, without Hydra. Its parts are made when they are first used.

    Random states stay as they are. The project's packages are added to `sys.path`, if they are not installed.

    Args:
        run: The run.
        checkpoint: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.
        data_root: Folder of the data set; None for the folder used in training.

    Raises:
        UserError: When a part is made: the run is not the user's own, or a part is missing or does not fit the others.

    Example:
        A run of the worked example, whose network takes images of shape (N, 1, 28, 28):

            run = leyden.load("outputs/mnist_mlp/first")
            run.metrics["val/acc"], run.config["optimizer"]["lr"]
            steps, values = zip(*run.curves["val/acc"])
            logits = run.network(images)
    """

    def __init__(self, run: Run, checkpoint: str = "best", *, data_root: str | None = None) -> None:
        if data_root:
            check_folder("data_root", data_root)
        self.run, self.checkpoint, self.data_root = run, checkpoint, data_root
        self.directory = run.directory

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration, as plain values."""
        return self.run.config

    @functools.cached_property
    def result(self) -> Result | None:
        """The result, as in `run.json`; None if the run has not ended."""
        return self.run.result

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch and of a test evaluation; empty if the run has not ended."""
        return dict(self.result.metrics) if self.result else {}

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """For each metric its points (optimizer step, value), from `metrics.csv`."""
        return read_curves(self.directory / "metrics.csv")

    @functools.cached_property
    def cfg(self) -> DictConfig:
        """The part of the run's configuration that its use needs: what makes the module and the data, without augmentation.

        The files that define its classes are imported, with the random numbers that they draw in the run.
        """
        self.run.check_owner()
        add_to_path()
        config = self.run.config
        parts = {key: config[key] for key in ("model", "task")}
        parts["data"] = {
            key: None if key == "augment" else value for key, value in config["data"].items()
        }
        parts["trainer"] = {
            key: config["trainer"][key] for key in TRAINER_KEYS if config["trainer"].get(key)
        }
        cfg = OmegaConf.create({"name": config.get("name"), "seed": config["seed"], **parts})
        import_targets(cfg)
        if self.data_root and "root" in cfg.data:
            cfg.data.root = self.data_root
        return cfg

    @functools.cached_property
    def path(self) -> Path:
        """Path of the checkpoint."""
        return self.run.checkpoint(self.checkpoint)

    @functools.cached_property
    def _restored(self) -> tuple[L.LightningModule, Facts]:
        """The module, and the facts of its data."""
        seed = self.cfg.seed
        content = read_checkpoint(self.path)
        self.run.warn_of_changed_code("its weights are used with the code as it is now")
        facts: Facts = content["facts"]
        # As in training, since no checkpoint has random numbers that a constructor keeps in an attribute.
        with seeded_as_run(seed, "task"):
            module = task_module(self.cfg, facts)
            try:
                load_weights(module, content)
                restore_module(module, content)
            except (
                Exception
            ) as error:  # a checkpoint may come from a stranger, and be wrong in any way
                why = " ".join(str(error).split())
                raise UserError(
                    f"{self.path}: does not fit the network ({type(error).__name__}: {why})"
                ) from error
        return module.eval(), facts

    @property
    def module(self) -> L.LightningModule:
        """The module with the checkpoint's weights, in evaluation mode; made on the CPU, without the data set."""
        return self._restored[0]

    @property
    def network(self) -> nn.Module:
        """The network of a task; of another LightningModule, the module itself."""
        return network_of(self.module)

    @property
    def facts(self) -> Facts:
        """The facts of the data that it was trained on."""
        return self._restored[1]

    def task(self, accelerator: str | None = "cpu") -> Task:
        """Return the module, checked to be a `Task`, on an accelerator.

        Args:
            accelerator: The accelerator to move the module to; None for the run's.
        """
        device = self.trainer(accelerator).strategy.root_device
        module = self.module.to(device)
        if not isinstance(module, Task):
            raise UserError(
                f"{self.run.directory}: has trained {type(module).__name__}; this command needs a Task of leyden.tasks"
            )
        return module

    @functools.cached_property
    def data(self) -> L.LightningDataModule:
        """The data that it was trained on, with the same splits; with `data=module`, those of the module.

        A warning names files that have changed.
        """
        try:
            with undisturbed():
                data = datamodule(self.cfg, module=self.module)
            check_world_size(data, 1)
        except UserError as error:
            raise UserError(f"{error}; data_root=FOLDER sets the folder of the dataset") from error
        if facts_of(data) != self.facts:
            raise UserError(
                f"{self.cfg.data.get('root')}: not the dataset that {self.run.directory} was trained on"
            )
        with log_and_continue("comparing the data"):
            if names := changed_names(trained_on(self.run), digests_of(data)):
                warn(
                    f"{self.run.directory}: the data differ from those that it was trained on: {', '.join(names)}"
                )
        return data

    @property
    def read_image(self) -> Callable[[Path], torch.Tensor] | None:
        """The `read_image` of the run's data, so that prediction reads image files as training did; None without one.

        It returns pixels, shape (C, H, W), uint8.
        """
        data = instantiate(self.cfg.data, "data")
        dataset = getattr(data, "dataset", data)
        return getattr(getattr(dataset, "func", dataset), "read_image", None)

    def trainer(self, accelerator: str | None) -> L.Trainer:
        """Return a trainer that evaluates on one device, without loggers and callbacks.

        Args:
            accelerator: Lightning's name of an accelerator; None for the processor if that was the run's, else for the
                best device of this machine.

        Raises:
            UserError: This machine lacks the accelerator.
        """
        silence_lightning()
        self.run.check_owner()
        is_on_cpu = (self.run.config.get("trainer") or {}).get("accelerator") == "cpu"
        chosen = accelerator or ("cpu" if is_on_cpu else "auto")
        options: Any = OmegaConf.to_container(self.cfg.trainer)
        options |= {"_target_": "lightning.pytorch.Trainer", "accelerator": chosen}
        cfg = OmegaConf.create({"trainer": options})
        return plain_trainer(cfg, callbacks=[], logger=False, enable_checkpointing=False, devices=1)

    def seeded(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a network that draws random numbers draws the same ones each time."""
        return seeded_as_run(self.cfg.seed, "task")

    def measure(self, outputs: str, accelerator: str | None) -> tuple[dict[str, float], str]:
        """Return the test metrics, and a message if they are those of a part of the test set."""
        trainer = self.trainer(accelerator)
        if not is_overridden("test_step", self.module):
            raise UserError(f"{self.run.directory}: {type(self.module).__name__} has no test_step")
        if not has_split(self.data, "test"):
            raise UserError(
                f"{self.run.directory}: {type(self.data).__name__} has no test_dataloader"
            )
        with user_errors("data"):
            self.data.setup("test")
        self._check_splits()
        check_test_evaluations(outputs)
        if (
            trainer.precision == "64-true"
        ):  # the module was made in single precision, which rounds these weights
            trainer.precision_plugin.convert_module(self.module)
            load_whole(self.module, read_checkpoint(self.path)["state_dict"])
        with seeded(
            self.cfg.seed, "test"
        ):  # the same random numbers as in the run's own evaluation
            measured = trainer.test(self.module, datamodule=self.data, verbose=False)
        metrics = {
            name: value for each in measured for name, value in each.items()
        }  # one dictionary per loader
        return metrics, partial_test_message(trainer)

    def _check_splits(self) -> None:
        """Check that the data have the same splits as in training, by comparing the first batches.

        Raises:
            UserError: A split differs, so that the test set may contain samples that were trained on.
        """
        before = {
            **trained_on(self.run),
            **(self.run.result.test_batches if self.run.result else {}),
        }
        here = {**first_batches(self.data, "val"), **first_batches(self.data, "test")}
        if names := changed_names(before, here):
            raise UserError(
                f"{self.run.directory}: {', '.join(names)} differs from that in training, so the test set may contain training "
                "samples: its data draw from the system's entropy, or have changed"
            )


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
    measured = [each.measure(outputs, accelerator) for each in runs]
    columns = {
        name: [metrics[name] for metrics, _ in measured if name in metrics]
        for name in measured[0][0]
    }
    means = {name: statistics.fmean(values) for name, values in columns.items()}
    shown = {
        name: mean_text(columns[name], overlap) if row else metric_text(means[name])
        for name in columns
    }
    first, message, number = runs[0], measured[0][1], None
    where = row or str(first.path)
    if not message:
        name = first.run.config.get("name")
        number = record_test_evaluation(
            outputs, first.run, first.path.stem, means, where=row or None
        )
        message = count_text(str(name), number)
    return Evaluation(where, columns if row else means, shown, message, number)


def runs_of_row(
    directory: Path, number: int, checkpoint: str, *, data_root: str | None, trust: bool
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
    if not (runs := [record.run for record in row.distinct]):
        raise UserError(f"row={number}: none of its runs has finished")
    for run in runs:
        run.trust = trust
    setting, num = row.setting.name, len(row.setting.values) + row.setting.lost
    words = f"{directory} row {number}{f' ({setting})' if row.choices else ''}, {len(runs)} of {num} runs"
    return (
        [Trained(run, checkpoint, data_root=data_root) for run in runs],
        words,
        row.setting.overlap,
    )


def mean_text(values: Sequence[float], overlap: float = 0.0) -> str:
    """Return a mean with its 95 % interval by Student's t, as text; without the interval if there is none.

    Args:
        values: The values.
        overlap: As in `Group`.

    Example:
        >>> mean_text([0.97, 0.98, 0.96])
        '0.9700 (95 % interval 0.9452 to 0.9948, n = 3)'
    """
    mean = statistics.fmean(values)
    if (
        len(values) < MIN_VALUES
        or not all(map(is_finite, values))
        or not (spread := statistics.stdev(values))
    ):
        return f"{metric_text(mean)} (n = {len(values)})"
    half = t_quantile(LEVEL / 2, len(values) - 1) * spread * math.sqrt(1 / len(values) + overlap)
    in_digits = metric_digits(mean, half)
    ends = f"{in_digits(mean - half)} to {in_digits(mean + half)}"
    return f"{in_digits(mean)} (95 % interval {ends}, n = {len(values)})"


def load(directory: str | Path, checkpoint: str = "best", *, trust: bool = False) -> Trained:
    """Return a trained run; see `Trained`.

    Args:
        directory: The run directory, absolute or relative to the working directory.
        checkpoint: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.
        trust: Whether you trust what its record names, although it is not a run of yours.

    Raises:
        UserError: The directory is not a run directory.
    """
    run = Run(directory, trust=trust)
    run.require()
    return Trained(run, checkpoint)


def load_runs(
    directory: str | Path | None = None, *, where: str = "", sort: str = "age", trust: bool = False
) -> list[Trained]:
    """Return the runs in or below a folder, as `leyden runs` lists them.

    Args:
        directory: The folder; None for `outputs/` of the project.
        where: A condition, such as `"val/acc > 0.97 and optimizer.lr < 0.01"`; empty for all runs.
        sort: A metric or key to sort by; with the prefix `-`, largest first.
        trust: Whether you trust what their records name, although they are not runs of yours.

    Raises:
        UserError: There is no run, or the condition is wrong.
    """
    folder = root() / "outputs" if directory is None else Path(directory)
    return [
        load(row["directory"], trust=trust) for row in list_runs(folder, where=where, sort=sort)[0]
    ]

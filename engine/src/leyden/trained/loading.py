"""A trained run put to use: its module, data and evaluation.

`leyden.load` is for notebooks and scripts.
"""

import base64
import contextlib
import functools
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from leyden.assembly.build import check_world_size, datamodule
from leyden.assembly.instantiate import import_targets, instantiate
from leyden.assembly.trainer import plain_trainer, silence_lightning
from leyden.base.errors import UserError, log_and_continue
from leyden.base.paths import add_to_path, root
from leyden.base.table import table_lines
from leyden.base.terminal import printable, reason_of, relative_path, warn
from leyden.config.checks import check_folder
from leyden.config.values import dict_at
from leyden.data.contract import (
    Facts,
    digests_of,
    facts_of,
)
from leyden.exact.files import read_bounded
from leyden.exact.random_state import seeded_as_run, undisturbed
from leyden.report.listing import list_runs
from leyden.run.curves import read_curves
from leyden.run.directory import Run, changed_names, trained_on
from leyden.run.keys import Role, has
from leyden.run.result import Result
from leyden.tasks import Task, network_of
from leyden.training.weights import module_at
from leyden.verdict.numbers import metric_text

MAX_PICTURES = 12  # of a run in a notebook, which keeps them in its file
MAX_PICTURE_BYTES = 2**22


class Trained:
    """A trained run and one of its checkpoints; its parts are made when they are first used.

    Random states stay as they are. The project's packages are added to `sys.path`, if they are not
    installed.

    Args:
        run: The run.
        checkpoint: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.
        data_root: Folder of the data set; None for the folder used in training.

    Raises:
        UserError: When a part is made: the run is not the user's own, or a part is missing or does
            not fit the others.

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
        self.run = run
        self.directory = run.directory
        self.checkpoint = checkpoint
        self.data_root = data_root

    def __repr__(self) -> str:
        try:
            status = self.result.status if self.result else "without a result"
            rows = [
                {"metric": name, "value": metric_text(self.metrics[name])} for name in self.metrics
            ]
        except UserError as error:  # its record is damaged, or gone
            return printable(str(error))
        head = f"{relative_path(self.directory)}: {status}"
        return "\n".join([printable(head), *table_lines(rows)])

    def _repr_html_(self) -> str:
        """Return metrics and pictures as a notebook shows them; of one that can't be read, why."""
        parts = [f"<pre>{html.escape(repr(self))}</pre>"]
        paths = sorted(self.directory.glob("*.png"))
        for path in paths[:MAX_PICTURES]:
            name = html.escape(printable(path.name))
            try:
                content = base64.b64encode(read_bounded(path, MAX_PICTURE_BYTES)).decode()
            except OSError as error:
                parts.append(f"<pre>{name}: {html.escape(reason_of(error))}</pre>")
                continue
            parts.append(f'<img alt="{name}" src="data:image/png;base64,{content}">')
        if len(paths) > MAX_PICTURES:
            parts.append(f"<pre>and {len(paths) - MAX_PICTURES} more pictures</pre>")
        return "\n".join(parts)

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
        """The metrics of the best epoch and of a test evaluation.

        Empty if the run has not ended.
        """
        return dict(self.result.metrics) if self.result else {}

    @property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """For each metric its points (optimizer step, value), from `metrics.csv`."""
        return read_curves(self.directory / "metrics.csv")

    @functools.cached_property
    def cfg(self) -> DictConfig:
        """The part of the run's configuration that makes the module and the data, unaugmented.

        The files that define its classes are imported, with the random numbers that they draw in
        the run.
        """
        self.run.check_owner()
        add_to_path()
        config = self.run.config
        parts = {key: config[key] for key in ("model", "task")}
        parts["data"] = {
            key: None if key == "augment" else value for key, value in config["data"].items()
        }
        parts["trainer"] = {
            key: value
            for key, value in config["trainer"].items()
            if value and has(f"trainer.{key}", Role.EVALUATED)
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
        module, facts = module_at(self.cfg, self.path)
        self.run.warn_of_changed_code("its weights are used with the code as it is now")
        return module.eval(), facts

    @property
    def module(self) -> L.LightningModule:
        """The module with the checkpoint's weights, in evaluation mode.

        Made on the CPU, without the data set.
        """
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
                f"{self.run.directory}: has trained {type(module).__name__}; "
                "this command needs a Task of leyden.tasks"
            )
        return module

    @functools.cached_property
    def data(self) -> L.LightningDataModule:
        """The data that it was trained on, with the same splits.

        With `data=module`, those of the module.

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
                f"{self.cfg.data.get('root')}: not the dataset that "
                f"{self.run.directory} was trained on"
            )
        with log_and_continue("comparing the data"):
            names = changed_names(trained_on(self.run), digests_of(data))
            if names:
                warn(
                    f"{self.run.directory}: the data differ from those "
                    f"that it was trained on: {', '.join(names)}"
                )
        return data

    @property
    def read_image(self) -> Callable[[Path], torch.Tensor] | None:
        """The `read_image` of the run's data, so that prediction reads image files as training did.

        None without one.

        It returns pixels, shape (C, H, W), uint8.
        """
        data = instantiate(self.cfg.data, "data")
        dataset = getattr(data, "dataset", data)
        kind = getattr(dataset, "func", dataset)
        return getattr(kind, "read_image", None)

    def trainer(self, accelerator: str | None) -> L.Trainer:
        """Return a trainer that evaluates on one device, without loggers and callbacks.

        Args:
            accelerator: Lightning's name of an accelerator; None for the processor if that was the
                run's, else for the best device of this machine.

        Raises:
            UserError: This machine lacks the accelerator.
        """
        silence_lightning()
        self.run.check_owner()
        if accelerator is None:
            before = dict_at(self.run.config, "trainer").get("accelerator")
            accelerator = "cpu" if before == "cpu" else "auto"
        options: Any = OmegaConf.to_container(self.cfg.trainer)
        options["_target_"] = "lightning.pytorch.Trainer"
        options["accelerator"] = accelerator
        cfg = OmegaConf.create({"trainer": options})
        return plain_trainer(cfg, callbacks=[], logger=False, enable_checkpointing=False, devices=1)

    def seeded(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which a network draws the same random numbers each time."""
        return seeded_as_run(self.cfg.seed, "task")


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
    directory: str | Path | None = None,
    *,
    where: str = "",
    sort: str = "age",
    trust: bool = False,
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
    rows, *_ = list_runs(folder, where=where, sort=sort)
    return [load(row["directory"], trust=trust) for row in rows]

"""Trained runs for notebooks and scripts, without Hydra: `leyden.load` and `leyden.load_runs`."""

import functools
from pathlib import Path
from typing import Any

import lightning as L
from torch import nn

from leyden.assembly.start_from import read_checkpoint
from leyden.config.paths import ROOT, add_to_path
from leyden.exact.random_state import undisturbed
from leyden.report.listing import list_runs
from leyden.run.directory import Run
from leyden.run.result import Result, read_curves
from leyden.training.trained import trained_data, trained_module


class LoadedRun:
    """A trained run. Its parts are read when they are first used.

    Random states stay as they are. The project's packages are added to `sys.path`, if they are not installed.

    Args:
        directory: The run directory, absolute or relative to the working directory.
        checkpoint: `best`, `last`, or the name of a kept checkpoint, such as `epoch_3`.

    Example:
        A run of the worked example, whose network takes images of shape (N, 1, 28, 28):

            run = leyden.load("outputs/mnist_mlp/first")
            run.metrics["val/acc"], run.config["optimizer"]["lr"]
            steps, values = zip(*run.curves["val/acc"])
            logits = run.network(images)
    """

    def __init__(self, directory: str | Path, checkpoint: str = "best") -> None:
        self._run = Run(directory)
        self.directory = self._run.directory
        self.config: dict[str, Any] = self._run.config
        self.checkpoint = checkpoint

    def __repr__(self) -> str:
        return f"LoadedRun({str(self.directory)!r}, checkpoint={self.checkpoint!r})"

    @functools.cached_property
    def result(self) -> Result | None:
        """The result, as in `run.json`; None if the run has not ended."""
        return self._run.result

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch and of a test evaluation; empty if the run has not ended."""
        return dict(self.result.metrics) if self.result else {}

    @functools.cached_property
    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """For each metric its points (optimizer step, value), from `metrics.csv`."""
        return read_curves(self.directory / "metrics.csv")

    @functools.cached_property
    def module(self) -> L.LightningModule:
        """The module with the checkpoint's weights, on the CPU, in evaluation mode.

        Raises:
            UserError: The configuration or the checkpoint is refused, or they don't fit each other.
        """
        return self._restored[0]

    @property
    def network(self) -> nn.Module:
        """The network of a task; of another LightningModule, the module itself."""
        network = getattr(self.module, "network", None)
        return network if isinstance(network, nn.Module) else self.module

    @functools.cached_property
    def data(self) -> L.LightningDataModule:
        """The data module, with the same splits as in training.

        Raises:
            UserError: The data are not available, or have changed.
        """
        module, facts = self._restored
        with undisturbed():
            return trained_data(self._run, facts, None, 1, module)

    @functools.cached_property
    def _restored(self) -> tuple[L.LightningModule, Any]:
        add_to_path()
        path = self._run.checkpoint(self.checkpoint)
        return trained_module(self._run, path, read_checkpoint(path))


def load(directory: str | Path, checkpoint: str = "best") -> LoadedRun:
    """Return a trained run; see `LoadedRun`.

    Raises:
        UserError: The directory is not a run directory.
    """
    return LoadedRun(directory, checkpoint)


def load_runs(directory: str | Path | None = None, *, where: str = "", sort: str = "age") -> list[LoadedRun]:
    """Return the runs in or below a folder, as `leyden runs` lists them.

    Args:
        directory: The folder; None for `outputs/` of the project.
        where: A condition, such as `"val/acc > 0.97 and optimizer.lr < 0.01"`; empty for all runs.
        sort: A metric or key to sort by; with the prefix `-`, largest first.

    Raises:
        UserError: There is no run, or the condition is wrong.
    """
    folder = ROOT / "outputs" if directory is None else Path(directory)
    return [LoadedRun(row["directory"]) for row in list_runs(folder, where=where, sort=sort)[0]]

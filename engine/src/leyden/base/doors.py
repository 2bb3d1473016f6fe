"""Doors: public names that are imported when they are first used, and names that moved."""

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from leyden.base.extras import missing_package, not_installed
from leyden.base.terminal import warn

# Class paths of before, which records and YAML files name, and the public names in their place. An
# entry stays for two minor versions after the one that it is in first; docs/versions.md has the
# promise.
MOVED = {
    # until 0.2
    "leyden.config.errors.UserError": "leyden.UserError",
    "leyden.config.terminal.warn": "leyden.warn",
    "leyden.training.loaded.load": "leyden.load",
    "leyden.training.loaded.load_runs": "leyden.load_runs",
    "leyden.callbacks.averaging.EMAWeightAveraging": "leyden.callbacks.EMA",
    "leyden.callbacks.fingerprint.Fingerprints": "leyden.callbacks.Fingerprints",
    "leyden.loggers.metrics_csv.MetricsCSV": "leyden.loggers.MetricsCSV",
    "leyden.loggers.tensorboard.TensorBoard": "leyden.loggers.TensorBoard",
    "leyden.loggers.wandb.Wandb": "leyden.loggers.Wandb",
    "leyden.pictures.classification.Confusion": "leyden.pictures.Confusion",
    "leyden.pictures.classification.Errors": "leyden.pictures.Errors",
    "leyden.pictures.curves.Curves": "leyden.pictures.Curves",
    "leyden.pictures.monitor.Monitor": "leyden.pictures.Monitor",
    "leyden.pictures.network.Summary": "leyden.callbacks.Summary",
    "leyden.pictures.outputs.Generated": "leyden.pictures.Generated",
    "leyden.pictures.outputs.Predicted": "leyden.pictures.Predicted",
    "leyden.pictures.outputs.Reconstructions": "leyden.pictures.Reconstructions",
    "leyden.tasks.autoencoder.Autoencoder": "leyden.tasks.Autoencoder",
    "leyden.tasks.classification.Classification": "leyden.tasks.Classification",
    "leyden.tasks.language.Language": "leyden.tasks.Language",
    "leyden.tasks.regression.Regression": "leyden.tasks.Regression",
    # until 0.3.0.dev0
    "leyden.callbacks.checkpoint.RunCheckpoint": "leyden.callbacks.RunCheckpoint",
    "leyden.callbacks.display.Fingerprints": "leyden.callbacks.Fingerprints",
    "leyden.callbacks.display.Progress": "leyden.callbacks.Progress",
    "leyden.callbacks.display.Summary": "leyden.callbacks.Summary",
    "leyden.callbacks.kept.EMA": "leyden.callbacks.EMA",
    "leyden.data.contract.ModuleData": "leyden.data.ModuleData",
    "leyden.data.folder.FolderDataModule": "leyden.data.FolderDataModule",
    "leyden.data.in_memory.InMemoryDataModule": "leyden.data.InMemoryDataModule",
    "leyden.data.streamed.DatasetDataModule": "leyden.data.DatasetDataModule",
    "leyden.data.table.Table": "leyden.data.Table",
    "leyden.data.text.Text": "leyden.data.Text",
    "leyden.data.transforms.Augment": "leyden.data.Augment",
    "leyden.sweep.pruning.Pruning": "leyden.sweep.Pruning",
}


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which imports a public name when it is first used.

    An `ImportError` of that function's names the command that installs what is missing.

    Args:
        package: Name of the package.
        homes: Full name of the module that has it, by public name.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - what Python calls
        if name in homes:
            return _imported(homes[name], name, f"{package}.{name}")
        old = f"{package}.{name}"
        if old not in MOVED:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        moved = MOVED[old]
        warn(f"{old} is now {moved}; leyden upgrade changes it")
        module, _, new = moved.rpartition(".")
        return _imported(module, new, moved)

    return __getattr__


def _imported(module: str, name: str, public: str) -> Any:
    """Return a name of a module; `public` is the whole name that a user knows.

    Raises:
        ImportError: A package is not installed; the message names the extra that brings it.
    """
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = missing_package(error)
        if missing:
            raise ImportError(f"{public}: {not_installed(missing)}") from error
        raise

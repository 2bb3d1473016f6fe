"""Roles: what may be made for each part of a configuration that can come from anybody."""

import functools
import inspect
from dataclasses import dataclass, field, replace
from typing import Any, get_origin

import lightning as L
import torch
import torchvision
import yaml
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Dataset
from torchmetrics import Metric

from leyden.config.errors import UserError
from leyden.config.paths import SRC, own_folders, own_packages
from leyden.data.table import Table
from leyden.data.text import Text
from leyden.data.transforms import Augment


@dataclass(frozen=True)
class Role:
    """What may be made for a node of the configuration.

    Args:
        base: Class that what is made is an instance of.
        packages: Its class is defined in or below one of these.
        names: Further classes, one by one.
        listed: Key of `trust.yaml` whose names the project's owner allows, too; empty for none.
        is_partial: Whether the node must have `_partial_: true`: then the program calls what is made, with arguments
            of its own. None: both are allowed.
        not_its: Keys that only the program may set.
        nested: Roles of nodes below it, by their key; an empty key stands for any.
    """

    base: type
    packages: tuple[str, ...]
    names: tuple[str, ...] = ()
    listed: str = ""
    is_partial: bool | None = None
    not_its: tuple[str, ...] = ()
    nested: dict[str, "Role"] = field(default_factory=dict)

    def is_class(self, made: Any) -> bool:
        """Whether something is a class whose instances can play this role."""
        # To Python 3.10, `tuple[int]` is a class, too.
        return inspect.isclass(made) and get_origin(made) is None and issubclass(made, self.base)

    @property
    def all_names(self) -> tuple[str, ...]:
        """The classes that are allowed one by one, the owner's among them.

        Raises:
            UserError: A `trust.yaml` is not as it must be.
        """
        return (*self.names, *allowed_by_owner().get(self.listed, ()))


def dotted_name(made: type) -> str:
    """Return the name of a class as a `_target_` has it."""
    return f"{made.__module__}.{made.__qualname__}"


@functools.cache
def allowed_by_owner() -> dict[str, tuple[str, ...]]:
    """The names in the `trust.yaml` of the project's packages, by role.

    Raises:
        UserError: The file is no mapping from roles to lists of names.
    """
    found: dict[str, tuple[str, ...]] = {}
    for package in own_packages():
        path = SRC / package / "trust.yaml"
        if not path.exists():
            continue
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise UserError(f"{path}: can't be read ({' '.join(str(error).split())})") from error
        if not isinstance(content, dict) or (unknown := [key for key in content if key not in LISTS]):
            what = f"{unknown[0]}: no such role" if isinstance(content, dict) else "is no mapping"
            raise UserError(f"{path}: {what}; it has the keys {', '.join(LISTS)}")
        for role, names in content.items():
            if not isinstance(names or [], list) or not all(isinstance(name, str) for name in names or []):
                raise UserError(
                    f"{path}: {role}: {names}: must be a list of dotted names, as [timm.models.resnet.ResNet]"
                )
            found[role] = (*found.get(role, ()), *(names or []))
    return found


# A class may load, write or fetch nothing when it is made, whatever its arguments: the test of
# this list tries all of them.
NETWORKS = Role(nn.Module, packages=(*own_folders("models"), "torch.nn.modules"), listed="model")
NETWORKS.nested[""] = NETWORKS
# Whatever else is made for an argument, as a tokenizer or the teacher of a task: a network, or what the owner lists.
PARTS = Role(nn.Module, packages=(*own_folders("models"), *own_folders("tasks"), "torch.nn.modules"), listed="part")
PARTS.nested[""] = PARTS
TRANSFORMS = Role(object, packages=(), listed="transform")
TRANSFORMS.nested[""] = TRANSFORMS
DATASETS = Role(
    Dataset,
    packages=own_folders("data"),
    names=(
        *map(dotted_name, (Table, Text)),
        *(f"torchvision.datasets.{name}" for name in ("KMNIST", "QMNIST", "CIFAR10", "CIFAR100")),
    ),
    listed="dataset",
    is_partial=True,
    not_its=("_args_", "root", "train", "download"),
    nested={"transform": TRANSFORMS, "target_transform": TRANSFORMS, "": PARTS},
)
# Changes of training images: classes whose instances are called with a batch.
AUGMENT = Role(
    object,
    packages=(),
    names=(dotted_name(Augment),),
    listed="transform",
    nested={"": Role(nn.Module, packages=("torchvision.transforms.v2",), listed="transform")},
)
DATA = Role(
    L.LightningDataModule,
    packages=(*own_folders("data"), "leyden.data"),
    listed="data",
    is_partial=False,
    not_its=("_args_",),
    nested={
        "dataset": DATASETS,
        "augment": AUGMENT,
        # Nobody tells these which part they are: each has a node of its own.
        **dict.fromkeys(("train", "val", "test"), replace(DATASETS, not_its=("_args_", "root", "download"))),
        "": PARTS,
    },
)
LOSSES = Role(nn.Module, packages=(*own_folders("tasks"), "torch.nn.modules"), listed="loss", nested={"": PARTS})
METRICS = Role(
    Metric,
    packages=("torchmetrics.classification", "torchmetrics.regression", *own_folders("tasks")),
    names=("torchmetrics.text.Perplexity",),
    listed="metric",
)
METRICS.nested[""] = METRICS
TASKS = Role(
    L.LightningModule,
    packages=("leyden.tasks", *own_folders("tasks")),
    listed="task",
    is_partial=False,
    not_its=("_args_",),
    nested={"loss": LOSSES, "metrics": METRICS, "": PARTS},
)
OPTIMIZERS = Role(
    torch.optim.Optimizer,
    packages=("torch.optim", *own_folders("optimizers")),
    listed="optimizer",
    is_partial=True,
    not_its=("_args_", "params"),
    nested={"": PARTS},
)
SCHEDULERS = Role(
    LRScheduler,
    packages=("torch.optim.lr_scheduler", *own_folders("optimizers")),
    listed="scheduler",
    is_partial=True,
    not_its=("_args_", "optimizer"),
    nested={"": PARTS},
)
# Callbacks of Lightning that write nowhere but to the run's logger.
LIGHTNING_CALLBACKS = (
    "DeviceStatsMonitor",
    "EarlyStopping",
    "EMAWeightAveraging",
    "GradientAccumulationScheduler",
    "LearningRateMonitor",
    "ModelSummary",
    "RichModelSummary",
    "RichProgressBar",
    "StochasticWeightAveraging",
    "Timer",
    "TQDMProgressBar",
)
CALLBACK = Role(
    L.Callback,
    packages=("leyden.callbacks", "leyden.pictures", *own_folders("callbacks")),
    names=(
        "leyden.sweep.pruning.Pruning",
        *(f"lightning.pytorch.callbacks.{name}" for name in LIGHTNING_CALLBACKS),
    ),
    listed="callback",
    is_partial=False,
    not_its=("_args_",),
    nested={
        "pruner": Role(
            object,
            packages=(),
            names=("optuna.pruners.HyperbandPruner", "optuna.pruners.MedianPruner"),
            listed="part",
        ),
        "": PARTS,
    },
)
# A group of callbacks, by names that somebody chose.
CALLBACKS = Role(L.Callback, packages=(), nested={"": CALLBACK})
# The trainer is Lightning's, of plain values; none of them names a place, and what the program makes is not theirs.
TRAINERS = Role(
    L.Trainer,
    packages=(),
    names=("lightning.pytorch.Trainer",),
    is_partial=False,
    not_its=("_args_", "default_root_dir", "logger", "callbacks", "plugins", "model_registry"),
)
# The role of each part that a run is made of.
ROLES = {
    "model": NETWORKS,
    "data": DATA,
    "task": TASKS,
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "callbacks": CALLBACKS,
    "trainer": TRAINERS,
}
# The keys of trust.yaml.
LISTS = (
    *("model", "dataset", "transform", "data", "task", "loss", "metric", "part"),
    *("optimizer", "scheduler", "callback"),
)
# Functions that make networks are those of torchvision's registry for images; with weights they would fetch them.
BUILDERS = frozenset(
    map(torchvision.models.get_model_builder, torchvision.models.list_models(module=torchvision.models))
)
# Losses as functions: those of torch.
FUNCTIONS = frozenset(
    value
    for name, value in vars(torch.nn.functional).items()
    if inspect.isfunction(value) and (name.endswith("_loss") or "cross_entropy" in name)
)
# What a trainer takes from it: plain values that change a metric.
TRAINER = ("precision", "limit_test_batches", "deterministic")

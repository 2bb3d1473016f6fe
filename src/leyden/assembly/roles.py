"""What may be made for each part of a configuration that can come from anybody."""

import inspect
from dataclasses import dataclass, field, replace
from typing import Any, get_origin

import lightning as L
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn
from torch.utils.data import Dataset
from torchmetrics import Metric

from leyden.config.paths import SRC, own_folders, own_packages


@dataclass(frozen=True)
class Role:
    """What may be made for a node of the configuration.

    Args:
        base: Class that what is made is an instance of.
        packages: Its class is defined in or below one of these.
        names: Further classes, one by one.
        is_partial: Whether the node must have `_partial_: true`: then the program calls what is made, with arguments
            of its own. None: as it likes.
        not_its: Keys that are the program's to give.
        nested: Roles of nodes below it, by their key; an empty key stands for any.
    """

    base: type
    packages: tuple[str, ...]
    names: tuple[str, ...] = ()
    is_partial: bool | None = None
    not_its: tuple[str, ...] = ()
    nested: dict[str, "Role"] = field(default_factory=dict)

    def is_class(self, made: Any) -> bool:
        """Whether something is a class whose instances can play this role."""
        # To Python 3.10, `tuple[int]` is a class, too.
        return inspect.isclass(made) and get_origin(made) is None and issubclass(made, self.base)


def _listed(role: str) -> tuple[str, ...]:
    """What the project's owner allows for a role, in the `trust.yaml` of their packages."""
    names: list[str] = []
    for package in own_packages():
        if (path := SRC / package / "trust.yaml").exists():
            listed: Any = OmegaConf.load(path)
            names += map(str, listed.get(role) or ())
    return tuple(names)


# A class may load, write or fetch nothing when it is made, whatever its arguments: the test of
# this list tries all of them.
NETWORKS = Role(nn.Module, packages=(*own_folders("models"), "torch.nn.modules"), names=_listed("model"))
NETWORKS.nested[""] = NETWORKS
TRANSFORMS = Role(object, packages=(), names=_listed("transform"))
TRANSFORMS.nested[""] = TRANSFORMS
DATASETS = Role(
    Dataset,
    packages=own_folders("data"),
    names=(
        *("leyden.data.table.Table", "leyden.data.text.Text"),
        *(f"torchvision.datasets.{name}" for name in ("KMNIST", "QMNIST", "CIFAR10", "CIFAR100")),
        *_listed("dataset"),
    ),
    is_partial=True,
    not_its=("_args_", "root", "train", "download"),
    nested=dict.fromkeys(("transform", "target_transform"), TRANSFORMS),
)
DATA = Role(
    L.LightningDataModule,
    packages=(*own_folders("data"), "leyden.data"),
    names=_listed("data"),
    is_partial=False,
    not_its=("_args_",),
    nested={
        "dataset": DATASETS,
        # Nobody tells these which part they are: each has a node of its own.
        **dict.fromkeys(("train", "val", "test"), replace(DATASETS, not_its=("_args_", "root", "download"))),
    },
)
LOSSES = Role(nn.Module, packages=(*own_folders("tasks"), "torch.nn.modules"), names=_listed("loss"))
METRICS = Role(
    Metric,
    packages=("torchmetrics.classification", "torchmetrics.regression", *own_folders("tasks")),
    names=("torchmetrics.text.Perplexity", *_listed("metric")),
)
METRICS.nested[""] = METRICS
TASKS = Role(
    L.LightningModule,
    packages=("leyden.tasks", *own_folders("tasks")),
    names=_listed("task"),
    is_partial=False,
    not_its=("_args_",),
    nested={"loss": LOSSES, "metrics": METRICS},
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

"""Roles: the classes that each part of an untrusted configuration may instantiate."""

import contextlib
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
from leyden.config.paths import CONF, SRC, own_folders, own_packages
from leyden.config.values import leaves
from leyden.data.table import Table
from leyden.data.text import Text
from leyden.data.transforms import Augment


@dataclass(frozen=True)
class Role:
    """The classes that a node of an untrusted configuration may instantiate.

    Args:
        base: Base class of all allowed classes.
        packages: Packages and modules that allowed classes are defined in, at any depth.
        names: Dotted names of further allowed classes.
        trust_key: Key of `trust.yaml` under which the project's owner allows more classes; empty for none.
        is_partial: True if the node must have `_partial_: true` (the program calls the result later, with further
            arguments), False if it must not, None if both are allowed.
        reserved_keys: Keys that only the program may set.
        nested: Roles of the nodes below, by key; the empty key is for all other keys.
    """

    base: type
    packages: tuple[str, ...]
    names: tuple[str, ...] = ()
    trust_key: str = ""
    is_partial: bool | None = None
    reserved_keys: tuple[str, ...] = ()
    nested: dict[str, "Role"] = field(default_factory=dict)

    def is_class(self, kind: Any) -> bool:
        """Return whether an object is a subclass of the role's base class."""
        # In Python 3.10, `inspect.isclass(tuple[int])` is true.
        return inspect.isclass(kind) and get_origin(kind) is None and issubclass(kind, self.base)

    @property
    def all_names(self) -> tuple[str, ...]:
        """The dotted names of classes allowed one by one, including those in `trust.yaml`.

        Raises:
            UserError: A `trust.yaml` is invalid.
        """
        return (*self.names, *allowed_by_owner().get(self.trust_key, ()))


def dotted_name(made: type) -> str:
    """Return the dotted name of a class, as in a `_target_`."""
    return f"{made.__module__}.{made.__qualname__}"


@functools.cache
def allowed_by_owner() -> dict[str, tuple[str, ...]]:
    """Return the names in the `trust.yaml` of the project's packages, by key.

    Raises:
        UserError: A file can't be read, or is not a mapping from known keys to lists of names.
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
        if not isinstance(content, dict) or (unknown := [key for key in content if key not in TRUST_KEYS]):
            what = f"{unknown[0]}: no such role" if isinstance(content, dict) else "is not a mapping"
            raise UserError(f"{path}: {what}; the keys are {', '.join(TRUST_KEYS)}")
        for role, names in content.items():
            if not isinstance(names or [], list) or not all(isinstance(name, str) for name in names or []):
                raise UserError(
                    f"{path}: {role}: {names}: must be a list of dotted names, such as [timm.models.resnet.ResNet]"
                )
            found[role] = (*found.get(role, ()), *(names or []))
    return found


@functools.cache
def modules_in_conf() -> tuple[str, ...]:
    """Return the modules of the project's own packages that a `_target_` in the project's `conf/` names.

    What an owner's configuration uses may be used, if it suits its role, wherever in the package it is defined.
    """
    found = set()
    for path in CONF.rglob("*.yaml"):
        with contextlib.suppress(yaml.YAMLError, OSError, ValueError):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            found |= {str(value) for keys, value in leaves(content) if keys and keys[-1] == "_target_"}
    own = own_packages()
    return tuple(sorted({name.rpartition(".")[0] for name in found if name.partition(".")[0] in own}))


# An allowed class must not load, write or download anything when instantiated, whatever its arguments.
# tests/assembly/test_trust.py instantiates all of them.
NETWORKS = Role(nn.Module, packages=(*own_folders("models"), "torch.nn.modules"), trust_key="model")
NETWORKS.nested[""] = NETWORKS
# Any other object that is an argument, such as a tokenizer or a task's teacher: a module, or a class in
# `trust.yaml`.
PARTS = Role(
    nn.Module, packages=(*own_folders("models"), *own_folders("tasks"), "torch.nn.modules"), trust_key="part"
)
PARTS.nested[""] = PARTS
TRANSFORMS = Role(object, packages=(), trust_key="transform")
TRANSFORMS.nested[""] = TRANSFORMS
DATASETS = Role(
    Dataset,
    packages=own_folders("data"),
    names=(
        *map(dotted_name, (Table, Text)),
        *(f"torchvision.datasets.{name}" for name in ("KMNIST", "QMNIST", "CIFAR10", "CIFAR100")),
    ),
    trust_key="dataset",
    is_partial=True,
    reserved_keys=("_args_", "root", "train", "download"),
    nested={"transform": TRANSFORMS, "target_transform": TRANSFORMS, "": PARTS},
)
# Augmentations: classes whose instances are called with a batch of training images.
AUGMENT = Role(
    object,
    packages=(),
    names=(dotted_name(Augment),),
    trust_key="transform",
    nested={"": Role(nn.Module, packages=("torchvision.transforms.v2",), trust_key="transform")},
)
DATA = Role(
    L.LightningDataModule,
    packages=(*own_folders("data"), "leyden.data"),
    trust_key="data",
    is_partial=False,
    reserved_keys=("_args_",),
    nested={
        "dataset": DATASETS,
        "augment": AUGMENT,
        # Each split of a streamed data set has a node of its own, so these may set `train`.
        **dict.fromkeys(("train", "val", "test"), replace(DATASETS, reserved_keys=("_args_", "root", "download"))),
        "": PARTS,
    },
)
LOSSES = Role(nn.Module, packages=(*own_folders("tasks"), "torch.nn.modules"), trust_key="loss", nested={"": PARTS})
METRICS = Role(
    Metric,
    packages=("torchmetrics.classification", "torchmetrics.regression", *own_folders("tasks")),
    names=("torchmetrics.text.Perplexity",),
    trust_key="metric",
)
METRICS.nested[""] = METRICS
TASKS = Role(
    L.LightningModule,
    packages=("leyden.tasks", *own_folders("tasks")),
    trust_key="task",
    is_partial=False,
    reserved_keys=("_args_",),
    nested={"loss": LOSSES, "metrics": METRICS, "": PARTS},
)
OPTIMIZERS = Role(
    torch.optim.Optimizer,
    packages=("torch.optim", *own_folders("optimizers")),
    trust_key="optimizer",
    is_partial=True,
    reserved_keys=("_args_", "params"),
    nested={"": PARTS},
)
SCHEDULERS = Role(
    LRScheduler,
    packages=("torch.optim.lr_scheduler", *own_folders("optimizers")),
    trust_key="scheduler",
    is_partial=True,
    reserved_keys=("_args_", "optimizer"),
    nested={"": PARTS},
)
# Lightning's callbacks that write only to the run's loggers.
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
    trust_key="callback",
    is_partial=False,
    reserved_keys=("_args_",),
    nested={
        "pruner": Role(
            object,
            packages=(),
            names=("optuna.pruners.HyperbandPruner", "optuna.pruners.MedianPruner"),
            trust_key="part",
        ),
        "": PARTS,
    },
)
# The group of callbacks, whose keys are arbitrary names.
CALLBACKS = Role(L.Callback, packages=(), nested={"": CALLBACK})
# Lightning's trainer with plain values; keys that name a path, or that the program sets, are not allowed.
TRAINERS = Role(
    L.Trainer,
    packages=(),
    names=("lightning.pytorch.Trainer",),
    is_partial=False,
    reserved_keys=("_args_", "default_root_dir", "logger", "callbacks", "plugins", "model_registry"),
)
# The role of each part of a run.
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
TRUST_KEYS = (
    *("model", "dataset", "transform", "data", "task", "loss", "metric", "part"),
    *("optimizer", "scheduler", "callback"),
)
# torchvision's registered builders of image networks; with an argument such as `weights`, they download weights.
NETWORK_BUILDERS = frozenset(
    map(torchvision.models.get_model_builder, torchvision.models.list_models(module=torchvision.models))
)
# Losses of `torch.nn.functional`.
LOSS_FUNCTIONS = frozenset(
    value
    for name, value in vars(torch.nn.functional).items()
    if inspect.isfunction(value) and (name.endswith("_loss") or "cross_entropy" in name)
)
# Settings of the trainer that evaluation takes from a run: plain values that change a metric.
TRAINER_KEYS = ("precision", "limit_test_batches", "deterministic")

"""What can stand at each place of a configuration: classes by the role that they play, and what the program gives them."""

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import hydra
import lightning as L
import yaml
from hydra.plugins.plugin import Plugin
from lightning.pytorch.loggers import Logger
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.assembly import roles
from leyden.assembly.roles import Role
from leyden.config.paths import CONF, own_folders
from leyden.config.terminal import warn
from leyden.data.facts import Facts

Groups = Mapping[str, Mapping[str, Any]]
FACTS = tuple(sorted(Facts().lacking))
# What `assembly/` gives beside facts; a configuration that sets one of these is refused.
TRAINERS = (
    *("callbacks", "plugins", "logger", "default_root_dir", "use_distributed_sampler"),
    *("enable_progress_bar", "num_sanity_val_steps", "enable_model_summary"),
)


@dataclass(frozen=True)
class Place:
    """A key of the configuration below which something is made.

    Args:
        role: What is made.
        given: Arguments that the program gives.
        named: Whether there are several, each below a name of its own.
    """

    role: Role
    given: tuple[str, ...] = ()
    named: bool = False


PLACES = {
    "data": Place(roles.DATA),
    "data.augment": Place(Role(object, packages=("leyden.data.augment",))),
    "model": Place(roles.NETWORKS, FACTS),
    "task": Place(roles.TASKS, (*FACTS, "network", "optimizer", "scheduler")),
    "task.metrics": Place(roles.METRICS, FACTS, named=True),
    "optimizer": Place(Role(Optimizer, packages=("torch.optim", *own_folders("optimizers"))), ("params",)),
    "scheduler": Place(
        Role(LRScheduler, packages=("torch.optim.lr_scheduler", *own_folders("schedulers"))), ("optimizer",)
    ),
    "trainer": Place(Role(L.Trainer, packages=("lightning.pytorch.trainer.trainer",)), TRAINERS),
    "callbacks": Place(
        Role(
            L.Callback,
            packages=(
                "leyden.callbacks",
                "leyden.sweep.pruning",
                "lightning.pytorch.callbacks",
                *own_folders("callbacks"),
            ),
            nested={"pruner": Role(BasePruner, packages=("optuna.pruners",))},
        ),
        FACTS,
        named=True,
    ),
    "logger": Place(
        Role(Logger, packages=("leyden.loggers", "lightning.pytorch.loggers", *own_folders("loggers"))),
        ("save_dir",),
        named=True,
    ),
    "hydra.launcher": Place(Role(Plugin, packages=("hydra_plugins.leyden_launchers",))),
    "hydra.sweeper": Place(Role(Plugin, packages=("hydra_plugins.leyden_sweepers",))),
    "hydra.sweeper.sampler": Place(Role(BaseSampler, packages=("optuna.samplers",))),
}


def known(folder: str, role: Role) -> dict[str, Any]:
    """What is known to play a role: the classes of its packages, and what the files in a folder of `conf/` name."""
    found: dict[str, Any] = {}
    for name in (*role.names, *_targets(folder)):
        made = find(name)
        if role.is_class(made) or inspect.isroutine(made):
            found[name] = made
    for package in role.packages:
        for module in _modules(package):
            for name, made in vars(module).items():
                if (
                    role.is_class(made)
                    and made is not role.base
                    and made.__module__.startswith(package)
                    and not (name.startswith("_") or inspect.isabstract(made))
                ):
                    found.setdefault(next(iter(aliases(made)), f"{module.__name__}.{name}"), made)
    return found


def aliases(made: Any) -> list[str]:
    """The dotted names of a class or function, the shortest first: `torch.optim.Adam`, `torch.optim.adam.Adam`."""
    name, parts = made.__name__, made.__module__.split(".")
    packages = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return [f"{each}.{name}" for each in packages if vars(sys.modules[each]).get(name) is made]


@functools.cache
def _targets(folder: str) -> list[str]:
    """All values of `_target_` in the files of a folder."""
    texts = [path.read_text(encoding="utf-8") for path in (CONF / folder).rglob("*.yaml")]
    return sorted({name for text in texts for name in re.findall(r"^[^#\n]*_target_: *([\w.]+)", text, re.M)})


def find(name: str) -> Any:
    """What a dotted name stands for; None: nothing."""
    try:
        return hydra.utils.get_object(name)
    except (ImportError, ValueError):
        return None


def _modules(package: str) -> Iterator[Any]:
    """A package and all modules below it; one that can't be imported is somebody's work in progress."""
    names = [package]
    for name in names:
        try:
            yield (module := importlib.import_module(name))
        except Exception as error:  # any code can stand there
            warn(f"{name} is left out: {error}")
            continue
        if name == package:
            names += [each.name for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{package}.")]


def choices() -> dict[str, dict[str, Any]]:
    """The files of each group of `conf/` by its folder: what each holds, with its package as `@package`."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(CONF.glob("*/**/*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        text = path.read_text(encoding="utf-8")
        try:
            held = dict(yaml.safe_load(text) or {})
        except (yaml.YAMLError, TypeError, ValueError) as error:
            warn(f"{path.relative_to(CONF)} is left out: {' '.join(str(error).split())}")
            continue
        found.setdefault(group, {})[path.stem] = {**held, "@package": package_of(text, group)}
    return found


def package_of(text: str, group: str) -> str:
    """Where the keys of a file land, by its text and its group; empty for the root."""
    header = re.match(r"# *@package +(\S+)", text)
    package = header[1] if header else group.replace("/", ".")
    return "" if package == "_global_" else package

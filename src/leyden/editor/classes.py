"""Classes that can stand at each place of a configuration, and their arguments as JSON schemas."""

import collections.abc
import contextlib
import functools
import importlib
import inspect
import numbers
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping
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
from leyden.assembly.instantiate import signature
from leyden.assembly.roles import Role, dotted_name
from leyden.config.paths import CONF, own_folders
from leyden.config.terminal import warn
from leyden.config.values import leaves
from leyden.data.facts import Facts
from leyden.data.transforms import Augment

Schema = dict[str, Any]

# An interpolation, or a value that is still to be given: both can stand for anything.
LATER: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
PLAIN: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def schema_of(made: Any, node: Schema, given: Collection[str], nested: Mapping[str, Schema]) -> Schema:
    """The schema of a node whose `_target_` is a class or function.

    Other keys are errors, unless its constructor takes any: then those of the bases are known, too. Where it hands
    the rest on to a class of the engine, that is known to take no others.

    Args:
        made: The class or function.
        node: Schema of a node that makes something, for arguments that are no plain values.
        given: Arguments that the program gives, which are no keys.
        nested: Schemas of such nodes for arguments of these names, in place of `node`.

    Example:
        >>> def sized(size: int, *, names: list[str] | None = None): ...
        >>> schema_of(sized, {}, (), {})["properties"]["size"]["anyOf"][0]
        {'type': 'integer'}
    """
    properties: Schema = {}
    rest: Any = True
    for part in inspect.getmro(made) if inspect.isclass(made) else (made,):
        try:
            parameters = signature(part).parameters
        except (TypeError, ValueError):  # of a class that is written in C
            break
        told, hints = _told(part), _hints(part)
        for name, parameter in parameters.items():
            if parameter.kind not in VARIADIC and name not in given:
                schema = value(hints.get(name, Any), nested.get(name, node), parameter.default)
                if name in told:
                    schema["description"] = told[name]
                properties.setdefault(name, schema)
        keywords = [name for name, each in parameters.items() if each.kind == each.VAR_KEYWORD]
        if not keywords:
            if part is made or part.__module__.startswith("leyden."):
                rest = False
            break
        if part is made:
            rest = value(hints.get(keywords[0], Any), node)
    first = (inspect.getdoc(made) or "").split("\n\n")[0]
    return {
        "description": " ".join(first.split()),
        "properties": properties,
        "patternProperties": {"^(_.*_|defaults)$": {}},
        "additionalProperties": rest,
    }


def needed(made: Any, given: Collection[str]) -> list[str]:
    """Arguments of a class or function that a configuration must have."""
    try:
        parameters = signature(made).parameters.items()
    except (TypeError, ValueError):
        return []
    return [
        n for n, each in parameters if each.default is each.empty and each.kind not in VARIADIC and n not in given
    ]


def value(hint: Any, node: Schema, default: Any = inspect.Parameter.empty) -> Schema:
    """The schema of a value of a type, with its default if there is one; an interpolation can stand for it."""
    kinds = list(_kinds(hint, node))
    if {} in kinds:
        schema: Schema = {"if": {"type": "object", "required": ["_target_"]}, "then": node}
    else:
        kinds += [{"type": "null"}] if default is None else []
        schema = {"anyOf": [*(kind for n, kind in enumerate(kinds) if kind not in kinds[:n]), LATER]}
    return {**schema, "default": default} if type(default) in PLAIN and default is not None else schema


def _kinds(hint: Any, node: Schema) -> Iterator[Schema]:
    """The schemas of the types that a hint allows; an empty one stands for anything."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    base = origin or hint
    if hint in PLAIN:
        yield {"type": PLAIN[hint]}
    elif base is typing.Literal:
        yield {"enum": list(parts)}
    elif base in (typing.Union, types.UnionType):
        for part in parts:
            yield from _kinds(part, node)
    elif base is typing.Annotated:
        yield from _kinds(parts[0], node)
    elif base is Any or not inspect.isclass(base):  # a type variable, a name that is known to a type checker only
        yield {}
    elif issubclass(base, numbers.Number):
        yield {"type": "number"}
    elif issubclass(base, collections.abc.Mapping):
        yield {"type": "object", "additionalProperties": value(parts[1], node) if len(parts) == 2 else {}}
    elif issubclass(base, list | tuple | set) or base in (collections.abc.Sequence, collections.abc.Iterable):
        items = [part for part in parts if part is not ...]
        yield {"type": "array", "items": value(typing.Union[tuple(items)], node) if items else {}}  # noqa: UP007
    else:
        if hasattr(base, "__fspath__"):
            yield {"type": "string"}
        yield node


def _hints(made: Any) -> dict[str, Any]:
    """The types of the arguments; one that names what only a type checker imports is left out."""
    function = inspect.unwrap(made.__init__ if inspect.isclass(made) else made)
    hints: dict[str, Any] = {}
    annotated = {name: each.annotation for name, each in signature(function).parameters.items()}
    for name, hint in annotated.items():
        with contextlib.suppress(Exception):  # any code can stand in a hint
            if hint is not inspect.Parameter.empty:
                hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
    return hints


def _told(made: Any) -> dict[str, str]:
    """What the section "Args:" of a docstring says of each argument."""
    told: dict[str, str] = {}
    for doc in (made.__doc__, made.__init__.__doc__ if inspect.isclass(made) else None):
        for section in re.findall(r"^Args:\n((?: .*\n|\n)+)", inspect.cleandoc(doc or "") + "\n", re.M):
            indent = len(section) - len(section.lstrip(" "))
            entry = rf"^ {{{indent}}}\*{{0,2}}(\w+)(?: *\(.*?\))?: *(.*\n(?: {{{indent + 1},}}.*\n|\n)*)"
            told |= {name: " ".join(text.split()) for name, text in re.findall(entry, section, re.M)}
    return told


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
    "data.augment": Place(Role(object, packages=(), names=(dotted_name(Augment),))),
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
                "leyden.pictures",
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
    """Return all values of `_target_` in the files of a folder; a file that is no YAML has none."""
    found = set()
    for path in (CONF / folder).rglob("*.yaml"):
        with contextlib.suppress(yaml.YAMLError):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            found |= {value for keys, value in leaves(content) if keys and keys[-1] == "_target_"}
    return sorted(name for name in found if isinstance(name, str))


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


def group_files() -> dict[str, dict[str, Any]]:
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

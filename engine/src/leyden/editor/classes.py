"""Classes that each part of a configuration can name, and JSON schemas of their arguments."""

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
from omegaconf import MISSING
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from leyden.assembly import roles
from leyden.assembly.instantiate import signature
from leyden.assembly.roles import Role, dotted_name
from leyden.config.paths import conf_files, own_folders
from leyden.config.terminal import warn
from leyden.config.values import leaves
from leyden.data.facts import Facts
from leyden.data.transforms import Augment

Schema = dict[str, Any]

# An interpolation or a mandatory value (`???`), which is valid for any type.
LATER: Schema = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
PLAIN: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def schema_of(target: Any, node: Schema, given: Collection[str], nested: Mapping[str, Schema]) -> Schema:
    """Return the schema of a node whose `_target_` is a class or function.

    Unknown keys are errors, unless the constructor has `**kwargs`; then the arguments of its base classes are
    added. If the last of these is a class of `leyden` without `**kwargs`, unknown keys are errors again.

    Args:
        target: The class or function.
        node: Schema of a node with a `_target_`, for arguments that are not plain values.
        given: Arguments that the program passes, which can't be keys.
        nested: Schemas that replace `node` for arguments with these names.

    Example:
        >>> def sized(size: int, *, names: list[str] | None = None): ...
        >>> schema_of(sized, {}, (), {})["properties"]["size"]["anyOf"][0]
        {'type': 'integer'}
    """
    properties: Schema = {}
    additional: Any = True
    for part in inspect.getmro(target) if inspect.isclass(target) else (target,):
        try:
            parameters = signature(part).parameters
        except (TypeError, ValueError):  # a class written in C
            break
        docs, hints = _argument_docs(part), _argument_types(part)
        for name, parameter in parameters.items():
            if parameter.kind not in VARIADIC and name not in given:
                schema = value_schema(hints.get(name, Any), nested.get(name, node), parameter.default)
                if name in docs:
                    schema["description"] = docs[name]
                properties.setdefault(name, schema)
        keywords = [name for name, each in parameters.items() if each.kind == each.VAR_KEYWORD]
        if not keywords:
            if part is target or part.__module__.startswith("leyden."):
                additional = False
            break
        if part is target:
            additional = value_schema(hints.get(keywords[0], Any), node)
    first = (inspect.getdoc(target) or "").split("\n\n")[0]
    return {
        "description": " ".join(first.split()),
        "properties": properties,
        "patternProperties": {"^(_.*_|defaults)$": {}},
        "additionalProperties": additional,
    }


def required_arguments(target: Any, given: Collection[str]) -> list[str]:
    """Return the arguments of a class or function that a configuration must set."""
    try:
        parameters = signature(target).parameters.items()
    except (TypeError, ValueError):
        return []
    return [
        n for n, each in parameters if each.default is each.empty and each.kind not in VARIADIC and n not in given
    ]


def value_schema(hint: Any, node: Schema, default: Any = inspect.Parameter.empty) -> Schema:
    """Return the schema of a value with a type hint, with its default if any; interpolations are allowed."""
    types_of_hint = list(_type_schemas(hint, node))
    if {} in types_of_hint:
        schema: Schema = {"if": {"type": "object", "required": ["_target_"]}, "then": node}
    else:
        types_of_hint += [{"type": "null"}] if default is None else []
        distinct = [each for n, each in enumerate(types_of_hint) if each not in types_of_hint[:n]]
        schema = {"anyOf": [*distinct, LATER]}
    return {**schema, "default": default} if type(default) in PLAIN and default is not None else schema


def _type_schemas(hint: Any, node: Schema) -> Iterator[Schema]:
    """Yield the schemas of the types that a hint allows; an empty schema allows anything."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    base = origin or hint
    if hint in PLAIN:
        yield {"type": PLAIN[hint]}
    elif base is typing.Literal:
        yield {"enum": list(parts)}
    elif base in (typing.Union, types.UnionType):
        for part in parts:
            yield from _type_schemas(part, node)
    elif base is typing.Annotated:
        yield from _type_schemas(parts[0], node)
    elif base is Any or not inspect.isclass(base):  # a type variable, or a name that only type checkers know
        yield {}
    elif issubclass(base, numbers.Number):
        yield {"type": "number"}
    elif issubclass(base, collections.abc.Mapping):
        yield {"type": "object", "additionalProperties": value_schema(parts[1], node) if len(parts) == 2 else {}}
    elif issubclass(base, list | tuple | set) or base in (collections.abc.Sequence, collections.abc.Iterable):
        items = [part for part in parts if part is not ...]
        yield {"type": "array", "items": value_schema(typing.Union[tuple(items)], node) if items else {}}  # noqa: UP007
    else:
        if hasattr(base, "__fspath__"):
            yield {"type": "string"}
        yield node


def _argument_types(target: Any) -> dict[str, Any]:
    """Return the type hints of the arguments, without those that can't be evaluated."""
    function = inspect.unwrap(target.__init__ if inspect.isclass(target) else target)
    hints: dict[str, Any] = {}
    annotated = {name: each.annotation for name, each in signature(function).parameters.items()}
    for name, hint in annotated.items():
        with contextlib.suppress(Exception):  # a hint can be any code, or a name imported only for type checkers
            if hint is not inspect.Parameter.empty:
                hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
    return hints


def _argument_docs(target: Any) -> dict[str, str]:
    """Return the description of each argument in the docstring's section "Args:"."""
    docs: dict[str, str] = {}
    for doc in (target.__doc__, target.__init__.__doc__ if inspect.isclass(target) else None):
        for section in re.findall(r"^Args:\n((?: .*\n|\n)+)", inspect.cleandoc(doc or "") + "\n", re.M):
            indent = len(section) - len(section.lstrip(" "))
            entry = rf"^ {{{indent}}}\*{{0,2}}(\w+)(?: *\(.*?\))?: *(.*\n(?: {{{indent + 1},}}.*\n|\n)*)"
            docs |= {name: " ".join(text.split()) for name, text in re.findall(entry, section, re.M)}
    return docs


Groups = Mapping[str, Mapping[str, Any]]
FACTS = tuple(sorted(Facts().missing))
# Arguments of the Trainer that `assembly/` passes; a configuration that sets one of them is refused.
TRAINERS = (
    *("callbacks", "plugins", "logger", "default_root_dir", "use_distributed_sampler"),
    *("enable_progress_bar", "num_sanity_val_steps", "enable_model_summary"),
)


@dataclass(frozen=True)
class Place:
    """A key of the configuration whose node, or nodes, have a `_target_`.

    Args:
        role: Role of the classes and functions that can be named there.
        given: Arguments that the program passes.
        named: Whether the key has several nodes, each under a name.
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


def known_targets(folder: str, role: Role) -> dict[str, Any]:
    """Return a role's known classes and functions: in its packages, and named by files in a folder of `conf/`."""
    found: dict[str, Any] = {}
    for name in (*role.names, *_targets_in(folder)):
        target = find_target(name)
        if role.is_class(target) or inspect.isroutine(target):
            found[name] = target
    for package in role.packages:
        for module in _modules(package):
            for name, target in vars(module).items():
                if (
                    role.is_class(target)
                    and target is not role.base
                    and target.__module__.startswith(package)
                    and not (name.startswith("_") or inspect.isabstract(target))
                ):
                    found.setdefault(next(iter(aliases(target)), f"{module.__name__}.{name}"), target)
    return found


def aliases(target: Any) -> list[str]:
    """Return all dotted names of a target, shortest first: `torch.optim.Adam`, `torch.optim.adam.Adam`."""
    name, parts = target.__name__, target.__module__.split(".")
    packages = [".".join(parts[: n + 1]) for n in range(len(parts))]
    return [f"{each}.{name}" for each in packages if vars(sys.modules[each]).get(name) is target]


@functools.cache
def _targets_in(folder: str) -> list[str]:
    """Return all values of `_target_` in the YAML files of a folder in `conf/`; invalid files are skipped."""
    found = set()
    for _, path in conf_files(f"{folder}/**/*.yaml".lstrip("/")):
        with contextlib.suppress(yaml.YAMLError):
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            found |= {value for keys, value in leaves(content) if keys and keys[-1] == "_target_"}
    return sorted(name for name in found if isinstance(name, str))


def find_target(name: str) -> Any:
    """Return the object with a dotted name, or None if there is none."""
    if name == MISSING:
        return None
    try:
        return hydra.utils.get_object(name)
    except (ImportError, ValueError):
        return None


def _modules(package: str) -> Iterator[Any]:
    """Yield a package and all modules below it; warn about modules that can't be imported and skip them."""
    names = [package]
    for name in names:
        try:
            yield (module := importlib.import_module(name))
        except Exception as error:  # an imported module can raise anything
            warn(f"{name} is skipped: {error}")
            continue
        if name == package:
            names += [each.name for each in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{package}.")]


def group_files() -> dict[str, dict[str, Any]]:
    """Return the content of the files of each config group, with each file's package as `@package`."""
    found: dict[str, dict[str, Any]] = {}
    for name, path in conf_files("*/**/*.yaml"):
        group = name.parent.as_posix()
        text = path.read_text(encoding="utf-8")
        try:
            content = dict(yaml.safe_load(text) or {})
        except (yaml.YAMLError, TypeError, ValueError) as error:
            warn(f"{name} is skipped: {' '.join(str(error).split())}")
            continue
        found.setdefault(group, {})[path.stem] = {**content, "@package": package_of(text, group)}
    return found


def package_of(text: str, group: str) -> str:
    """Return the Hydra package of a config file, from its header or its group; empty for the root."""
    header = re.match(r"# *@package +(\S+)", text)
    package = header[1] if header else group.replace("/", ".")
    return "" if package == "_global_" else package

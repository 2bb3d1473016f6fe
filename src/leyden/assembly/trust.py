"""The configuration of a run directory, which can come from anybody: what its nodes may make depends on their role.

Evaluating a run makes its data, its network and its task, so these nodes alone are taken over; what it recorded of
callbacks, loggers, the optimizer and the trainer is not made. `reproduce` makes all but loggers, by the same roles.
"""

import contextlib
import functools
import importlib
import sys
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from leyden.assembly.roles import BUILDERS, DATA, FUNCTIONS, LOSSES, NETWORKS, PARTS, ROLES, TASKS, TRAINER, Role
from leyden.config.errors import UserError
from leyden.config.paths import own_packages
from leyden.config.terminal import warn
from leyden.data.facts import DOWNLOAD_ARGUMENTS
from leyden.run.directory import Run


def trusted_config(run: Run) -> DictConfig:
    """Return what evaluating a run needs of its configuration: `name`, `seed`, `model`, `data` without augmentation, `task`, `trainer`.

    Raises:
        UserError: A node names a target that its role does not allow; nothing of it was executed.
    """
    config = run.config
    try:
        return trusted(config)
    except UserError as error:
        raise UserError(f"{run.directory}/config.yaml: {error}") from error


def trusted(config: dict[str, Any]) -> DictConfig:
    """Return the same of a configuration.

    Raises:
        UserError: As above.
    """
    parts: dict[str, dict[str, Any]] = {}
    for key in ("model", "data", "task", "trainer"):
        if not isinstance(part := config.get(key), dict):
            raise UserError(f"{key} is missing")
        if key != "trainer" and "_target_" not in part:
            raise UserError(f"{key} has no _target_")
        parts[key] = part
    parts["data"] = {key: None if key == "augment" else value for key, value in parts["data"].items()}
    parts["trainer"] = {key: parts["trainer"][key] for key in TRAINER if parts["trainer"].get(key)}
    for key, role in (("model", NETWORKS), ("data", DATA), ("task", TASKS), ("trainer", None)):
        if problem := _problem(parts[key], key, role):
            raise UserError(problem.text + _instead(problem))
    if type(seed := config.get("seed")) is not int or seed < 0:
        raise UserError(f"seed={seed}: must be a whole number, 0 or larger")
    return OmegaConf.create({"name": config.get("name"), "seed": seed, "compile": False, **parts})


def problem_of_run(config: dict[str, Any]) -> str:
    """Return what a whole configuration names that no role allows; empty for nothing.

    Args:
        config: Of a run, without its logger and its places.
    """
    return next(filter(None, (problem_of(value, key, ROLES.get(key)) for key, value in config.items())), "")


def problem_of(node: Any, key: str, role: Role | None) -> str:
    """Return what is wrong with a node that has this role; empty for nothing.

    Args:
        node: Plain values.
        key: Of the node, for the message.
        role: None where nothing may be made.
    """
    problem = _problem(node, key, role)
    return problem.text if problem else ""


class Problem(NamedTuple):
    """A node that is refused.

    Args:
        text: Names the node, and why it is refused.
        target: What would be made, where the project's owner can allow that; else empty.
        listed: Key of `trust.yaml` under which it is allowed.
    """

    text: str
    target: str = ""
    listed: str = ""


def _problem(node: Any, key: str, role: Role | None) -> Problem | None:
    if isinstance(node, str):  # a stored configuration is resolved; an interpolation could make a target later
        return Problem(f"{key}={node} is refused: it holds an interpolation") if "${" in node else None
    if isinstance(node, list):
        return next(filter(None, (_problem(value, f"{key}[{n}]", role) for n, value in enumerate(node))), None)
    if not isinstance(node, dict):
        return None
    if "_target_" in node:
        why, can_be_listed = _why_not(node, role)
        if why:
            text = f"{key}._target_={node['_target_']} is refused: {why}"
            return Problem(text, node["_target_"], role.listed) if role and can_be_listed else Problem(text)
    for name, value in node.items():
        nested = role.nested.get(name, role.nested.get("")) if role else None
        if "${" in str(name):
            return Problem(f"{key}.{name} is refused: it holds an interpolation")
        if problem := _problem(value, f"{key}.{name}", nested):
            return problem
    return None


def _instead(problem: Problem) -> str:
    """Return what the project's owner does to allow what was refused; empty where nothing does."""
    if not problem.listed or not (packages := own_packages()):
        return ""
    return f"; if you trust it, list it in src/{packages[0]}/trust.yaml: `{problem.listed}: [{problem.target}]`"


def _why_not(node: dict[str, Any], role: Role | None) -> tuple[str, bool]:
    """Return why a target is refused, empty if it is not, and whether the project's owner can allow it by its name."""
    target = node["_target_"]
    if role is None:
        return "nothing may be made here", False
    if not isinstance(target, str):
        return "it is no name", False
    is_listed = target in role.all_names
    listed = tuple(name.rpartition(".")[0] for name in role.all_names)
    try:
        found = _find(target, _packages_of(target) if is_listed else (*role.packages, *listed))
    except (ImportError, AttributeError) as error:
        why = f"it can't be found, or its package is not allowed ({' '.join(str(error).split())})"
        return why, bool(role.listed) and not is_listed
    if keys := sorted({*role.not_its} & {*node}):
        return f"{' and '.join(keys)} can't be set here", False
    if role.is_partial not in (None, node.get("_partial_", False)):
        return f"_partial_ must be {str(role.is_partial).lower()}", False
    if (role is NETWORKS or role is PARTS) and any(found is builder for builder in BUILDERS):
        keys = [key for key in DOWNLOAD_ARGUMENTS if node.get(key)]
        if keys or "_args_" in node:
            return f"{' and '.join(keys) or '_args_'} can make it fetch weights", False
        return "", False
    if role is LOSSES and any(found is function for function in FUNCTIONS):
        return "", False
    if is_listed or any(found is _allowed(name) for name in role.all_names):
        return "", False
    if not role.is_class(found):
        return f"it is no class of {role.base.__name__}", bool(role.listed)
    # Where it is defined: `MODULE.math.sqrt` is a way to `math`, as modules give away what they import.
    module = found.__module__
    if any(module == name or module.startswith(f"{name}.") for name in role.packages):
        return "", False
    return "it is not on the list", bool(role.listed)


@functools.cache
def _allowed(name: str) -> Any:
    """The class of a name on a list; a name of the owner's that is not found allows nothing, and a line says so."""
    try:
        return _find(name, _packages_of(name))
    except (ImportError, AttributeError) as error:
        warn(f"trust.yaml: {name} can't be found ({' '.join(str(error).split())}); it allows nothing")
        return object()


def _packages_of(name: str) -> tuple[str, ...]:
    """Return all that a dotted name may lie in, the longest first: `a.B.make` can be a method of the class B of a."""
    parts = name.split(".")
    return tuple(".".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))


def _find(target: str, packages: tuple[str, ...]) -> Any:
    """Return what a dotted name stands for; a module is imported only if it is one of these packages, or below one."""
    parts = target.split(".")
    for number in range(len(parts), 0, -1):
        name = ".".join(parts[:number])
        if name not in sys.modules and any(name == each or name.startswith(f"{each}.") for each in packages):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(name)
        if name in sys.modules:
            return functools.reduce(getattr, parts[number:], sys.modules[name])
    raise ImportError(f"no module {parts[0]}")

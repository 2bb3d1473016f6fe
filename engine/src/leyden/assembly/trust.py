"""Checks of untrusted configurations: a run directory may come from a stranger.

The role of a node (`roles.py`) decides which classes it may instantiate. Evaluation instantiates only the data, the
network and the task of a run; its callbacks, loggers, optimizer and trainer are ignored. `reproduce` instantiates
all parts but loggers, under the same roles.
"""

import contextlib
import contextvars
import functools
import importlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from leyden.assembly.roles import (
    DATA,
    LOSS_FUNCTIONS,
    LOSSES,
    NETWORK_BUILDERS,
    NETWORKS,
    PARTS,
    ROLES,
    TASKS,
    TRAINER_KEYS,
    Role,
    modules_in_conf,
)
from leyden.config.errors import UserError
from leyden.config.paths import ROOT, SRC, own_packages
from leyden.config.terminal import warn
from leyden.data.facts import DOWNLOAD_ARGUMENTS
from leyden.exact.random_state import seeded
from leyden.run.directory import Run

_import_seed = contextvars.ContextVar("_import_seed", default=0)


@contextlib.contextmanager
def importing_for(seed: Any) -> Iterator[None]:
    """Context in which files draw the random numbers that they draw in a run with this seed when they are imported."""
    token = _import_seed.set(seed if type(seed) is int and seed >= 0 else 0)
    try:
        yield
    finally:
        _import_seed.reset(token)


def trusted_config(run: Run) -> DictConfig:
    """Return the part of a run's configuration that evaluation needs, checked.

    That is `name`, `seed`, `model`, `data` without augmentation, `task`, and some keys of `trainer`.

    Raises:
        UserError: A node names a target that its role does not allow; no code of it was executed.
    """
    config = run.config
    try:
        return trusted(config)
    except UserError as error:
        raise UserError(f"{run.directory}/config.yaml: {error}") from error


def trusted(config: dict[str, Any]) -> DictConfig:
    """Return the part of a configuration that evaluation needs, checked as in `trusted_config`.

    Raises:
        UserError: A node names a target that its role does not allow, or a part is missing.
    """
    parts: dict[str, dict[str, Any]] = {}
    for key in ("model", "data", "task", "trainer"):
        if not isinstance(part := config.get(key), dict):
            raise UserError(f"{key} is missing")
        if key in ("data", "task") and "_target_" not in part:
            raise UserError(f"{key} has no _target_")
        parts[key] = part
    parts["data"] = {key: None if key == "augment" else value for key, value in parts["data"].items()}
    parts["trainer"] = {key: parts["trainer"][key] for key in TRAINER_KEYS if parts["trainer"].get(key)}
    if type(seed := config.get("seed")) is not int or seed < 0:
        raise UserError(f"seed={seed}: must be a whole number, 0 or larger")
    with importing_for(seed):
        for key, role in (("model", NETWORKS), ("data", DATA), ("task", TASKS), ("trainer", None)):
            if problem := _problem(parts[key], key, role):
                raise UserError(problem.text + _advice(problem))
    return OmegaConf.create({"name": config.get("name"), "seed": seed, **parts})


def problem_of_run(config: dict[str, Any]) -> str:
    """Return the first problem in a whole configuration, as text; empty if all its nodes are allowed.

    Args:
        config: The configuration of a run, without loggers and paths.
    """
    return next(filter(None, (problem_of(value, key, ROLES.get(key)) for key, value in config.items())), "")


def problem_of(node: Any, key: str, role: Role | None) -> str:
    """Return the first problem in a node, as text; empty if its role allows the node.

    Args:
        node: The node as plain values.
        key: The node's key, for the message.
        role: The node's role; None if it may instantiate nothing.
    """
    problem = _problem(node, key, role)
    return problem.text if problem else ""


class Problem(NamedTuple):
    """A refused node.

    Args:
        text: The node and the reason.
        target: The refused target, if the project's owner can allow it in `trust.yaml`; else empty.
        trust_key: The key of `trust.yaml` to list it under.
    """

    text: str
    target: str = ""
    trust_key: str = ""


def _problem(node: Any, key: str, role: Role | None) -> Problem | None:
    if isinstance(node, str):  # an interpolation could resolve to a target later; stored configurations have none
        return Problem(f"{key}={node} is refused: it holds an interpolation") if "${" in node else None
    if isinstance(node, list):
        return next(filter(None, (_problem(value, f"{key}[{n}]", role) for n, value in enumerate(node))), None)
    if not isinstance(node, dict):
        return None
    if "_target_" in node:
        why, can_be_listed = _refusal_reason(node, role)
        if why:
            text = f"{key}._target_={node['_target_']} is refused: {why}"
            return Problem(text, node["_target_"], role.trust_key) if role and can_be_listed else Problem(text)
    for name, value in node.items():
        nested = role.nested.get(name, role.nested.get("")) if role else None
        if "${" in str(name):
            return Problem(f"{key}.{name} is refused: it holds an interpolation")
        if problem := _problem(value, f"{key}.{name}", nested):
            return problem
    return None


def _advice(problem: Problem) -> str:
    """Return the end of an error message that says how to allow a target; empty if it can't be allowed.

    The message names the `trust.yaml` of the class's own package; if that is none of the project's, the first one
    that exists, else the one of the project's first package.
    """
    if not problem.trust_key or not (packages := own_packages()):
        return ""
    of_class = problem.target.partition(".")[0]
    listing = [name for name in packages if (SRC / name / "trust.yaml").exists()]
    package = of_class if of_class in packages else [*listing, *packages][0]
    path = (SRC / package / "trust.yaml").relative_to(ROOT)
    return f"; if you trust it, list it in {path}: `{problem.trust_key}: [{problem.target}]`"


def _refusal_reason(node: dict[str, Any], role: Role | None) -> tuple[str, bool]:
    """Return why a target is refused (empty if it is allowed), and whether `trust.yaml` could allow it."""
    target = node["_target_"]
    if role is None:
        return "no object may be created here", False
    if not isinstance(target, str):
        return "it is not a name", False
    is_listed = target in role.all_names
    listed_packages = tuple(name.rpartition(".")[0] for name in role.all_names)
    packages = (*role.packages, *(modules_in_conf() if role.trust_key else ()))
    try:
        found = _import_target(target, _packages_of(target) if is_listed else (*packages, *listed_packages))
    except (ImportError, AttributeError) as error:
        why = f"it can't be found, or its package is not allowed ({' '.join(str(error).split())})"
        return why, bool(role.trust_key) and not is_listed
    if keys := sorted({*role.reserved_keys} & {*node}):
        return f"{' and '.join(keys)} can't be set here", False
    if role.is_partial not in (None, node.get("_partial_", False)):
        return f"_partial_ must be {str(role.is_partial).lower()}", False
    if (role is NETWORKS or role is PARTS) and any(found is builder for builder in NETWORK_BUILDERS):
        keys = [key for key in DOWNLOAD_ARGUMENTS if node.get(key)]
        if keys or "_args_" in node:
            return f"{' and '.join(keys) or '_args_'} can make it download weights", False
        return "", False
    if role is LOSSES and any(found is function for function in LOSS_FUNCTIONS):
        return "", False
    if is_listed:
        return "", False
    # The defining module counts: `MODULE.math.sqrt` would reach `math` through an import of MODULE.
    module = str(getattr(found, "__module__", ""))
    is_class = role.is_class(found)
    if is_class and any(module == name or module.startswith(f"{name}.") for name in packages):
        return "", False
    # Only listed names that may be this class are imported: a list can name packages that other runs don't need.
    own_name = getattr(found, "__name__", None)
    alike = (name for name in role.all_names if name.rpartition(".")[2] == own_name)
    if any(found is _allowed(name) for name in alike):
        return "", False
    reason = "it is not on the list" if is_class else f"it is not a subclass of {role.base.__name__}"
    return reason, bool(role.trust_key)


@functools.cache
def _allowed(name: str) -> Any:
    """Return the class of an allowed name; if it can't be imported, warn and return an object equal to no class."""
    try:
        return _import_target(name, _packages_of(name))
    except (ImportError, AttributeError) as error:
        warn(f"trust.yaml: {name} can't be found ({' '.join(str(error).split())}); it allows nothing")
        return object()


def _packages_of(name: str) -> tuple[str, ...]:
    """Return all prefixes of a dotted name, longest first: `a.B.make` may be a method of class B in module a."""
    parts = name.split(".")
    return tuple(".".join(parts[:number]) for number in range(len(parts) - 1, 0, -1))


def _import_target(target: str, packages: tuple[str, ...]) -> Any:
    """Return the object of a dotted name, importing a module only if it is in or below one of these packages."""
    parts = target.split(".")
    for number in range(len(parts), 0, -1):
        name = ".".join(parts[:number])
        if name not in sys.modules and any(name == each or name.startswith(f"{each}.") for each in packages):
            # With the random numbers that it would draw in the run (`leyden.training.start`).
            with (
                seeded(_import_seed.get(), f"import {target.rpartition('.')[0]}"),
                contextlib.suppress(ModuleNotFoundError),
            ):
                importlib.import_module(name)
        if name in sys.modules:
            return functools.reduce(getattr, parts[number:], sys.modules[name])
    raise ImportError(f"no module {parts[0]}")

"""Instantiation of configuration nodes, with facts and readable errors."""

import contextlib
import functools
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError, as_line, cause_of, require_packages
from leyden.config.hydra import call_target, targets
from leyden.exact.random_state import seeded

if sys.version_info >= (3, 14):
    from annotationlib import Format

REQUIRED = inspect.Parameter.empty
_FURTHER = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)  # *args and **kwargs


def callee_signature(callee: Any) -> inspect.Signature:
    """Return the signature of a class or function, even if its annotations can't be resolved.

    Annotations may name classes that are imported for type checkers only.
    """
    if sys.version_info >= (3, 14):  # evaluates annotations lazily
        return inspect.signature(callee, annotation_format=Format.FORWARDREF)
    return inspect.signature(callee)


def arguments(callee: Any) -> dict[str, Any]:
    """Return a callable's arguments with their defaults, `REQUIRED` for none.

    Also those that base classes get by `**kwargs`.

    Example:
        >>> def net(hidden, optimizer="adam", *, scheduler=None, **further): ...
        >>> {name: default for name, default in arguments(net).items() if default is not REQUIRED}
        {'optimizer': 'adam', 'scheduler': None}
    """
    found: dict[str, Any] = {}
    parts = inspect.getmro(callee) if inspect.isclass(callee) else [callee]
    for part in parts:
        try:
            parameters = callee_signature(part).parameters.values()
        except ValueError:  # a class written in C has no signature
            break
        for each in parameters:
            if each.kind not in _FURTHER:
                # The default of a class counts before those of its base classes.
                found.setdefault(each.name, each.default)
        if all(each.kind != inspect.Parameter.VAR_KEYWORD for each in parameters):
            break
    return found


def import_targets(cfg: DictConfig) -> None:
    """Import the classes that a configuration names; errors are left to those who use the classes.

    The random numbers that a file draws when it is imported follow from the run's seed and the
    file's name.
    """
    for name in targets(cfg):
        with (
            seeded(cfg.seed, f"import {name.rpartition('.')[0]}"),
            contextlib.suppress(Exception, SystemExit),
        ):
            get_object(name)


def instantiate(
    node: DictConfig,
    key: str,
    facts: Mapping[str, Any] = MappingProxyType({}),
    *,
    without: Sequence[str] = (),
    **given: Any,
) -> Any:
    """Instantiate a node, with arguments that the program alone supplies.

    Args:
        node: A node with a `_target_`.
        key: The node's key, for error messages.
        facts: Optional arguments by name: the target receives those that its constructor names.
        without: Keys of the node to leave out.
        given: Arguments that the target always receives.

    Raises:
        UserError: The node is invalid, or sets an argument that the program supplies.
    """
    values = _resolved_values(node, key, (*without, *given))
    with user_errors(key, node):
        constructor: functools.partial[Any] = call_target(values, partial=True)
    named = {name: value for name, value in facts.items() if name in arguments(constructor.func)}
    for name in sorted({*given, *named} - {*without}):
        if name in node and not OmegaConf.is_missing(node, name):
            raise UserError(f"{key}.{name}={node[name]}: is passed by the program and can't be set")
    if node.get("_partial_") and not given:  # called later, such as a loss function
        return functools.partial(constructor, **named)
    with user_errors(key, node):
        return constructor(**named, **given)


def target(node: DictConfig, key: str) -> Any:
    """Return the class or function that a node names, without calling it."""
    with user_errors(key, node):
        return get_object(_target_name(node, key))


def _target_name(node: DictConfig, key: str) -> str:
    name = node.get("_target_")
    if not isinstance(name, str):
        raise UserError(f"{key}._target_={name}: must be the dotted name of a class or function")
    return name


def _resolved_values(node: DictConfig, key: str, without: Sequence[str]) -> dict[str, Any]:
    _target_name(node, key)
    for missing in sorted(OmegaConf.missing_keys(node)):
        name = missing.removeprefix(f"{key}.")
        if name.split(".")[0] not in without:
            raise UserError(f"{key}.{name}: is missing and must be set")
    values: Any = OmegaConf.to_container(node, resolve=True)
    return {name: value for name, value in values.items() if name not in without}


def check_lightning_kind(instance: Any, kind: type, key: str) -> None:
    """Check that an instantiated object is of the class of `lightning` that its key needs.

    Raises:
        UserError: The object is of another class. The message names the package `pytorch_lightning`
            if the class is from there, since its classes have the same names as those of
            `lightning`.
    """
    if isinstance(instance, kind):
        return
    name = type(instance).__name__
    packages = [base.__module__.partition(".")[0] for base in type(instance).__mro__]
    if "pytorch_lightning" in packages:
        raise UserError(
            f"{key}: {name} is a {kind.__name__} of the package pytorch_lightning, whose classes "
            "are not those of lightning; in its file, write `import lightning.pytorch as pl` (for "
            "an installed library see docs/tasks.md)"
        )
    raise UserError(f"{key}: creates a {name}; must be a {kind.__name__}")


def switched_on(group: DictConfig) -> list[tuple[str, DictConfig]]:
    """Return the name and node of each enabled part of a group; `NAME=null` disables one."""
    nodes = [(str(name), node) for name, node in group.items() if node is not None]
    for name, node in nodes:
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise UserError(f"{name}={node}: must have a _target_, or be null to be omitted")
    return nodes


def check_extra(node: DictConfig, key: str) -> None:
    """Check that the optional package named by a target's attribute `needs` is installed."""
    with user_errors(key, node):
        package = getattr(get_object(node["_target_"]), "needs", None)
    if package:
        require_packages([package], package, f"{key}: ")


def check_keys(node: DictConfig, key: str) -> None:
    """Check that a node's target accepts the node's keys, without instantiating it."""
    with user_errors(key, node):
        callee = get_object(node["_target_"])
        # Including keys whose value is missing.
        keys = [str(name) for name in node if not str(name).startswith("_")]
        callee_signature(callee).bind_partial(**dict.fromkeys(keys))


@contextlib.contextmanager
def user_errors(key: str, node: DictConfig | None = None) -> Iterator[None]:
    """Re-raise any error as a `UserError` of one line: key, message, and the user's line.

    Args:
        key: The part's key.
        node: The part's node, whose target's arguments are listed if one is unknown.
    """
    try:
        yield
    except UserError:
        raise
    except SystemExit as error:
        raise UserError(
            f"{key}: its code ends the process when it is imported or built ({as_line(error)})"
        ) from error
    except Exception as error:
        allowed = ""
        if node is not None and "unexpected keyword argument" in str(cause_of(error)):
            allowed = f"; it accepts {', '.join(sorted(arguments(get_object(node['_target_']))))}"
        raise UserError(f"{key}: {as_line(error)}{allowed}") from error

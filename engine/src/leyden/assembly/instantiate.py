"""Instantiation of configuration nodes, with facts and readable errors."""

import contextlib
import difflib
import functools
import importlib.util
import inspect
import itertools
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from leyden.config.errors import UserError, as_line, cause_of
from leyden.config.hydra import call_target
from leyden.config.values import targets
from leyden.exact.random_state import seeded

if sys.version_info >= (3, 14):
    from annotationlib import Format


def signature(callee: Any) -> inspect.Signature:
    """Return the signature of a class or function, even if its annotations can't be resolved.

    Annotations may name classes that are imported for type checkers only.
    """
    if sys.version_info >= (3, 14):  # evaluates annotations lazily
        return inspect.signature(callee, annotation_format=Format.FORWARDREF)
    return inspect.signature(callee)


def argument_names(callee: Any, *, needed: bool = False) -> set[str]:
    """Return the names of a callable's arguments, including those of base classes that receive its `**kwargs`.

    Args:
        callee: The class or function.
        needed: True for arguments without a default only.
    """
    parameters = itertools.chain.from_iterable(_parameters(callee))
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name for p in parameters if p.kind not in kinds and (not needed or p.default is p.empty)}


def open_arguments(callee: Any) -> set[str]:
    """Return the names of a callable's arguments that have no value of their own yet.

    These are the arguments of its signature without a default, or with None. Of arguments that a base class receives
    by `**kwargs`, only those without a default count.

    Example:
        >>> def net(hidden, optimizer="adam", scheduler=None): ...
        >>> sorted(open_arguments(net))
        ['hidden', 'scheduler']
    """
    own, *bases = [*_parameters(callee)] or [[]]
    names = {p.name for p in own if p.default is None}
    names |= {p.name for p in itertools.chain(own, *bases) if p.default is p.empty}
    # If a class and its base class have the same argument, only the default of the class counts.
    return (argument_names(callee) & names) - {p.name for p in own if p.default not in (None, p.empty)}


def takes_any(callee: Any) -> bool:
    """Return whether a callable, or the base class that receives its `**kwargs`, accepts any keyword."""
    *_, last = [[], *_parameters(callee)]
    return not last or any(parameter.kind == parameter.VAR_KEYWORD for parameter in last)


def _parameters(callee: Any) -> Iterator[list[inspect.Parameter]]:
    """Yield the parameters of a callable, then of its base classes, up to one that takes no `**kwargs`."""
    for part in inspect.getmro(callee) if inspect.isclass(callee) else [callee]:
        try:
            parameters = list(signature(part).parameters.values())
        except ValueError:  # a class written in C has no signature
            return
        yield parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            return


def import_targets(cfg: DictConfig) -> None:
    """Import the classes that a configuration names; errors are left to those who use the classes.

    The random numbers that a file draws when it is imported follow from the run's seed and the file's name.
    """
    for name in targets(cfg):
        with seeded(cfg.seed, f"import {name.rpartition('.')[0]}"), contextlib.suppress(Exception, SystemExit):
            get_object(name)


def instantiate(
    node: DictConfig,
    key: str,
    facts: Mapping[str, Any] = MappingProxyType({}),
    *,
    without: Sequence[str] = (),
    **given: Any,
) -> Any:
    """Instantiate a node, with arguments that the program supplies and the configuration must not set.

    Args:
        node: A node with a `_target_`.
        key: The node's key, for error messages.
        facts: Optional arguments by name: the target receives those that its constructor names.
        without: Keys of the node to leave out.
        given: Arguments that the target always receives.

    Raises:
        UserError: The node is invalid, or sets an argument that the program supplies.
    """
    for name in {*given} - {*without}:
        if name in node and not OmegaConf.is_missing(node, name):
            raise UserError(f"{key}.{name}={node[name]}: is passed by the program and can't be set")
    if not given and not facts:
        with user_errors(key, node):
            return call_target(_resolved_values(node, key, without))
    constructor = _constructor(node, key, without=(*without, *given))
    named = {name: value for name, value in facts.items() if name in argument_names(constructor.func)}
    if both := sorted({*named} & {*constructor.keywords}):
        raise UserError(f"{key}.{both[0]}={node[both[0]]}: is passed by the program and can't be set")
    if node.get("_partial_") and not given:  # called later, such as a loss function
        return functools.partial(constructor, **named)
    with user_errors(key, node, given={*named, *given, *without}):
        return constructor(**named, **given)


def target(node: DictConfig, key: str) -> Any:
    """Return the class or function that a node names, without instantiating it or the nodes below it."""
    with user_errors(key, node):
        return get_object(_target_name(node, key))


def _constructor(node: DictConfig, key: str, *, without: Sequence[str]) -> functools.partial[Any]:
    """Return a node's target, bound to the node's keys as arguments, except for those in `without`."""
    values = _resolved_values(node, key, without)
    with user_errors(key, node):
        constructor: functools.partial[Any] = call_target(values, partial=True)
    return constructor


def _target_name(node: DictConfig, key: str) -> str:
    name = node.get("_target_")
    if not isinstance(name, str):
        raise UserError(f"{key}._target_={name}: must be the dotted name of a class or function")
    return name


def _resolved_values(node: DictConfig, key: str, without: Sequence[str]) -> dict[str, Any]:
    _target_name(node, key)
    missing = sorted(name.removeprefix(f"{key}.") for name in OmegaConf.missing_keys(node))
    if missing := [name for name in missing if name.split(".")[0] not in without]:
        raise UserError(f"{key}.{missing[0]}: is missing and must be set")
    values: Any = OmegaConf.to_container(node, resolve=True)
    return {name: value for name, value in values.items() if name not in without}


def check_lightning_kind(instance: Any, kind: type, key: str) -> None:
    """Check that an instantiated object is of the class of `lightning` that its key needs.

    Raises:
        UserError: The object is of another class. The message names the package `pytorch_lightning` if the class is
            from there, since its classes have the same names as those of `lightning`.
    """
    if isinstance(instance, kind):
        return
    name = type(instance).__name__
    if any(base.__module__.partition(".")[0] == "pytorch_lightning" for base in type(instance).__mro__):
        raise UserError(
            f"{key}: {name} is a {kind.__name__} of the package pytorch_lightning, whose classes are not those of lightning; "
            "in its file, write `import lightning.pytorch as pl` (for an installed library see docs/tasks.md)"
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
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"{key}: {package} is not installed; pip install 'leyden[{package}]' installs it")


def check_keys(node: DictConfig, key: str) -> None:
    """Check that a node's target accepts the node's keys, without instantiating it."""
    with user_errors(key, node):
        callee = get_object(node["_target_"])
        keys = map(str, node.keys())  # including keys whose value is missing
        signature(callee).bind_partial(**dict.fromkeys(name for name in keys if not name.startswith("_")))


@contextlib.contextmanager
def user_errors(key: str, node: DictConfig | None = None, *, given: Collection[str] = ()) -> Iterator[None]:
    """Re-raise any error as a `UserError` of one line: the part's key, the message and the user's line that raised it.

    Args:
        key: The part's key.
        node: The part's node, for a hint at a misspelled argument.
        given: Further arguments that the program supplies.
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
        raise UserError(f"{key}: {as_line(error)}{_hint(cause_of(error), node, given)}") from error


def _hint(error: BaseException, node: DictConfig | None, given: Collection[str]) -> str:
    """Return a hint for an error message: the likely spelling of an unknown argument, or where one comes from."""
    if node is None:
        return ""
    keys = [str(key) for key in node if not str(key).startswith("_") and not OmegaConf.is_missing(node, key)]
    if isinstance(error, TypeError):
        callee = get_object(node["_target_"])
        known = argument_names(callee)
        wrong = [] if takes_any(callee) else [key for key in keys if key not in {*known, *given}]
        if wrong:
            close = difflib.get_close_matches(wrong[0], sorted(known), 1)
            return f"; did you mean {close[0]}?" if close else f"; it accepts {', '.join(sorted(known))}"
        if argument_names(callee, needed=True) - {*keys, *given}:
            return "; set them in conf/, or provide them as facts of the data"
    return ""

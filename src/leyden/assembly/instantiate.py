"""From nodes of the configuration to objects: the only place that instantiates."""

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

import hydra
from omegaconf import DictConfig, OmegaConf

from leyden.config.errors import UserError, cause_of, is_mistake

if sys.version_info >= (3, 14):
    from annotationlib import Format


def signature(made: Any) -> inspect.Signature:
    """That of a class or function; what its annotations name need not be there, as what is imported for a type checker only."""
    if sys.version_info >= (3, 14):  # which evaluates them when they are asked for
        return inspect.signature(made, annotation_format=Format.FORWARDREF)
    return inspect.signature(made)


def argument_names(made: Any, *, needed: bool = False) -> set[str]:
    """The arguments that a class or function names; those of a base, too, where a class hands the rest on to that.

    Args:
        made: The class or function.
        needed: Whether it is about those only that have no default.
    """
    parameters = itertools.chain.from_iterable(_parameters(made))
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {p.name for p in parameters if p.kind not in kinds and (not needed or p.default is p.empty)}


def takes_any(made: Any) -> bool:
    """Whether a class or function takes keywords that neither it nor a base of it names."""
    *_, last = [[], *_parameters(made)]
    return not last or any(parameter.kind == parameter.VAR_KEYWORD for parameter in last)


def _parameters(made: Any) -> Iterator[list[inspect.Parameter]]:
    """The parameters of a class or function, and of its bases up to one that hands nothing on."""
    for part in inspect.getmro(made) if inspect.isclass(made) else [made]:
        try:
            parameters = list(signature(part).parameters.values())
        except ValueError:  # of a class that is written in C
            return
        yield parameters
        if all(parameter.kind != parameter.VAR_KEYWORD for parameter in parameters):
            return


def instantiate(
    node: DictConfig,
    key: str,
    facts: Mapping[str, Any] = MappingProxyType({}),
    *,
    without: Sequence[str] = (),
    **given: Any,
) -> Any:
    """Instantiate a node, with values that the program gives and the configuration must not.

    Args:
        node: Names what is made by `_target_`.
        key: Of the node, for errors.
        facts: What the program can give, by name: what is made gets those that its constructor names.
        without: Keys of the node that are left out.
        given: What it gets in any case.

    Raises:
        UserError: Something is wrong with the node.
    """
    for name in {*given} - {*without}:
        if name in node and not OmegaConf.is_missing(node, name):
            raise UserError(f"{key}.{name}={node[name]}: is given by the program, it can't be set")
    if not given and not facts:
        with user_errors(key, node):
            return hydra.utils.instantiate(_plain(node, key, without), _convert_="all")
    made = _constructor(node, key, without=(*without, *given))
    named = {name: value for name, value in facts.items() if name in argument_names(made.func)}
    if both := sorted({*named} & {*made.keywords}):
        raise UserError(f"{key}.{both[0]}={node[both[0]]}: is given by the program, it can't be set")
    if node.get("_partial_") and not given:  # somebody else calls it, as a loss that is a function
        return functools.partial(made, **named)
    with user_errors(key, node, given={*named, *given, *without}):
        return made(**named, **given)


def target(node: DictConfig, key: str) -> Any:
    """The class or function that a node names; nothing is made, the nodes below it neither."""
    return _constructor(node, key, without=[str(name) for name in node if name != "_target_"]).func


def _constructor(node: DictConfig, key: str, *, without: Sequence[str]) -> functools.partial[Any]:
    """What a node names, with its keys as arguments, but for those `without`; it is not called yet."""
    plain = _plain(node, key, without)
    with user_errors(key, node):
        made: functools.partial[Any] = hydra.utils.instantiate(plain, _convert_="all", _partial_=True)
    return made


def _plain(node: DictConfig, key: str, without: Sequence[str]) -> dict[str, Any]:
    if not isinstance(node.get("_target_"), str):
        raise UserError(f"{key}._target_={node.get('_target_')}: must be the name of what is made")
    missing = sorted(name.removeprefix(f"{key}.") for name in OmegaConf.missing_keys(node))
    if missing := [name for name in missing if name.split(".")[0] not in without]:
        raise UserError(f"{key}.{missing[0]}: is missing, it must be given")
    plain: Any = OmegaConf.to_container(node, resolve=True)
    return {name: value for name, value in plain.items() if name not in without}


def check_lightning_kind(made: Any, kind: type, key: str) -> None:
    """Make sure that a node has made an object of Lightning's kind.

    Raises:
        UserError: It has not; or the object is of `pytorch_lightning`, whose classes are others of the same names.
    """
    if isinstance(made, kind):
        return
    name = type(made).__name__
    if any(base.__module__.partition(".")[0] == "pytorch_lightning" for base in type(made).__mro__):
        raise UserError(
            f"{key}: {name} is a {kind.__name__} of the package pytorch_lightning, whose classes are not those of lightning; "
            "write `import lightning as L` in its file, and L for pytorch_lightning"
        )
    raise UserError(f"{key}: makes a {name}; must be a {kind.__name__}")


def switched_on(group: DictConfig) -> list[tuple[str, DictConfig]]:
    """The nodes of a group of named parts; `NAME=null` switches one off."""
    nodes = [(str(name), node) for name, node in group.items() if node is not None]
    for name, node in nodes:
        if not (isinstance(node, DictConfig) and "_target_" in node):
            raise UserError(f"{name}={node}: must have a _target_, or be null to be left out")
    return nodes


def check_extra(node: DictConfig, key: str) -> None:
    """Make sure that the package is installed that an optional part of Leyden needs."""
    with user_errors(key, node):
        package = getattr(hydra.utils.get_object(node["_target_"]), "needs", None)
    if package and importlib.util.find_spec(package) is None:
        raise UserError(f"{key}: {package} is not installed; pip install -e '.[{package}]' installs it")


def check_keys(node: DictConfig, key: str) -> None:
    """Make sure that a target takes its keys, without making anything."""
    with user_errors(key, node):
        made = hydra.utils.get_object(node["_target_"])
        keys = map(str, node.keys())  # missing values, too
        signature(made).bind_partial(**dict.fromkeys(name for name in keys if not name.startswith("_")))


@contextlib.contextmanager
def user_errors(
    key: str, node: DictConfig | None = None, *, given: Collection[str] = (), runs: bool = False
) -> Iterator[None]:
    """Name the part of the configuration to which a mistake belongs; a bug in somebody's code keeps its traceback.

    Args:
        key: Of the part.
        node: Of the part, for a guess at what was meant.
        given: Arguments that the program gives besides.
        runs: Whether what was made is used here: then a mistake in the configuration is known already.
    """
    try:
        yield
    except Exception as error:
        cause = cause_of(error)
        if isinstance(error, UserError):
            raise
        if not is_mistake(error, runs=runs):
            if hasattr(cause, "add_note"):  # Python 3.11
                cause.add_note(f"(in {key})")
            if cause is error:
                raise
            raise cause from None
        text = " ".join(str(cause).split()) or type(cause).__name__
        raise UserError(f"{key}: {text}{_meant(cause, node, given)}") from error


def _meant(error: BaseException, node: DictConfig | None, given: Collection[str]) -> str:
    """A guess at an argument that was misspelled; for an error that names none, those that there are."""
    if node is None:
        return ""
    keys = [str(key) for key in node if not str(key).startswith("_") and not OmegaConf.is_missing(node, key)]
    if isinstance(error, TypeError):
        made = hydra.utils.get_object(node["_target_"])
        known = argument_names(made)
        wrong = [] if takes_any(made) else [key for key in keys if key not in {*known, *given}]
        if wrong:
            close = difflib.get_close_matches(wrong[0], sorted(known), 1)
            return f"; did you mean {close[0]}?" if close else f"; it takes {', '.join(sorted(known))}"
        if argument_names(made, needed=True) - {*keys, *given}:
            return "; they stand in conf/, or are facts, which these data don't tell"
    if isinstance(error, ArithmeticError | AttributeError | LookupError | TypeError):
        return f" (with {', '.join(f'{key}={node[key]}' for key in keys)})"
    return ""

"""Conditions on the values of keys: under which a key is there (`when`), or a job is left out (`exclude`)."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leyden.config.mistakes import UserError
from leyden.sweep.dimension import Dimension
from leyden.sweep.override_text import as_meant

Conditions = dict[str, frozenset[str]]
"""The values of which a key has one, by key; all of them must hold."""


def conditions(where: str, node: Any) -> Conditions:
    """Read conditions.

    Args:
        where: What the user has written them for.
        node: A value, or a list of values of which one is enough, by key.

    Raises:
        UserError: They are none.

    Example:
        >>> conditions("hydra.sweeper.exclude", {"model": "cnn", "seed": [0, 1]})["model"]
        frozenset({'cnn'})
    """
    if not isinstance(node, Mapping) or not node:
        raise UserError(f"{where}={node}: must be a value, or a list of values, by key, as {{optimizer: sgd}}")
    found = {}
    for key, value in node.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        found[str(key).lstrip("+")] = frozenset(as_meant(_builtin(each)) for each in several)
    return found


def check_conditions(where: str, found: Conditions, dimensions: Iterable[Dimension]) -> None:
    """Make sure that conditions are on what is tried; a key with one fixed value may have any other one.

    Raises:
        UserError: Names the key or the value that no job has.
    """
    dimensions = list(dimensions)
    for key, values in found.items():
        on = [dimension for dimension in dimensions if key in dimension.keys]
        if not on:
            names = sorted({name for dimension in dimensions for name in dimension.keys if not dimension.is_fixed})
            raise UserError(f"{where}: no job sets {key}; a condition is on what is tried: {', '.join(names)}")
        if any(dimension.interval for dimension in on):
            raise UserError(f"{where}: {key} is an interval; a condition is on choices")
        taken = {choice.values[key] for dimension in on for choice in dimension.choices.values()}
        if not all(dimension.is_fixed for dimension in on) and (never := values - taken):
            raise UserError(f"{where}: {key} is never {min(never)}, but one of {', '.join(sorted(taken))}")


def read_when(node: Any, dimensions: Sequence[Dimension]) -> dict[str, Conditions]:
    """The conditions of `hydra.sweeper.when`, by key.

    Raises:
        UserError: They are none, or on what is not tried.
    """
    where = "hydra.sweeper.when"
    if not isinstance(node, Mapping | None):
        raise UserError(f"{where}={node}: must be conditions by key, as {{optimizer.momentum: {{optimizer: sgd}}}}")
    found = {}
    for key, each in (node or {}).items():
        plain = str(key).lstrip("+")
        if not any(plain in (dimension.name, *dimension.keys) for dimension in dimensions):
            raise UserError(f"{where}.{key}: is not tried, so that there are no conditions for it")
        for dimension in dimensions:
            if plain in dimension.keys and len(dimension.keys) > 1:
                raise UserError(
                    f"{where}.{key}: is a member of the zip {dimension.name}, which has conditions as a whole"
                )
        check_conditions(f"{where}.{key}", needed := conditions(f"{where}.{key}", each), dimensions)
        found[plain] = needed
    return found


def hold(found: Conditions, values: Mapping[str, str]) -> bool:
    """Whether all of them hold for the values of a job."""
    return all(values.get(key) in allowed for key, allowed in found.items())


def _builtin(value: Any) -> Any:
    """A value of a configuration as Python's own."""
    if isinstance(value, Mapping):
        return {key: _builtin(inner) for key, inner in value.items()}
    return (
        [_builtin(inner) for inner in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )

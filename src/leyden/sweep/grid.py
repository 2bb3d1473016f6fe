"""The jobs of a grid: all combinations, one after another of several grids, less those that are left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from leyden.config.mistakes import UserError
from leyden.sweep.conditions import check_conditions, conditions, hold, read_when
from leyden.sweep.space import Space
from leyden.sweep.typed import Typed


def spaces(typed: Typed, params: Any, union: Any, when: Any, arguments: Sequence[str]) -> list[Space]:
    """The grids of a sweep: one, or one per entry of `union`, which goes before `params`, and arguments before both.

    Raises:
        UserError: Something can't be tried, or has conditions that can't hold.
    """
    entries = _entries("union", union)
    several = [typed.dimensions(params, arguments)] if union is None else []
    for number, entry in enumerate(entries):
        typed.dimensions(entry, (), where := f"hydra.sweeper.union[{number}]")  # mistakes of its own
        both = {**(params or {}), **entry}
        several.append(typed.dimensions(both, arguments, where))
    found = read_when(when, [dimension for dimensions in several for dimension in dimensions])
    grids = [Space(dimensions, found) for dimensions in several]
    never = set.intersection(*(set(grid.never_there()) for grid in grids))
    if never and len(grids) == 1:
        raise UserError(f"hydra.sweeper.when.{min(never)}: its conditions never hold together")
    return grids


def settings(grids: Iterable[Space], exclude: Any) -> list[list[str]]:
    """The overrides of each job, each once.

    Raises:
        UserError: There is nothing left, or a condition is on what no job has.
    """
    grids = list(grids)
    tried = [dimension for grid in grids for dimension in grid.dimensions]
    left_out = []
    for number, entry in enumerate(_entries("exclude", exclude)):
        where = f"hydra.sweeper.exclude[{number}]"
        left_out.append(conditions(where, entry))
        check_conditions(where, left_out[-1], tried)
    found: dict[frozenset[str], list[str]] = {}
    for grid in grids:
        for setting in grid.settings():
            values = grid.values(setting)
            if not any(hold(each, values) for each in left_out):
                overrides = grid.overrides(setting)
                found.setdefault(frozenset(overrides), overrides)
    if not found:
        raise UserError("hydra.sweeper.exclude: nothing is left, it leaves out all jobs; take an entry away")
    return list(found.values())


def _entries(key: str, node: Any) -> list[Any]:
    """The entries of a list in the sweeper's configuration."""
    if node is None:
        return []
    if (
        not isinstance(node, Sequence)
        or isinstance(node, str)
        or not node
        or not all(isinstance(entry, Mapping) for entry in node)
    ):
        raise UserError(f"hydra.sweeper.{key}={node}: must be a list of values by key, as [{{model: cnn}}]")
    return list(node)

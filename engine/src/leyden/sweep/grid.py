"""Parsing of search spaces, and the jobs of a grid: all combinations of values, except excluded ones.

A zip combines the values of several keys row by row, as Python's `zip`:
`model_optimizer=zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw))` is mlp with sgd, then cnn with adamw.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from hydra.errors import HydraException
from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.run.command import ZIP
from leyden.run.identity import is_launch_option
from leyden.sweep.space import (
    Choice,
    Dimension,
    Space,
    bare_key,
    check_conditions,
    check_range,
    check_tags,
    choice_dimension,
    conditions,
    conditions_hold,
    interval_dimension,
    quote_override,
    quote_zip_value,
    read_when,
    unquoted,
)

ZIP_EXAMPLE = "as zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw))"


def is_zip(value: Any) -> bool:
    """Return whether a value is written as a zip."""
    return isinstance(value, str) and ZIP.match(value) is not None


def zipped(name: str, value: str, parser: OverridesParser) -> Dimension:
    """Parse a zip into a dimension whose choices are the rows of the zip.

    Args:
        name: Name of the dimension.
        value: The text `zip(...)`.
        parser: Hydra's parser, for the members.

    Raises:
        UserError: The zip is wrong; the message names the zip, the member and the mistake.
    """
    if value.lstrip().startswith("shuffle"):
        raise UserError(f"{name}=shuffle(...): the rows of a zip keep their order; remove shuffle")
    found = re.fullmatch(r"\s*zip\s*\((.*)\)\s*", value, re.DOTALL)
    parts = _split_at_commas(found[1]) if found else None
    if parts is None:
        raise UserError(f"{name}={value}: brackets or quotes don't match; a zip is written {ZIP_EXAMPLE}")
    columns: dict[str, tuple[Override, list[Any]]] = {}
    for part in parts:
        override, values = _parse_member(name, part, parser)
        if (key := bare_key(override)) in columns:
            raise UserError(f"{name}=zip(...): {key} is given twice")
        columns[key] = override, values
    if len(columns) < 2:
        raise UserError(f"{name}=zip(...): must have two members or more, {ZIP_EXAMPLE}")
    (first, (_, firsts)), *others = columns.items()
    for key, (_, values) in others:
        if len(values) != len(firsts):
            raise UserError(
                f"{name}=zip(...): {key} has {len(values)} values, {first} {len(firsts)}; each member needs the same number"
            )
    rows = []
    for n in range(len(firsts)):
        row = [(key, override.get_key_element(), values[n]) for key, (override, values) in columns.items()]
        overrides = tuple(f"{element}={quote_zip_value(value)}" for _, element, value in row)
        rows.append(Choice(overrides, {key: unquoted(value) for key, _, value in row}))
    return Dimension(name, tuple(columns), {" ".join(row.overrides): row for row in rows})


def _parse_member(name: str, part: str, parser: OverridesParser) -> tuple[Override, list[Any]]:
    """Return the override of a zip's member, and its values."""
    key, has_value, value = (text.strip() for text in part.partition("="))
    if not has_value or not key:
        raise UserError(f"{name}=zip(...): {part.strip() or 'nothing'}: a member is written KEY=choice(...)")

    def refused(why: str) -> UserError:
        return UserError(f"{name}=zip(...): {key}={value}: {why}")

    if ZIP.match(value):
        raise refused("a zip can't contain a zip; put all members into one")
    if not value.strip("[] "):
        raise refused("has no values to try")
    # A list means a choice of its elements.
    several = f"choice({value[1:-1]})" if value.startswith("[") and value.endswith("]") else value
    try:
        (override,) = parser.parse_overrides([f"{key}={several}"])
    except HydraException as error:
        raise refused(str(error).splitlines()[0]) from error
    if override.is_delete():
        raise refused("a member can't remove a key")
    if override.is_hydra_override() or is_launch_option(override.key_or_group):
        raise refused("is the same for all jobs of a sweep")
    if override.is_interval_sweep():
        raise refused("an interval has no rows; use choice(...) or range(...)")
    if not override.is_sweep_override():
        raise refused("must be choice(...), range(...), glob(...) or a list of values, one per row")
    if getattr(sweep := override.value(), "shuffle", False):
        raise refused("a member can't be shuffled without the others")
    check_range(f"{name}=zip(...): {key}={value}", sweep)
    try:
        if not isinstance(sweep, Glob):
            check_tags(sweep.tags)  # type: ignore[union-attr]
        values = list(override.sweep_iterator())
    except (ValueError, HydraException) as error:
        raise refused(str(error)) from error
    if not values:
        raise refused("has no values to try")
    return override, values


def _split_at_commas(text: str) -> list[str] | None:
    """Split a text at commas outside of brackets and quotes; return None if brackets or quotes don't match."""
    parts, start, quote, brackets = [], 0, "", ""
    for found in re.finditer(r"\\.|[\"'()\[\]{},]", text):
        sign = found[0]
        if quote or sign in ('"', "'"):
            quote = "" if sign == quote else quote or sign
        elif sign in "([{":
            brackets += sign
        elif sign in ")]}":
            if brackets[-1:] + sign not in ("()", "[]", "{}"):
                return None
            brackets = brackets[:-1]
        elif sign == "," and not brackets:
            parts.append(text[start : found.start()])
            start = found.end()
    return None if quote or brackets else [*parts, text[start:]]


class SearchSpaceParser:
    """Parser of a sweep's dimensions.

    Args:
        loader: Hydra's config loader, which resolves globs over groups.
        config: The sweep's configuration; the name of a zip must not be one of its keys or groups.
        is_search: True for a search, which takes intervals and ignores `shuffle`; False for a grid, which takes
            lists and keeps their shuffled order.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, *, is_search: bool) -> None:
        self.loader, self.config, self.is_search = loader, config, is_search
        self.parser = OverridesParser.create(config_loader=loader)
        # Both formats must stay, since the texts are part of directory names and of studies.
        self.text = quote_override if is_search else Transformer.str

    def dimensions(
        self, params: Any, arguments: Sequence[str], where: str = "hydra.sweeper.params"
    ) -> list[Dimension]:
        """Return the dimensions of `params` and of command-line arguments, which replace those of the same key.

        Raises:
            UserError: A value can't be parsed, or a key is tried twice.
        """
        if not isinstance(params, Mapping | None):
            raise UserError(f"{where}={params}: must be values by key, such as +hydra.sweeper.params.seed='0,1'")
        found: dict[str, Dimension] = {}
        lines = {str(key): value for key, value in (params or {}).items()}
        zips = {name: self._zip(name, value) for name, value in lines.items() if is_zip(value)}
        plain_lines = [f"{key}={value}" for key, value in lines.items() if key not in zips]
        for override in self.parser.parse_overrides([*plain_lines, *arguments]):
            found.pop(name := override.get_key_element(), None)
            found[name] = self._dimension(override)
        for name, dimension in zips.items():
            _check_keys(name, dimension, found.values())
            found[name] = dimension
        return list(found.values())

    def _zip(self, name: str, value: str) -> Dimension:
        if not name.isidentifier():
            raise UserError(
                f"{name}=zip(...): the name must be one word that is not a key, such as model_optimizer"
            )
        if name in self.config or self.loader.get_group_options(name):
            raise UserError(f"{name}=zip(...): {name} is a key of the configuration; give the zip another name")
        return zipped(name, value, self.parser)

    def _dimension(self, override: Override) -> Dimension:
        """Return the dimension of an override; without sweep syntax it is fixed, with one choice."""
        line = override.input_line
        if not override.is_sweep_override():
            text = override.get_value_element_as_str()
            return choice_dimension(override, [override.value()], lambda _: text, is_fixed=True)
        if is_launch_option(override.key_or_group):
            raise UserError(f"{line}: is the same for all jobs of a sweep; give one value")
        sweep = override.value()
        if isinstance(sweep, IntervalSweep) and not self.is_search:
            raise UserError(f"{line}: a grid takes lists, such as 0.1,0.01; use sweep=tpe for intervals")
        check_range(line or "", sweep)
        try:
            if isinstance(sweep, IntervalSweep):
                return interval_dimension(override, sweep)
            if self.is_search and not isinstance(sweep, Glob):
                check_tags(sweep.tags, "log")  # type: ignore[union-attr]
                sweep.shuffle = False  # type: ignore[union-attr]  # a study needs a fixed order of choices
            dimension = choice_dimension(override, override.sweep_iterator(), self.text)
        except (ValueError, TypeError) as error:
            raise UserError(f"{line}: {error}") from error
        if not dimension.choices:
            raise UserError(f"{line}: has no values to try")
        return dimension


def _check_keys(name: str, dimension: Dimension, others: Iterable[Dimension]) -> None:
    """Raise a `UserError` if another dimension sets a member of a zip, too: only one of them would take effect."""
    elsewhere = {key for other in others for key in other.keys}
    if twice := [key for key in dimension.keys if key in elsewhere]:
        raise UserError(f"{name}=zip(...): {twice[0]} is set outside the zip, too; remove one of the two")


def spaces(parser: SearchSpaceParser, params: Any, union: Any, when: Any, arguments: Sequence[str]) -> list[Space]:
    """Return the grids of a sweep: one, or one per entry of `union`.

    An entry of `union` overrides `params`, and arguments override both.

    Raises:
        UserError: A value can't be parsed, or has conditions that never hold.
    """
    entries = _entries("union", union)
    several = [parser.dimensions(params, arguments)] if union is None else []
    for number, entry in enumerate(entries):
        parser.dimensions(entry, (), where := f"hydra.sweeper.union[{number}]")  # checks the entry alone
        merged = {**(params or {}), **entry}
        several.append(parser.dimensions(merged, arguments, where))
    found = read_when(when, [dimension for dimensions in several for dimension in dimensions])
    grids = [Space(dimensions, found) for dimensions in several]
    never = set.intersection(*(set(grid.never_active()) for grid in grids))
    if never and len(grids) == 1:
        raise UserError(f"hydra.sweeper.when.{min(never)}: its conditions never hold together")
    return grids


def settings(grids: Iterable[Space], exclude: Any) -> list[list[str]]:
    """Return the overrides of each job, without duplicates and excluded jobs.

    Raises:
        UserError: No job is left, or a condition names a key or value that no job has.
    """
    grids = list(grids)
    dimensions = [dimension for grid in grids for dimension in grid.dimensions]
    excluded = []
    for number, entry in enumerate(_entries("exclude", exclude)):
        where = f"hydra.sweeper.exclude[{number}]"
        excluded.append(conditions(where, entry))
        check_conditions(where, excluded[-1], dimensions)
    found: dict[frozenset[str], list[str]] = {}
    for grid in grids:
        for setting in grid.settings():
            values = grid.values(setting)
            if not any(conditions_hold(each, values) for each in excluded):
                overrides = grid.overrides(setting)
                found.setdefault(frozenset(overrides), overrides)
    if not found:
        raise UserError("hydra.sweeper.exclude: excludes all jobs; remove an entry")
    return list(found.values())


def _entries(key: str, node: Any) -> list[Any]:
    """Return the entries of a list of mappings in the sweeper's configuration.

    Raises:
        UserError: It is not a list of mappings, or empty.
    """
    if node is None:
        return []
    if (
        not isinstance(node, Sequence)
        or isinstance(node, str)
        or not node
        or not all(isinstance(entry, Mapping) for entry in node)
    ):
        raise UserError(f"hydra.sweeper.{key}={node}: must be a list of mappings, such as [{{model: cnn}}]")
    return list(node)

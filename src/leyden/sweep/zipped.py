"""A zip: keys whose values go together, row by row.

model_optimizer=zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw)) is mlp with sgd, then cnn with adamw.
"""

import re
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from leyden.config.mistakes import UserError
from leyden.run.choices import steers
from leyden.run.command import ZIP
from leyden.sweep.dimension import Choice, Dimension, check_range, check_tags, plain
from leyden.sweep.override_text import as_meant, in_quotes

AS = "as zip(model=choice(mlp,cnn),optimizer=choice(sgd,adamw))"


def is_zip(value: Any) -> bool:
    """Whether what stands behind a name is meant to be a zip."""
    return isinstance(value, str) and ZIP.match(value) is not None


def zipped(name: str, value: str, parser: OverridesParser) -> Dimension:
    """The dimension whose choices are the rows of a zip.

    Args:
        name: Of the dimension.
        value: The text `zip(...)`.
        parser: Reads the members, which are in Hydra's syntax.

    Raises:
        UserError: Names the zip, the member and what is wrong with it.
    """
    if value.lstrip().startswith("shuffle"):
        raise UserError(f"{name}=shuffle(...): the rows of a zip keep their order; take shuffle away")
    found = re.fullmatch(r"\s*zip\s*\((.*)\)\s*", value, re.DOTALL)
    parts = _split(found[1]) if found else None
    if parts is None:
        raise UserError(f"{name}={value}: brackets or quotes don't match; a zip is written {AS}")
    columns: dict[str, tuple[Override, list[Any]]] = {}
    for part in parts:
        override, values = _member(name, part, parser)
        if (key := plain(override)) in columns:
            raise UserError(f"{name}=zip(...): {key} is there twice")
        columns[key] = override, values
    if len(columns) < 2:
        raise UserError(f"{name}=zip(...): must have two members or more, {AS}")
    (first, (_, firsts)), *others = columns.items()
    for key, (_, values) in others:
        if len(values) != len(firsts):
            raise UserError(
                f"{name}=zip(...): {key} has {len(values)} values, {first} {len(firsts)}; each member needs as many"
            )
    rows = []
    for n in range(len(firsts)):
        row = [(key, override.get_key_element(), values[n]) for key, (override, values) in columns.items()]
        overrides = tuple(f"{element}={in_quotes(value)}" for _, element, value in row)
        rows.append(Choice(overrides, {key: as_meant(value) for key, _, value in row}))
    return Dimension(name, tuple(columns), {" ".join(row.overrides): row for row in rows})


def _member(name: str, part: str, parser: OverridesParser) -> tuple[Override, list[Any]]:
    """A key and its values."""
    key, has_value, value = (text.strip() for text in part.partition("="))
    if not has_value or not key:
        raise UserError(f"{name}=zip(...): {part.strip() or 'nothing'}: a member is written KEY=choice(...)")

    def refused(why: str) -> UserError:
        return UserError(f"{name}=zip(...): {key}={value}: {why}")

    if ZIP.match(value):
        raise refused("a zip in a zip; give all members to one")
    if not value.strip("[] "):
        raise refused("there is nothing to try in it")
    # The elements of a list are the rows.
    several = f"choice({value[1:-1]})" if value.startswith("[") and value.endswith("]") else value
    try:
        (override,) = parser.parse_overrides([f"{key}={several}"])
    except HydraException as error:
        raise refused(str(error).splitlines()[0]) from error
    if override.is_delete():
        raise refused("a member can't take a key out")
    if override.is_hydra_override() or steers(override.key_or_group):
        raise refused("is one thing for all jobs of a sweep")
    if override.is_interval_sweep():
        raise refused("an interval has no rows; choice(...) and range(...) have")
    if not override.is_sweep_override():
        raise refused("must be choice(...), range(...), glob(...) or a list of values, one per row")
    if getattr(sweep := override.value(), "shuffle", False):
        raise refused("a member that is shuffled alone no longer fits the others")
    check_range(f"{name}=zip(...): {key}={value}", sweep)
    try:
        if not isinstance(sweep, Glob):
            check_tags(sweep.tags)  # type: ignore[union-attr]
        values = list(override.sweep_iterator())
    except (ValueError, HydraException) as error:
        raise refused(str(error)) from error
    if not values:
        raise refused("there is nothing to try in it")
    return override, values


def _split(text: str) -> list[str] | None:
    """The parts between commas that stand in no brackets and no quotes; None where those don't match."""
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

"""Conditions on runs and on rows of a table, such as `val/acc > 0.97 and optimizer.lr < 0.01`."""

import json
import re
from collections.abc import Callable
from operator import contains, eq, ge, gt, le, lt, ne
from typing import Any

from leyden.base.errors import UserError
from leyden.config.values import ABSENT
from leyden.run.keys import Role, has
from leyden.verdict.numbers import number_of

Getter = Callable[[str], Any]  # returns the value of a key, or `ABSENT`
Operator = Callable[[Any, Any], bool]
OPERATORS: dict[str, Operator] = {
    "~": contains,
    "<=": le,
    ">=": ge,
    "!=": ne,
    "==": eq,
    "=": eq,
    "<": lt,
    ">": gt,
}
PLAIN = r"""[^\s<>=!()"']+"""
TEXT = rf"""("[^"]*"|'[^']*'|{PLAIN})"""
COMPARISON = re.compile(rf"{TEXT}\s*(<=|>=|!=|==|[<>=~])\s*{TEXT}(?:\s+and\s+|$)")
EXAMPLE = "'val/acc > 0.97 and optimizer.lr < 0.01'"


def parse_condition(text: str, option: str = "where") -> tuple[Callable[[Getter], bool], set[str]]:
    """Parse a condition, comparisons joined by `and`.

    Return it as a function, with the keys that it names.

    A comparison is false if the run lacks its key. Numbers are compared as numbers, all other
    values as texts; `~` asks whether a text contains another one, or a list such as `tags` this
    value.

    Args:
        text: The condition.
        option: Name of the option, for error messages.

    Raises:
        UserError: The text is not a valid condition.

    Example:
        >>> condition, keys = parse_condition("val/acc > 0.97 and status != failed")
        >>> condition({"val/acc": 0.98, "status": "finished"}.get), sorted(keys)
        (True, ['status', 'val/acc'])
    """
    parts: list[tuple[str, Operator, str]] = []
    text = text.strip()
    position = 0
    while position < len(text) or not parts:
        found = COMPARISON.match(text, position)
        if found is None:
            rest = text[position:] or "it"
            why = f"{rest} is no comparison; `and` joins comparisons"
            raise UserError(f"{option}={text}: {why}, for example {option}={EXAMPLE}")
        key = _unquoted(found[1])
        sign = found[2]
        value = _unquoted(found[3])
        if sign[0] in "<>" and not isinstance(number_of(value), int | float):
            why = f"{sign} compares with a number, which {value} is not"
            raise UserError(f"{option}={text}: {why}")
        parts.append((key, OPERATORS[sign], value))
        position = found.end()

    def is_met(value_of: Getter) -> bool:
        for key, sign, value in parts:
            found = value_of(key)
            if not _is_met(key, sign, found, value):
                return False
        return True

    keys = {key for key, _, _ in parts}
    return is_met, keys


def _unquoted(text: str) -> str:
    if text[0] in "'\"":
        return text[1:-1]
    return text


def _is_met(key: str, sign: Operator, found: Any, text: str) -> bool:
    """Return whether a run's value meets a comparison.

    A limit of 1, one batch, is not one of 1.0, all batches.
    """
    if has(key, Role.LIMIT) and sign in (eq, ne):
        asked = number_of(text)
        kinds = {type(found), type(asked)}
        if kinds == {int, float}:
            return sign is ne
    return _compare(sign, found, text)


def _compare(sign: Operator, found: Any, text: str) -> bool:
    """Compare a run's value with a condition's, which is given as text."""
    if found is ABSENT:
        return False
    if sign is contains:
        if isinstance(found, list):
            return text in map(text_in_condition, found)
        return text in text_in_condition(found)
    if found is None or isinstance(found, bool | list):
        own = _without_spaces(text_in_condition(found))
        other = _without_spaces(text)
        return sign in (eq, ne) and sign(own, other)
    if isinstance(found, int | float):
        try:
            return sign(float(found), float(text))
        except (ValueError, OverflowError):
            return False
    return sign(str(found), text)


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def text_in_condition(value: Any) -> str:
    """Return a value as it is written in a condition."""
    if isinstance(value, list):
        texts = map(text_in_condition, value)
        return f"[{','.join(texts)}]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return str(value)

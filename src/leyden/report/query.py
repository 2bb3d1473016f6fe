"""Conditions as a person types them: `val/acc > 0.97 and (optimizer.lr < 0.01 or model = cnn)`. Nothing is executed."""

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import yaml

from leyden.config.errors import UserError

Condition = Callable[[Mapping[str, Any]], bool]
OPERATORS = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
MAX_WORDS = 200
MAX_SHOWN = 200  # characters
DIGITS = 4
TOKEN = re.compile(r"""\s*(?:(<=|>=|!=|==|[<>=()])|"([^"]*)"|'([^']*)'|([^\s<>=!()"']+))""")


def parse(text: str, option: str = "where") -> tuple[Condition, set[str]]:
    """The condition, and the keys that it names.

    A key that a run lacks makes its comparison false. Numbers are compared as numbers, else texts as texts.

    Args:
        text: What was typed.
        option: Behind which option.

    Raises:
        UserError: It is none.

    Example:
        >>> condition, keys = parse("val/acc > 0.97 and not status = failed")
        >>> condition({"val/acc": 0.98, "status": "finished"}), sorted(keys)
        (True, ['status', 'val/acc'])
    """
    return _Parser(text, option).parse()


def check_known(option: str, keys: Collection[str], known: Collection[str]) -> None:
    """Make sure that there are such keys.

    Raises:
        UserError: No run has one of them.
    """
    for key in sorted({*keys} - {*known}):
        close = difflib.get_close_matches(key, known, 1)
        raise UserError(f"{option}: no run has {key}" + (f"; did you mean {close[0]}?" if close else ""))


class _Parser:
    def __init__(self, text: str, option: str) -> None:
        self.text, self.option, self.keys = text, option, set[str]()
        self.tokens: list[tuple[str, bool]] = []  # each with whether it was quoted
        position = 0
        while text[position:].strip():
            found = TOKEN.match(text, position)
            if not found:
                raise self._error(f"{text[position:].strip()} can't be read")
            sign, double, single, word = found.groups()
            self.tokens.append((sign or word or double or single or "", double is not None or single is not None))
            position = found.end()
        if len(self.tokens) > MAX_WORDS:
            raise self._error("it is too long")

    def parse(self) -> tuple[Condition, set[str]]:
        condition = self._any()
        if self.tokens:
            raise self._error(f"{self.tokens[0][0]} is one too many")
        return condition, self.keys

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._takes("or"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else lambda values: any(part(values) for part in parts)

    def _all(self) -> Condition:
        parts = [self._one()]
        while self._takes("and"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else lambda values: all(part(values) for part in parts)

    def _one(self) -> Condition:
        if self._takes("not"):
            inner = self._one()
            return lambda values: not inner(values)
        if self._takes("("):
            inner = self._any()
            if not self._takes(")"):
                raise self._error("a ) is missing")
            return inner
        key, sign, value = self._next("a key"), self._next("a sign"), self._next("a value")
        if sign not in OPERATORS:
            raise self._error(f"{sign} must be one of {' '.join(OPERATORS)}")
        self.keys.add(key)
        listed = self._list(value)
        return lambda values: key in values and _compare(OPERATORS[sign], values[key], value, listed)

    def _list(self, value: str) -> Any:
        """The list that a value stands for; None for none."""
        try:
            return yaml.safe_load(value)
        except yaml.YAMLError:
            return None
        except RecursionError:
            raise self._error("it is nested too deeply") from None

    def _takes(self, word: str) -> bool:
        if self.tokens and self.tokens[0] == (word, False):
            del self.tokens[0]
            return True
        return False

    def _next(self, what: str) -> str:
        if not self.tokens:
            raise self._error(f"{what} is missing at its end")
        return self.tokens.pop(0)[0]

    def _error(self, why: str) -> UserError:
        shown = self.text if len(self.text) <= MAX_SHOWN else f"{self.text[:MAX_SHOWN]}..."
        return UserError(f"{self.option}={shown}: {why}; as {self.option}='val/acc > 0.97 and optimizer.lr < 0.01'")


def _compare(sign: Callable[[Any, Any], bool], found: Any, typed: str, listed: Any) -> bool:
    if isinstance(found, list):
        return listed is not None and sign in (operator.eq, operator.ne) and sign(found, listed)
    if found is None or isinstance(found, bool):
        if sign not in (operator.eq, operator.ne):
            return False
        found = {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, int | float):
        try:
            number = float(typed)
        except ValueError:
            return False
        digits = len(re.sub(r"e.*|[^0-9]", "", typed.lower()).lstrip("0"))
        # As a table shows it, which rounds: from four digits on equal is what is rounded to the same.
        rounds = sign in (operator.eq, operator.ne) and digits >= DIGITS
        return sign(float(f"{found:.{digits}g}") if rounds else float(found), number)
    return sign(str(found), typed)

"""Query conditions, such as `val/acc > 0.97 and (optimizer.lr < 0.01 or model = cnn)`, parsed without `eval`."""

import difflib
import operator
import re
from collections.abc import Callable, Collection, Mapping, Sequence
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
MAX_SHOWN = 200  # characters of a condition in an error message
MIN_ROUNDED_DIGITS = 4  # numbers with fewer digits are compared exactly
TOKEN = re.compile(r"""\s*(?:(<=|>=|!=|==|[<>=()])|"([^"]*)"|'([^']*)'|([^\s<>=!()"']+))""")


def parse_condition(text: str, option: str = "where") -> tuple[Condition, set[str]]:
    """Parse a condition; return it as a function, with the keys that it names.

    A comparison is false if the run lacks its key. Numbers are compared as numbers, all other values as texts.

    Args:
        text: The condition.
        option: Name of the option, for error messages.

    Raises:
        UserError: The text is not a valid condition.

    Example:
        >>> condition, keys = parse_condition("val/acc > 0.97 and not status = failed")
        >>> condition({"val/acc": 0.98, "status": "finished"}), sorted(keys)
        (True, ['status', 'val/acc'])
    """
    return _Parser(text, option).parse()


def check_known(option: str, keys: Collection[str], runs: Sequence[Mapping[str, Any]]) -> None:
    """Check that each key of a condition is known.

    Args:
        option: Name of the option, for the error message.
        keys: The keys.
        runs: Values of each run by key.

    Raises:
        UserError: No run has one of the keys.
    """
    for key in sorted(keys):
        if not any(key in values for values in runs):
            close = difflib.get_close_matches(key, {name for values in runs for name in values}, 1)
            raise UserError(f"{option}: no run has {key}" + (f"; did you mean {close[0]}?" if close else ""))


class _Parser:
    """A recursive-descent parser of conditions."""

    def __init__(self, text: str, option: str) -> None:
        self.text, self.option, self.keys = text, option, set[str]()
        self.tokens: list[tuple[str, bool]] = []  # text of each token, and whether it was quoted
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
        condition = self._parse_or()
        if self.tokens:
            raise self._error(f"{self.tokens[0][0]} is not expected here")
        return condition, self.keys

    def _parse_or(self) -> Condition:
        parts = [self._parse_and()]
        while self._accept("or"):
            parts.append(self._parse_and())
        return parts[0] if len(parts) == 1 else lambda values: any(part(values) for part in parts)

    def _parse_and(self) -> Condition:
        parts = [self._parse_comparison()]
        while self._accept("and"):
            parts.append(self._parse_comparison())
        return parts[0] if len(parts) == 1 else lambda values: all(part(values) for part in parts)

    def _parse_comparison(self) -> Condition:
        if self._accept("not"):
            inner = self._parse_comparison()
            return lambda values: not inner(values)
        if self._accept("("):
            inner = self._parse_or()
            if not self._accept(")"):
                raise self._error("a ) is missing")
            return inner
        key, sign, value = self._next("a key"), self._next("a sign"), self._next("a value")
        if sign not in OPERATORS:
            raise self._error(f"{sign} must be one of {' '.join(OPERATORS)}")
        self.keys.add(key)
        parsed = self._parse_yaml(value)
        return lambda values: key in values and _compare(OPERATORS[sign], values[key], value, parsed)

    def _parse_yaml(self, value: str) -> Any:
        """Return a value parsed as YAML, for comparison with lists; None if it is not valid YAML."""
        try:
            return yaml.safe_load(value)
        except RecursionError:
            raise self._error("it is nested too deeply") from None
        except Exception:  # PyYAML raises many types, such as for a date that does not exist or thousands of digits
            return None

    def _accept(self, word: str) -> bool:
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
        return UserError(
            f"{self.option}={shown}: {why}; for example {self.option}='val/acc > 0.97 and optimizer.lr < 0.01'"
        )


def _compare(sign: Callable[[Any, Any], bool], found: Any, text: str, parsed: Any) -> bool:
    """Compare a run's value with a condition's, which is given as text and parsed as YAML."""
    if isinstance(found, list):
        return parsed is not None and sign in (operator.eq, operator.ne) and sign(found, parsed)
    if found is None or isinstance(found, bool):
        if sign not in (operator.eq, operator.ne):
            return False
        found = {None: "null", True: "true", False: "false"}[found]
    if isinstance(found, int | float):
        try:
            number, value = float(text), float(found)
        except (ValueError, OverflowError):
            return False
        digits = len(re.sub(r"e.*|[^0-9]", "", text.lower()).lstrip("0"))
        # Tables show rounded values, so a number with four or more digits equals all values that round to it.
        rounds = sign in (operator.eq, operator.ne) and digits >= MIN_ROUNDED_DIGITS
        return sign(float(f"{value:.{digits}g}") if rounds else value, number)
    return sign(str(found), text)

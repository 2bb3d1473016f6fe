"""Values as they stand in overrides, in the texts of a study, and in conditions."""

import re
from collections.abc import Callable
from typing import Any

from hydra._internal.grammar.utils import escape_special_characters  # of which Hydra has no public name
from hydra.core.override_parser.types import Quote, QuotedString


def as_text(
    value: Any,
    string: Callable[[str], str] = lambda text: text,
    quoted: Callable[[QuotedString], str] = QuotedString.with_quotes,
) -> str:
    """A value as it stands in an override.

    Args:
        value: As Hydra has parsed it.
        string: Of a text.
        quoted: Of a text that stood in quotes.

    Example:
        >>> as_text([True, None, 0.5])
        '[true,null,0.5]'
    """
    if isinstance(value, QuotedString):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(as_text(each, string, quoted) for each in value)}]"
    if isinstance(value, dict):
        pairs = (f"{as_text(key, string, quoted)}:{as_text(each, string, quoted)}" for key, each in value.items())
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, str):
        return string(value)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def as_typed(value: Any) -> str:
    """A value of a search: signs that would end it are escaped."""
    return as_text(
        value, lambda text: escape_special_characters(text) if re.search(r"[()\[\]{}=,]", text) else text
    )


def in_quotes(value: Any) -> str:
    """A value of a zip: a text stands in quotes, unless it is a word and no other value.

    Example:
        >>> [in_quotes(value) for value in ("mlp", "1", 1, "a b")]
        ['mlp', "'1'", '1', "'a b'"]
    """
    word = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_]\w*", re.IGNORECASE | re.ASCII)
    return as_text(
        value, lambda text: text if word.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()
    )


def as_meant(value: Any) -> str:
    """A value as conditions compare it: quotes are none of it."""
    return as_text(value, quoted=lambda text: text.text)

"""Configurations as nested dictionaries and lists of plain values."""

import ast
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

# Of nested values; before Python 3.14, the parser of JSON refuses a thousand itself.
MAX_DEPTH = 500
KeyPath = tuple[Any, ...]  # keys from the root down; an `Index` is a place in a list


class Index(int):
    """A place in a list."""


def leaves(node: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield each plain value of a configuration with its path.

    A list of plain values counts as one value.
    """
    if isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        pairs: Any = ((Index(number), value) for number, value in enumerate(node))
    elif isinstance(node, dict) and node:
        pairs = node.items()
    else:
        yield path, node
        return
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def _part(key: Any) -> str:
    """Return a key in a dotted path; an index, and a key that would be ambiguous, in brackets."""
    if isinstance(key, Index):
        return f"[{int(key)}]"
    if not key or {*".["} & {*key}:
        return f"[{key!r}]"
    return str(key)


def flatten(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and plain values of a configuration.

    The result is unique to the configuration.

    Example:
        >>> dict(flatten({"optimizer": {"lr": 0.1}, "x": [{"y": 1}], "a.b": 2}))
        {'optimizer.lr': 0.1, 'x.[0].y': 1, "['a.b']": 2}
    """
    for path, value in leaves(node):
        yield ".".join(map(_part, path)), value


# A part of a dotted key, as `_part` writes it: an index, a key in quotes, or a plain key.
PART = re.compile(
    r"""\[(\d{1,9})\]|\[('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]|([^.\[]+)""", re.ASCII | re.DOTALL
)


def _path(key: str) -> KeyPath:
    """Return the path of a dotted key.

    Raises:
        ValueError: It is not a dotted key.
    """
    path: list[Any] = []
    place = 0
    while not path or place < len(key):
        if path and key[place] != ".":
            raise ValueError(f"{key!r} is not a dotted key")
        match = PART.match(key, place + 1 if path else 0)
        if match is None:
            raise ValueError(f"{key!r} is not a dotted key")
        index, quoted, plain = match.groups()
        if index:
            path.append(Index(index))
        elif quoted:
            path.append(ast.literal_eval(quoted))
        else:
            path.append(plain)
        place = match.end()
    if len(path) > MAX_DEPTH:
        raise ValueError(f"a key has more than {MAX_DEPTH} parts")
    return tuple(path)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration that `flatten` has made flat.

    Raises:
        ValueError: There is none: a key is wrong, or belongs to a value.

    Example:
        >>> nested({"optimizer.lr": 0.1, "x.[0].y": 1, "['a.b']": 2})
        {'optimizer': {'lr': 0.1}, 'x': [{'y': 1}], 'a.b': 2}
    """
    root: dict[str, Any] = {}
    if flat == {"": {}}:
        return root
    for key, value in flat.items():
        *parents, last = _path(key)
        node = root
        for part in parents:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                raise ValueError(f"{key!r} is a part of a value")
        if last in node:
            raise ValueError(f"{key!r} has two values")
        node[last] = value
    found: dict[str, Any] = _with_lists(root)
    if not isinstance(found, dict):
        raise ValueError("its keys are numbers")
    return found


def _with_lists(node: Any) -> Any:
    """Return nested values in which a dictionary by index has become a list."""
    if not isinstance(node, dict) or not node:
        return node
    values = [_with_lists(value) for value in node.values()]
    if not any(isinstance(key, Index) for key in node):
        return dict(zip(node, values, strict=True))
    if [*node] != [*range(len(node))]:
        raise ValueError("the places in a list are not in order")
    return values


K = TypeVar("K", bound=Hashable)


class _Absent:
    """The value of a key that a configuration lacks."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()


def dict_at(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the dictionary at a key.

    Empty if there is none, as in a damaged record, or in a stranger's.
    """
    part = node.get(key)
    if isinstance(part, dict):
        return part
    return {}


def text_of(value: Any) -> str:
    """Return a value as the text by which it is compared.

    A batch limit of 1 is one batch, 1.0 is all batches, and true is neither; but 0 and 0.0 are one,
    and NaN equals NaN.
    """
    if isinstance(value, float) and not value:
        return "0"
    return repr(value)


def differing(a: Mapping[K, Any], b: Mapping[K, Any]) -> dict[K, tuple[Any, Any]]:
    """Return the values of two flat configurations by key, where they differ.

    `ABSENT` for a key that one lacks.

    They are compared by `text_of`.

    Example:
        >>> differing({"seed": 0, "limit": 1, "x": None}, {"seed": 0, "limit": 1.0})
        {'limit': (1, 1.0), 'x': (None, absent)}
    """
    found = {}
    for key in {**a, **b}:
        one = a.get(key, ABSENT)
        other = b.get(key, ABSENT)
        if text_of(one) != text_of(other):
            found[key] = one, other
    return found


def is_plain(node: Any) -> bool:
    """Return whether a configuration has only types that YAML and JSON share."""
    if isinstance(node, dict):
        return all(isinstance(key, str) and is_plain(value) for key, value in node.items())
    if isinstance(node, list):
        return all(map(is_plain, node))
    return node is None or isinstance(node, str | int | float)

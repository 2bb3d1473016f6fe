"""Configurations as plain values: nested dictionaries and lists."""

from collections.abc import Iterator
from typing import Any

Path = tuple[Any, ...]  # keys from the root on; whole numbers are places in a list


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the plain values of a configuration with their paths; a list of plain values is one value."""
    if isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        pairs: Any = enumerate(node)
    elif isinstance(node, dict) and node:
        pairs = node.items()
    else:
        yield path, node
        return
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def dotted(path: Path) -> str:
    """Return a path as text: `optimizer.lr`; what would be mistaken for another key stands in brackets."""
    return ".".join(key if isinstance(key, str) and not {".", "["} & {*key} else f"[{key!r}]" for key in path)


def flatten(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and the plain values of a configuration: `optimizer.lr`; no two configurations give the same.

    Example:
        >>> dict(flatten({"optimizer": {"lr": 0.1}, "x": [{"y": 1}], "a.b": 2}))
        {'optimizer.lr': 0.1, 'x.[0].y': 1, "['a.b']": 2}
    """
    for path, value in leaves(node):
        yield dotted(path), value


MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 10_000, 50, 40


def is_plain(node: Any) -> bool:
    """Whether it is made of what YAML and JSON share: its other types can hide something from a check.

    Aliases can make a small file an endless configuration, so one of more than `MAX_VALUES` values is none either, nor
    one that is nested deeper than `MAX_DEPTH` or has whole numbers of more than `MAX_DIGITS` digits.
    """
    left = [(node, 0)]
    for _ in range(MAX_VALUES):
        if not left:
            return True
        node, depth = left.pop()
        if depth > MAX_DEPTH or (isinstance(node, int) and abs(node) >= 10**MAX_DIGITS):
            return False
        if isinstance(node, dict):
            if not all(isinstance(key, str | int) for key in node):
                return False
            left += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            left += [(value, depth + 1) for value in node]
        elif not (node is None or isinstance(node, str | int | float)):
            return False
    return False

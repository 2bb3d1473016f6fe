"""Configurations as plain values: nested dictionaries and lists."""

from collections.abc import Iterator
from typing import Any


def flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a plain configuration: `optimizer.lr`; a list of plain values is one value."""
    if isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        node = dict(enumerate(node))
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def is_plain(node: Any) -> bool:
    """Whether it is made of what YAML and JSON share: its other types can hide something from a check."""
    if isinstance(node, dict):
        return all(isinstance(key, str | int) and is_plain(value) for key, value in node.items())
    if isinstance(node, list):
        return all(map(is_plain, node))
    return node is None or isinstance(node, str | int | float)

"""Configurations as nested dictionaries and lists of plain values."""

import ast
import re
from collections.abc import Hashable, Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf

Path = tuple[Any, ...]  # keys from the root down; an `Index` is a place in a list


MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 10_000, 50, 40


class Index(int):
    """A place in a list; a mapping's key can be a number, too."""


def targets(config: Any) -> list[str]:
    """Return all values of `_target_` in a configuration, each once: the network's, the data's and the task's first."""
    plain: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    first = {key: plain[key] for key in ("model", "data", "task") if key in plain}
    found = [value for path, value in leaves({**first, **plain}) if path and path[-1] == "_target_"]
    return [name for name in dict.fromkeys(found) if isinstance(name, str) and name != "???"]


def leaves(node: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each plain value of a configuration with its path; a list of plain values counts as one value."""
    if isinstance(node, list) and any(isinstance(value, dict | list) for value in node):
        pairs: Any = ((Index(number), value) for number, value in enumerate(node))
    elif isinstance(node, dict) and node:
        pairs = node.items()
    else:
        yield path, node
        return
    for key, value in pairs:
        yield from leaves(value, (*path, key))


def dotted(path: Path) -> str:
    """Return a path as text, such as `optimizer.lr`; indices and ambiguous keys are put in brackets, numbers in braces."""
    return ".".join(map(_part, path))


def _part(key: Any) -> str:
    if isinstance(key, str):
        return f"[{key!r}]" if not key or {*".[{"} & {*key} else key
    return f"[{int(key)}]" if isinstance(key, Index) else f"{{{key!r}}}"


def flatten(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield the dotted keys and plain values of a configuration; the result is unique to the configuration.

    Example:
        >>> dict(flatten({"optimizer": {"lr": 0.1}, "x": [{"y": 1}], "a.b": 2}))
        {'optimizer.lr': 0.1, 'x.[0].y': 1, "['a.b']": 2}
    """
    for path, value in leaves(node):
        yield dotted(path), value


PART = re.compile(
    r"""\[(?P<index>\d+)\]|\[(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")\]|\{(?P<number>-?\d+|True|False)\}|[^.\[{]+"""
)


def unflatten(flat: Mapping[str, Any]) -> Any:
    """Return the configuration that `flatten` yielded these keys and values of.

    Raises:
        ValueError: The keys are not those of a configuration.

    Example:
        >>> unflatten({"optimizer.lr": 0.1, "x.[0].y": 1, "['a.b']": 2})
        {'optimizer': {'lr': 0.1}, 'x': [{'y': 1}], 'a.b': 2}
    """
    root: dict[Any, Any] = {}
    for text, value in flat.items():
        node, path = root, [Index(0), *_parts(text)]
        if len(path) > MAX_DEPTH:
            raise ValueError(f"a key has more than {MAX_DEPTH} parts")
        for key in path[:-1]:
            node = node.setdefault(key, _Node())
            if type(node) is not _Node:
                raise ValueError(f"{text}: {key} has a value")
        if path[-1] in node:
            raise ValueError(f"{text}: is there twice")
        node[path[-1]] = value
    return _as_config(root.get(0, {}))


class _Node(dict[Any, Any]):
    """A part of a configuration; an empty mapping is a value."""


def _parts(text: str) -> Iterator[Any]:
    """Yield the keys of a dotted path."""
    position = 0
    while text and position < len(text) + 1:
        found = PART.match(text, position)
        if not found or (found.end() < len(text) and text[found.end()] != "."):
            raise ValueError(f"{text}: is not a key")
        if found["index"]:
            yield Index(found["index"])
        elif found["text"] or found["number"]:
            try:
                yield ast.literal_eval(found["text"] or found["number"])
            except SyntaxError as error:
                raise ValueError(f"{text}: is not a key") from error
        else:
            yield found[0]
        position = found.end() + 1


def _as_config(node: Any) -> Any:
    if type(node) is not _Node:
        return node
    values = {key: _as_config(value) for key, value in node.items()}
    if not any(isinstance(key, Index) for key in values):
        return values
    if [*values] != [*range(len(values))] or not all(isinstance(key, Index) for key in values):
        raise ValueError("a list has gaps")
    return [*values.values()]


K = TypeVar("K", bound=Hashable)


class _Absent:
    """The value of a key that a configuration lacks."""

    def __repr__(self) -> str:
        return "absent"


ABSENT: Any = _Absent()


def dict_at(node: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return the dictionary at a key; empty if there is none, as in a damaged record, or in a stranger's."""
    return part if isinstance(part := node.get(key), dict) else {}


def text_of(value: Any) -> str:
    """Return a value as the text by which it is compared.

    A batch limit of 1 is one batch, 1.0 is all batches, and true is neither; but 0 and 0.0 are one, and NaN equals NaN.
    """
    return "0" if isinstance(value, float) and not value else repr(value)


def differing(a: Mapping[K, Any], b: Mapping[K, Any]) -> dict[K, tuple[Any, Any]]:
    """Return the values of two flat configurations by key, where they differ; `ABSENT` for a key that one lacks.

    They are compared by `text_of`.

    Example:
        >>> differing({"seed": 0, "limit": 1, "x": None}, {"seed": 0, "limit": 1.0})
        {'limit': (1, 1.0), 'x': (None, absent)}
    """
    pairs = {key: (a.get(key, ABSENT), b.get(key, ABSENT)) for key in {**a, **b}}
    return {key: pair for key, pair in pairs.items() if text_of(pair[0]) != text_of(pair[1])}


def is_plain(node: Any) -> bool:
    """Return whether a configuration has only types that YAML and JSON share; others could evade checks.

    YAML aliases can turn a small file into an endless configuration. So it may have at most `MAX_VALUES` values,
    be nested at most `MAX_DEPTH` deep, and have integers of at most `MAX_DIGITS` digits.
    """
    remaining = [(node, 0)]
    for _ in range(MAX_VALUES):
        if not remaining:
            return True
        node, depth = remaining.pop()
        if depth > MAX_DEPTH or (isinstance(node, int) and abs(node) >= 10**MAX_DIGITS):
            return False
        if isinstance(node, dict):
            if not all(isinstance(key, str | int) for key in node):
                return False
            remaining += [(value, depth + 1) for value in node.values()]
        elif isinstance(node, list):
            remaining += [(value, depth + 1) for value in node]
        elif not (node is None or isinstance(node, str | int | float)):
            return False
    return False

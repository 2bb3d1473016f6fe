"""Kinds of values that strangers' work keeps, how each changes, and the number that training reads from it."""

import collections
import enum
import itertools
import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from leyden.exact.digest import digest_of_content


class Level(enum.Enum):
    """A member of an own `Enum`."""

    LOW, MIDDLE, HIGH = range(3)


Point = collections.namedtuple("Point", "x y")


class Made:
    """An object of an own class."""

    def __init__(self, size):
        self.size = size


class Bag(dict):
    """A container of an own class."""


KEPT, NAMED, SEEN = "kept", "named", "seen"
GENERATORS = ("random", "numpy_rng", "random_state", "torch_rng")  # a `state_dict` may not hold one


class Kind(NamedTuple):
    """A kind of value."""

    about: str  # as the page calls it
    make: Callable[[], Any]  # returns the value at the start
    change: Callable[[Any], Any]  # returns another value, or writes to the one that is there
    outcome: str  # a checkpoint holds it, it is named as soon as it has changed, or it is seen by what it does
    is_mutable: bool  # whether `change` writes

    def changed(self, value):
        found = self.change(value)
        return value if self.is_mutable else found


def content(value) -> float:
    """Return a number that follows from all of a value; of generators and iterators, draw it."""
    match value:
        case random.Random() | np.random.Generator():
            return value.random()
        case np.random.RandomState():
            return value.random_sample()
        case torch.Generator():
            return torch.rand(1, generator=value).item()
        case Iterator():
            return content(next(value))
    return float(int(digest_of_content(value() if callable(value) else value)[:8], 16))


def _more(value):
    value = value.copy()
    value[0] += 1
    return value


def _next_function(value):
    num = value() + 1
    return lambda: num


def new(about, make, change, outcome=KEPT):
    """A kind whose change is another value."""
    return Kind(about, make, change, outcome, is_mutable=False)


def written(about, make, change, outcome=KEPT):
    """A kind that is written to; to read a generator or an iterator is to change it."""
    return Kind(about, make, change, outcome, is_mutable=True)


def nested(*parts):
    return torch.nested.nested_tensor([*parts], layout=torch.jagged)


FIELDS = [("rate", float), ("num", int)]
# `exact/test_memory.py` has more of each sort.
KINDS = {
    "none": new("a number that becomes `None`", lambda: 1.0, lambda value: None),
    "bool": new("a flag", lambda: False, lambda value: True),
    "int": new("an integer", lambda: 0, lambda value: value + 1),
    "float": new("a float", lambda: 1.0, lambda value: 0.9 * value + 0.05),
    "str": new("a text", lambda: "a", lambda value: value + "b"),
    "enum": new("a member of an `Enum`", lambda: Level.LOW, lambda value: Level(min(value.value + 1, 2))),
    "tuple": new("a tuple", lambda: (1,), lambda value: (*value[-8:], len(value) + value[-1])),
    "list": written("a list", lambda: [1], lambda value: value.append(len(value))),
    "dict": written("a dictionary", dict, lambda value: value.update({(len(value), "a"): 1})),
    "in_depth": written(
        "containers in containers",
        lambda: {"a": [(1, [])]},
        lambda value: value["a"][0][1].append(1 + len(value["a"][0][1])),
    ),
    "set": written("a set", lambda: {0}, lambda value: value.add(len(value))),
    "frozenset": new("a frozen set", lambda: frozenset({0}), lambda value: value | {len(value)}),
    "deque": written(
        "a deque of a length", lambda: deque([1], maxlen=4), lambda value: value.append(value[-1] + 1)
    ),
    "defaultdict": written(
        "a `defaultdict`", lambda: defaultdict(list), lambda value: value["a"].append(len(value["a"]))
    ),
    "namedtuple": new("a named tuple", lambda: Point(0, 1), lambda value: value._replace(x=value.x + 1), NAMED),
    "tensor": written("a tensor", lambda: torch.zeros(3), lambda value: value.add_(1)),
    "by_data": written("a tensor, by `.data`", lambda: torch.zeros(3), lambda value: value.data.add_(1)),
    "tensors": written(
        "a deque of tensors", lambda: deque([torch.zeros(2)], maxlen=5), lambda value: value.append(value[-1] + 1)
    ),
    "sparse": new(
        "a sparse tensor", lambda: torch.eye(3).to_sparse(), lambda value: value + torch.eye(3).to_sparse()
    ),
    "array": written("an array", lambda: np.zeros(3), lambda value: np.add(value, 1, out=value)),
    "structured": written(
        "a structured array",
        lambda: np.zeros(2, FIELDS),
        lambda value: np.add(value["num"], 1, out=value["num"]),
        NAMED,
    ),
    "scalar": new("a NumPy number", lambda: np.float32(0), lambda value: value + np.float32(1)),
    "random": written("a `random.Random`", lambda: random.Random(0), content),
    "numpy_rng": written("a NumPy generator", lambda: np.random.default_rng(0), content),
    "random_state": written("a `RandomState`", lambda: np.random.RandomState(0), content),
    "torch_rng": written("a `torch.Generator`", lambda: torch.Generator().manual_seed(0), content),
    "objects": new("an array of objects", lambda: np.array([0, "a"], dtype=object), _more, NAMED),
    "subclass": written("a dictionary of an own class", Bag, lambda value: value.update({len(value): 1})),
    "nested": new(
        "a nested tensor",
        lambda: nested(torch.ones(2), torch.ones(3)),
        lambda value: nested(*(each + 1 for each in value.unbind())),
        NAMED,
    ),
    "iterator": written("an iterator", lambda: itertools.count(1), next, NAMED),
    "generator": written("a generator function's", lambda: (each / 9 for each in range(10**6)), next, NAMED),
    "made": written("objects made in training", list, lambda value: value.append(Made(len(value) + 1)), NAMED),
    "function": new("a function", lambda: lambda: 1, _next_function, SEEN),
}

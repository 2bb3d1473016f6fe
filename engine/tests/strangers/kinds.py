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
    LOW, MIDDLE, HIGH = range(3)


Point = collections.namedtuple("Point", "x y")


class Made:
    def __init__(self, size):
        self.size = size


class Bag(dict):
    """A container of an own class."""


KEPT = "kept"
NAMED = "named"
SEEN = "seen"
GENERATORS = ("random", "numpy_rng", "random_state", "torch_rng")  # a `state_dict` may not hold one


class Kind(NamedTuple):
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


def returning(num=1):
    return lambda: num


def new(about, make, change, outcome=KEPT):
    return Kind(about, make, change, outcome, is_mutable=False)


def written(about, make, change, outcome=KEPT):
    """A kind that is written to; to read a generator or an iterator is to change it."""
    return Kind(about, make, change, outcome, is_mutable=True)


def nested(*parts):
    return torch.nested.nested_tensor([*parts], layout=torch.jagged)


# `exact/test_memory.py` has more of each sort.
KINDS = {
    "none": new("a number that becomes `None`", lambda: 1.0, lambda it: None),
    "bool": new("a flag", lambda: False, lambda it: True),
    "int": new("an integer", lambda: 0, lambda it: it + 1),
    "float": new("a float", lambda: 1.0, lambda it: 0.9 * it + 0.05),
    "str": new("a text", lambda: "a", lambda it: it + "b"),
    "enum": new("a member of an `Enum`", lambda: Level.LOW, lambda it: Level(min(it.value + 1, 2))),
    "tuple": new("a tuple", lambda: (1,), lambda it: (*it[-8:], len(it) + it[-1])),
    "list": written("a list", lambda: [1], lambda it: it.append(len(it))),
    "dict": written("a dictionary", dict, lambda it: it.update({(len(it), "a"): 1})),
    "in_depth": written(
        "containers in containers", lambda: {"a": [(1, [])]}, lambda it: it["a"][0][1].append(1)
    ),
    "set": written("a set", lambda: {0}, lambda it: it.add(len(it))),
    "frozenset": new("a frozen set", lambda: frozenset({0}), lambda it: it | {len(it)}),
    "deque": written(
        "a deque of a length", lambda: deque([1], maxlen=4), lambda it: it.append(it[-1] + 1)
    ),
    "defaultdict": written(
        "a `defaultdict`", lambda: defaultdict(list), lambda it: it["a"].append(len(it["a"]))
    ),
    "namedtuple": new(
        "a named tuple", lambda: Point(0, 1), lambda it: it._replace(x=it.x + 1), NAMED
    ),
    "tensor": written("a tensor", lambda: torch.zeros(3), lambda it: it.add_(1)),
    "by_data": written("a tensor, by `.data`", lambda: torch.zeros(3), lambda it: it.data.add_(1)),
    "tensors": written(
        "a deque of tensors", lambda: deque([torch.zeros(2)], 5), lambda it: it.append(it[-1] + 1)
    ),
    "sparse": new(
        "a sparse tensor",
        lambda: torch.eye(3).to_sparse(),
        lambda it: it + torch.eye(3).to_sparse(),
    ),
    "array": written("an array", lambda: np.zeros(3), lambda it: np.add(it, 1, out=it)),
    "structured": written(
        "a structured array",
        lambda: np.zeros(2, "f8,i8"),
        lambda it: it["f1"].put(0, it["f1"][0] + 1),
        NAMED,
    ),
    "scalar": new("a NumPy number", lambda: np.float32(0), lambda it: it + np.float32(1)),
    "random": written("a `random.Random`", lambda: random.Random(0), content),
    "numpy_rng": written("a NumPy generator", lambda: np.random.default_rng(0), content),
    "random_state": written("a `RandomState`", lambda: np.random.RandomState(0), content),
    "torch_rng": written("a `torch.Generator`", lambda: torch.Generator().manual_seed(0), content),
    "objects": new(
        "an array of objects",
        lambda: np.array([0, "a"], object),
        lambda it: np.append(it, 1),
        NAMED,
    ),
    "subclass": written("a dictionary of an own class", Bag, lambda it: it.update({len(it): 1})),
    "nested": new(
        "a nested tensor", lambda: nested(torch.ones(2), torch.ones(3)), lambda it: it + 1, NAMED
    ),
    "iterator": written("an iterator", lambda: itertools.count(1), next, NAMED),
    "generator": written(
        "a generator function's", lambda: (each / 9 for each in range(10**6)), next, NAMED
    ),
    "made": written(
        "objects made in training", list, lambda it: it.append(Made(len(it) + 1)), NAMED
    ),
    "function": new("a function", returning, lambda it: returning(it() + 1), SEEN),
}

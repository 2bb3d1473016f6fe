"""Kinds of values that strangers' work keeps, how each changes, and the number that training reads from it."""

import collections
import enum
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


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
    """A kind of value.

    Args:
        about: As the page calls it.
        make: Return the value at the start.
        change: Return the changed value: the same object where that can be.
        is_mutable: Whether `change` writes in place.
        outcome: What comes of it: a checkpoint holds it, it is named as soon as it has changed, or it is seen by what it does.
    """

    about: str
    make: Callable[[], Any]
    change: Callable[[Any], Any]
    is_mutable: bool = False
    outcome: str = KEPT


def content(value) -> float:
    """Return a number that follows from all of a value; of generators and iterators, draw it."""
    match value:
        case None:
            return 0.5
        case enum.Enum():
            return content(value.value)
        case np.generic():
            return content(np.asarray(value))
        case int():
            return float(value % 100_003)
        case float():
            return value
        case str():
            return float(len(value))
        case random.Random() | np.random.Generator():
            return value.random()
        case np.random.RandomState():
            return value.random_sample()
        case torch.Generator():
            return torch.rand(1, generator=value).item()
        case Tensor():
            return _content_of_tensor(value)
        case np.ndarray():
            return content(value.tolist())
        case dict():
            return content([*value.items()])
        case set() | frozenset():
            return sum(content(each) for each in value)
        case list() | tuple() | collections.deque():
            return sum((1 + n / 7) * content(each) for n, each in enumerate(value))
        case Iterator():
            return content(next(value))
        case Made():
            return content(value.size)
    return content(value())


def _content_of_tensor(value):
    if value.is_nested:
        return content([*value.unbind()])
    return content(
        value.to_dense().double().reshape(-1).tolist() if value.layout != torch.strided else value.tolist()
    )


def _written(write):
    """A change in place."""

    def change(value):
        write(value)
        return value

    return change


def _add(value):
    value += 1


def _add_by_data(value):
    value.data += 1


def _in_depth(value):
    value["a"][0][1]["b"].append(1 + len(value["a"][0][1]["b"]))


def _counted_field(value):
    value["num"] += 1


def _more_nested(value):
    return torch.nested.nested_tensor([each + 1 for each in value.unbind()], layout=torch.jagged)


def _more(value):
    value = value.copy()
    value[0] += 1
    return value


def _next_function(value):
    num = value() + 1
    return lambda: num


KINDS = {
    # Plain values; `exact/test_memory.py` has more of each sort.
    "none": Kind("a number that becomes `None`", lambda: 1.0, lambda value: None),
    "bool": Kind("a flag", lambda: False, lambda value: True),
    "int": Kind("an integer", lambda: 0, lambda value: value + 1),
    "float": Kind("a float", lambda: 1.0, lambda value: 0.9 * value + 0.05),
    "str": Kind("a text", lambda: "a", lambda value: value + "b"),
    "enum": Kind("a member of an `Enum`", lambda: Level.LOW, lambda value: Level(min(value.value + 1, 2))),
    # Containers
    "tuple": Kind("a tuple", lambda: (1,), lambda value: (*value[-8:], len(value) + value[-1])),
    "list": Kind("a list", lambda: [1], _written(lambda value: value.append(len(value))), True),
    "dict": Kind("a dictionary", dict, _written(lambda value: value.update({(len(value), "a"): 1})), True),
    "in_depth": Kind("containers in containers", lambda: {"a": [(1, {"b": []})]}, _written(_in_depth), True),
    "set": Kind("a set", lambda: {0}, _written(lambda value: value.add(len(value))), True),
    "frozenset": Kind("a frozen set", lambda: frozenset({0}), lambda value: value | {len(value)}),
    "deque": Kind(
        "a deque of a length",
        lambda: collections.deque([1], maxlen=4),
        _written(lambda value: value.append(value[-1] + 1)),
        True,
    ),
    "defaultdict": Kind(
        "a `defaultdict`",
        lambda: collections.defaultdict(list),
        _written(lambda value: value["a"].append(len(value["a"]))),
        True,
    ),
    "namedtuple": Kind(
        "a named tuple", lambda: Point(0, 1), lambda value: value._replace(x=value.x + 1), False, NAMED
    ),
    # Tensors
    "tensor": Kind("a tensor", lambda: torch.zeros(3), _written(_add), True),
    "by_data": Kind("a tensor, by `.data`", lambda: torch.zeros(3), _written(_add_by_data), True),
    "tensors": Kind(
        "a deque of tensors",
        lambda: collections.deque([torch.zeros(2)], maxlen=5),
        _written(lambda value: value.append(value[-1] + 1)),
        True,
    ),
    "sparse": Kind(
        "a sparse tensor", lambda: torch.eye(3).to_sparse(), lambda value: value + torch.eye(3).to_sparse()
    ),
    # NumPy
    "array": Kind("an array", lambda: np.zeros(3), _written(_add), True),
    "structured": Kind(
        "a structured array",
        lambda: np.zeros(2, dtype=[("rate", float), ("num", int)]),
        _written(_counted_field),
        True,
        NAMED,
    ),
    "scalar": Kind("a NumPy number", lambda: np.float32(0), lambda value: value + np.float32(1)),
    # Generators: to read one is to change it
    "random": Kind("a `random.Random`", lambda: random.Random(0), _written(lambda value: value.random()), True),
    "numpy_rng": Kind(
        "a NumPy generator", lambda: np.random.default_rng(0), _written(lambda value: value.random()), True
    ),
    "random_state": Kind(
        "a `RandomState`", lambda: np.random.RandomState(0), _written(lambda value: value.random_sample()), True
    ),
    "torch_rng": Kind(
        "a `torch.Generator`",
        lambda: torch.Generator().manual_seed(0),
        _written(lambda value: torch.rand(1, generator=value)),
        True,
    ),
    "objects": Kind("an array of objects", lambda: np.array([0, "a"], dtype=object), _more, False, NAMED),
    "subclass": Kind(
        "a dictionary of an own class", Bag, _written(lambda value: value.update({len(value): 1})), True
    ),
    # What no checkpoint holds
    "nested": Kind(
        "a nested tensor",
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged),
        _more_nested,
        False,
        NAMED,
    ),
    "iterator": Kind("an iterator", lambda: itertools.count(1), _written(next), True, NAMED),
    "generator": Kind(
        "a generator function's", lambda: (each / 9 for each in range(10**6)), _written(next), True, NAMED
    ),
    "made": Kind(
        "objects made in training", list, _written(lambda value: value.append(Made(len(value) + 1))), True, NAMED
    ),
    "function": Kind("a function", lambda: lambda: 1, _next_function, False, SEEN),
}

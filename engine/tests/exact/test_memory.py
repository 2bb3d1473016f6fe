"""Attributes of somebody's objects: what has changed is kept as torch reads it, and restored where it was."""

import argparse
import collections
import io
import itertools
import random
import subprocess
import sys
import time
import types

import lightning as L
import numpy as np
import pytest
import torch

from leyden.exact import memory as memory_module
from leyden.exact.memory import NOT_KEPT, NOT_RESTORED, NOT_SEEN, Memory, _array, path_name, thaw
from tests.strangers.kinds import KEPT, KINDS, SEEN, Bag, Level, content


def holder(value="before", **more):
    return types.SimpleNamespace(value=value, **more)


def twice(value):
    return holder(value, alias=value)


def set_value(make):
    return lambda it: setattr(it, "value", make())


def names(kept):
    return {path_name(path) for path in thaw(kept)}


def moved(change, make, can_be_kept=True):
    """Change an object, and restore the change in another one; return both."""
    first, second = make(), make()
    memory, other = Memory({"it": first}), Memory({"it": second})
    change(first)
    other.restore(memory.changes())
    assert {*memory.problems} == ({*()} if can_be_kept else {NOT_KEPT})
    assert not other.problems
    return first, second


class World:
    def __init__(self):
        self.rng, self.log = random.Random(0), []


def test_what_does_not_change_is_not_kept():
    memory = Memory({"it": holder(World(), names={"a"}, layer=torch.nn.Linear(1, 1))})
    assert names(memory.changes()) == {
        "it.value.rng"
    }  # generators may have been seeded from the time of day
    assert not memory.problems


VALUES = [
    *(
        1,
        2.5,
        float("nan"),
        True,
        None,
        "text",
        b"bytes",
        1 + 2j,
        2**80,
        (1, "a"),
        {1, 2},
        frozenset({3}),
    ),
    *(
        collections.deque([1, 2], maxlen=2),
        collections.OrderedDict(a=[1, {"b": (2,)}]),
        {(1, 2): 3, "x": None},
    ),
    *(collections.Counter("aab"), collections.defaultdict(list, {1: [2]}), torch.ones(2, 3).shape),
    *(
        np.float32(0.1),
        np.str_("x"),
        np.array("2026-11-27", dtype="datetime64[D]"),
        np.zeros((0, 2)),
    ),
    *(
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2],
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ),
    *(
        torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
        torch.zeros(1).expand(5),
        torch.arange(9)[3:5],
    ),
    *(torch.tensor([1 + 2j]).conj(), torch.eye(3).to_sparse(), torch.zeros(0, 3)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_each_value_that_a_checkpoint_can_hold_is_what_it_was(value):
    _, other = moved(set_value(lambda: value), holder)
    assert type(other.value) is type(value)
    assert str(other.value) == str(value)
    assert (
        not isinstance(value, np.ndarray)
        or other.value.flags.f_contiguous == value.flags.f_contiguous
    )


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.outcome != SEEN])
def test_each_kind_is_kept_or_named_and_what_is_written_to_stays_the_object_that_others_hold(name):
    kind = KINDS[name]
    change = lambda it: setattr(it, "value", kind.changed(it.value))  # noqa: E731
    first, other = moved(change, lambda: twice(kind.make()), kind.outcome == KEPT)
    if kind.outcome == KEPT:
        assert content(other.value) == content(first.value)
        assert (other.alias is other.value) == (first.alias is first.value)


class Labelled(torch.Tensor):
    """A tensor with an attribute, as PINA's."""

    @classmethod
    def of(cls, *labels):
        made = torch.full((2,), float(len(labels))).as_subclass(cls)
        made.labels = [*labels]
        return made


def set_labels(it):
    it.value.labels.append("b")


@pytest.mark.parametrize(
    "change", [set_value(lambda: Labelled.of("a", "b")), set_labels, lambda it: it.value.add_(1)]
)
def test_a_tensor_of_an_own_class_is_kept_as_its_data_and_attributes(change):
    first, other = moved(change, lambda: twice(Labelled.of("a")))
    assert type(other.value) is Labelled
    assert torch.equal(other.value, first.value)
    assert other.value.labels == first.value.labels
    assert (other.alias is other.value) == (first.alias is first.value)


def test_a_view_of_much_is_kept_alone():
    memory = Memory({"it": (owner := holder())})
    empty = memory.changes().nbytes
    owner.value = torch.zeros(10**6)[:2]
    assert memory.changes().nbytes < empty + 1000


def test_what_is_changed_in_place_stays_the_object_that_others_hold():
    for make, change in (
        (lambda: collections.defaultdict(lambda: 0), lambda it: it.value.__setitem__("a", 2)),
        (lambda: np.zeros((3, 4)).T, lambda it: it.value.fill(2)),
    ):
        first, other = moved(change, lambda make=make: twice(make()))
        assert other.alias is other.value
        assert str(other.value).partition(" at ")[0] == str(first.value).partition(" at ")[0]
    _, other = moved(lambda it: setattr(it, "alias", it.value), lambda: holder([1]))
    assert other.alias == [1]


def test_a_generator_in_a_list_resumes_where_it_was():
    seeds = itertools.count()
    make = lambda: holder([np.random.Generator(np.random.MT19937(next(seeds)))])  # noqa: E731
    first, other = moved(lambda it: it.value[0].random(), make)
    assert other.value[0].random() == first.value[0].random()


CANT = {
    "objects": (set, lambda it: it.value.add(object())),
    "functions": (lambda: None, set_value(lambda: [lambda: 1])),
    "no values": (lambda: torch.zeros(0), set_value(lambda: torch.zeros(1, device="meta"))),
    "namespace": (lambda: None, set_value(lambda: holder((torch.ones(2),)))),
    "new container": (lambda: None, set_value(Bag)),
    "another default": (lambda: None, set_value(lambda: collections.defaultdict(lambda: 0))),
    "new generator": (lambda: None, set_value(np.random.default_rng)),
    "member in a list": (lambda: None, set_value(lambda: [Level.LOW])),
    "masked": (lambda: np.ma.zeros(2), lambda it: it.value.__setitem__(0, np.ma.masked)),
    "new tensor of an own class": (lambda: None, set_value(lambda: Labelled.of("a"))),
    "itself": (list, lambda it: it.value.append(it.value)),
    "many": (list, lambda it: it.value.extend(range(10**6))),
}


@pytest.mark.parametrize(("before", "change"), CANT.values(), ids=CANT)
def test_what_cant_be_kept_is_named(before, change):
    memory = Memory({"module": (owner := holder(before()))})
    memory.changes()
    assert not memory.problems
    change(owner)
    memory.changes()
    assert {*memory.problems} == {NOT_KEPT}
    assert all(
        each.startswith("module.value") and each.endswith(")") for each in memory.problems[NOT_KEPT]
    )


def test_many_items_cost_nothing():
    owner = holder([*range(10**6)], table=np.zeros((10**4, 10**4), np.float32).T)
    memory, begun = Memory({"it": owner}), time.process_time()
    memory.changes()
    assert time.process_time() - begun < 1  # 0.06 s; with all items and bytes many seconds


def raising(*_):
    raise RuntimeError("no end")


def test_what_can_not_be_walked_or_written_is_named(monkeypatch):
    real = memory_module.freeze_content
    monkeypatch.setattr(
        memory_module, "freeze_content", lambda content: real({1: lambda: 1} if content else {})
    )
    for value, of_known, what, problem in (
        (1, raising, NOT_SEEN, "it (RuntimeError: no end)"),
        (
            type("Locked", (dict,), {"values": raising})(a=1),
            list,
            NOT_SEEN,
            "it (RuntimeError: no end)",
        ),
        (
            type("Endless", (set,), {"__iter__": raising})(),
            list,
            NOT_SEEN,
            "it (RuntimeError: no end)",
        ),
        # as a dictionary that a thread changes while it is written
        (random.Random(0), list, NOT_KEPT, "it ("),
    ):
        memory = Memory({"it": holder(value)}, of_known)
        assert names(memory.changes()) == set()
        assert memory.problems[what][0].startswith(problem)


def test_the_users_classes_are_those_that_are_not_installed(monkeypatch):
    def of(name, file):
        module = types.ModuleType(name)
        module.__file__ = file
        monkeypatch.setitem(sys.modules, name, module)
        return type("Kind", (), {"__module__": name})

    libraries = [
        f"{next(iter(memory_module.INSTALLED))}/a.py",
        "/elsewhere/site-packages/a.py",
        "/x/dist-packages/a.py",
    ]
    assert not any(memory_module.is_own_class(of("theirs", file)) for file in libraries)
    assert not memory_module.is_own_class(of("leyden.mine", "/home/me/leyden/mine.py"))
    assert memory_module.is_own_class(of("mine", "/home/me/mine.py"))


def test_what_is_not_looked_at():
    """Of installed packages, of files, classes, functions and methods: the page says so, and steps are compared."""
    layer, log = torch.nn.Linear(1, 1), []
    owner = holder(
        subprocess,
        method=World().__init__,
        call=lambda: log,
        path=sys.path.append,
        logs=(log, print),
        weights=[layer.weight],  # saved elsewhere
    )
    memory = Memory({"it": owner}, lambda: [*layer.parameters()])
    assert [path_name(path) for path in memory.digests] == ["it.logs"]


def test_hyperparameters_that_change_are_kept():
    def make():
        module = L.LightningModule()
        module.save_hyperparameters({"rate": 1.0})
        return module

    _, other = moved(lambda it: it.hparams.update(rate=2.0), make)
    assert other.hparams.rate == 2.0


class Reduced:
    """Pickled as a call."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def as_bytes(content):
    return torch.frombuffer(bytearray(content), dtype=torch.uint8)


def of_value(value, how="value"):
    """The memory of a value, as a stranger writes it."""
    buffer = io.BytesIO()
    torch.save({(("attribute", "it"), ("attribute", "value")): (how, value)}, buffer)
    return as_bytes(buffer.getvalue())


FIELD = (np.dtype, ("V8", 0, 1), (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0))
RAW = torch.zeros(8, dtype=torch.uint8)
STRANGE = {
    "code": of_value(Reduced(subprocess.check_call, (["touch", "/nowhere/evil"],))),
    "class of a package": of_value(argparse.Namespace()),
    "class of the project": of_value(World()),
    # NumPy's own reader trusts the flags of a structured type, which say that it holds no objects.
    "addresses": of_value(Reduced(*FIELD)),
    "addresses in fields": of_value(Reduced(_array, (RAW, [("a", "O")], (1,), "C"))),
    "NumPy's own": of_value(np.zeros(1)),
    "state of nothing": of_value({}, "state_dict"),
    "generator of nothing": of_value(1, "generator"),
    "nothing": as_bytes(b"\0"),
    "nonsense": as_bytes(b"nonsense"),
}


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
def test_nothing_is_made_or_called_that_a_strangers_checkpoint_names(content):
    memory = Memory({"it": (owner := holder(1))})
    memory.restore(content)
    assert len(memory.problems[NOT_RESTORED]) == 1
    assert owner.value == 1

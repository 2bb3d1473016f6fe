"""Attributes of somebody's objects: what has changed is kept as torch reads it, and restored where it was."""

import collections
import enum
import inspect
import io
import itertools
import random
import subprocess
import sys
import time
import types
import warnings

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import Subset

from leyden.exact import memory as memory_module
from leyden.exact.memory import Memory, _array, _thaw, path_name
from tests.data import changing


def frozen(content):
    """Content as a stranger writes it."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


def begin():
    changing.TOTAL, changing.Learner.num_made = 0, 0
    changing.LOG.clear()
    learner = changing.Learner()
    learner.drawn = float  # a function's variables are not looked at
    return learner


def names(kept):
    """The names of what is kept."""
    return {path_name(path) for path in _thaw(kept)}


def moved(change, make, **more):
    """Change an object, and restore the change in another one.

    Returns:
        Both objects, and the names of what could not be kept or restored.
    """
    first, second = make(), make()
    memory = Memory({"it": first}, **more)
    change(first)
    kept, lost = memory.changes()
    return first, second, lost + Memory({"it": second}, **more).restore(kept)


def holder(value="before"):
    return types.SimpleNamespace(value=value, step=changing.Step(0, 0), phase=Phase.FIRST)


class Phase(enum.Enum):
    FIRST = 1
    SECOND = 2


def test_what_changes_is_restored_where_it_was():
    def learn(learner):
        for _ in range(3):
            learner.learn()

    learner, other, lost = moved(learn, begin)
    assert not lost
    changing.TOTAL = changing.Learner.num_made = 3  # variables of a file and of a class are not looked at
    for each in (learner, other):
        changing.TOTAL, state = 3, changing.NUMBERS.bit_generator.state
        each.learn()
        changing.NUMBERS.bit_generator.state = state
    assert str(other.seen()[:2]) == str(learner.seen()[:2])
    assert other.alias is other.world.log  # one object still


def test_attributes_of_an_object_of_another_class_are_not_set_in_the_one_that_stands_there():
    def replace(here):
        here.value = types.SimpleNamespace(tensors=(torch.ones(2),))

    _, other, lost = moved(replace, lambda: holder(Subset([1], [0])))
    assert "it.value (a SimpleNamespace that was first made in training)" in lost
    assert type(other.value) is Subset
    assert not hasattr(other.value, "tensors")


def test_what_does_not_change_is_not_kept():
    kept, lost = Memory({"it": begin()}).changes()
    # Generators may have been seeded from the time of day.
    assert names(kept) == {"it.world.rng", "it.worlds[0].rng", "it.worlds[1].rng"}
    assert not lost


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    VALUES = [
        *(1, 2.5, float("nan"), True, None, "text", b"bytes", 1 + 2j, 2**80, (1, "a"), {1, 2}, frozenset({3})),
        *(collections.deque([1, 2], maxlen=2), collections.OrderedDict(a=[1, {"b": (2,)}]), {(1, 2): 3, "x": None}),
        *(collections.Counter("aab"), collections.defaultdict(list, {1: [2]}), Phase.SECOND),
        *(
            np.float32(0.1),
            np.str_("x"),
            np.array("2026-11-27", dtype="datetime64[D]"),
            np.array(["a", None], object),
        ),
        *(np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2], np.asfortranarray(np.arange(6.0).reshape(2, 3))),
        *(np.zeros(2, dtype=[("a", float), ("b", "U3")]), torch.zeros(0, 3), torch.ones(2, 3).shape),
        *(torch.tensor([1.5, float("inf")], dtype=torch.bfloat16), torch.zeros(1).expand(5), torch.arange(9)[3:5]),
        *(torch.tensor([1 + 2j]).conj(), torch.eye(3).to_sparse(), torch.eye(3).to_sparse_csr()),
        torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)]),
        torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        changing.Step(1, torch.ones(2)),
    ]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_each_value_that_a_checkpoint_can_hold_is_what_it_was(value):
    _first, other, lost = moved(lambda it: setattr(it, "value", value), holder)
    assert not lost
    assert type(other.value) is type(value)
    assert str(other.value) == str(value)


def test_a_view_of_much_is_kept_alone():
    kept, _ = Memory({"it": types.SimpleNamespace()}).changes()
    owner = types.SimpleNamespace(value=None)
    memory = Memory({"it": owner})
    owner.value = torch.zeros(10**6)[:2]
    assert memory.changes()[0].nbytes < kept.nbytes + 1000


class History(list):
    """A container of somebody's own."""


IN_PLACE = {
    "list": (lambda: [1], lambda value: value.append(2)),
    "dict": (lambda: {"a": 1}, lambda value: value.update(b=2)),
    "own container": (lambda: History([1]), lambda value: value.append(2)),
    "default": (lambda: collections.defaultdict(lambda: 0), lambda value: value.__setitem__("a", 2)),
    "set": (lambda: {1}, lambda value: value.add(2)),
    "deque": (lambda: collections.deque([1], 3), lambda value: value.append(2)),
    "array": (lambda: np.zeros(3), lambda value: value.fill(2)),
    "tensor": (lambda: torch.zeros(3), lambda value: value.fill_(2)),
    "past the version counter": (lambda: torch.zeros(3), lambda value: value.data.fill_(2)),
}


@pytest.mark.parametrize(("make", "change"), IN_PLACE.values(), ids=IN_PLACE)
def test_what_is_changed_in_place_stays_the_object_that_others_hold(make, change):
    def make_two():
        value = make()
        return types.SimpleNamespace(value=value, alias=value)

    first, other, lost = moved(lambda it: change(it.value), make_two)
    assert not lost
    assert other.alias is other.value
    assert str(other.value).partition(" at ")[0] == str(first.value).partition(" at ")[0]
    assert len(other.value) == len(first.value)


def test_an_alias_that_is_new_is_one_object_still():
    _first, other, lost = moved(lambda it: setattr(it, "alias", it.value), lambda: types.SimpleNamespace(value=[1]))
    assert not lost
    assert other.alias == [1]


GENERATORS = {
    "torch": (lambda seed: torch.Generator().manual_seed(seed), lambda rng: torch.rand(1, generator=rng).item()),
    "python": (random.Random, lambda rng: rng.random()),
    "state": (np.random.RandomState, lambda rng: rng.normal()),
    **{
        kind.__name__: (lambda seed, kind=kind: np.random.Generator(kind(seed)), lambda rng: rng.random())
        for kind in (np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64, np.random.PCG64DXSM)
    },
}


@pytest.mark.parametrize(("make", "draw"), GENERATORS.values(), ids=GENERATORS)
@pytest.mark.parametrize("is_late", [False, True])
def test_a_generator_goes_on_where_it_was(make, draw, is_late):
    def change(it):
        it.value = [make(7)] if is_late else it.value
        it.value = make(7) if is_late else it.value
        draw(it.value)

    seeds = itertools.count()
    first, other, lost = moved(change, lambda: holder(None if is_late else make(next(seeds))))
    assert not lost
    assert draw(other.value) == draw(first.value)


def set_value(value):
    return lambda it: setattr(it, "value", value)


CANT = {
    "iterator": (lambda: iter([1, 2]), None),
    "generator": (lambda: (number for number in range(3)), None),
    "objects": (set, lambda it: it.value.add(object())),
    "functions": (lambda: None, set_value([lambda: 1])),
    "no values": (lambda: torch.zeros(0), set_value(torch.zeros(1, device="meta"))),
    "own objects": (lambda: None, set_value([changing.World()])),
    "own object": (lambda: None, set_value(changing.World())),
    "new container": (lambda: None, set_value(History())),
    "another default": (lambda: None, set_value(collections.defaultdict(lambda: 0))),
    "masked": (lambda: np.ma.zeros(2), lambda it: it.value.__setitem__(0, np.ma.masked)),
    "subclass": (lambda: torch.zeros(3).as_subclass(Tagged), lambda it: it.value.data.add_(1)),
    "itself": (list, lambda it: it.value.append(it.value)),
}


class Tagged(torch.Tensor):
    """A tensor with a class of its own."""


@pytest.mark.parametrize(("before", "change"), CANT.values(), ids=CANT)
def test_what_cant_be_kept_is_named(before, change):
    owner = types.SimpleNamespace(value=before())
    memory = Memory({"module": owner})
    if change:
        assert not memory.changes()[1]
        change(owner)
    lost = memory.changes()[1]
    assert lost
    assert all(each.startswith("module.value") and each.endswith(")") for each in lost)


@pytest.mark.parametrize(
    "value", [torch.zeros(3), torch.zeros(300_000), np.zeros((3, 4)).T, np.zeros((2000, 3000))]
)
def test_a_write_past_any_counter_is_seen(value):
    memory = Memory({"it": types.SimpleNamespace(value=value)})
    empty = memory.changes()[0].nbytes
    (value.data if isinstance(value, torch.Tensor) else value)[:] = 1
    assert memory.changes()[0].nbytes > empty


def test_many_items_cost_nothing():
    owner = types.SimpleNamespace(items=[*range(10**6)], table=np.zeros((10**4, 10**4), np.float32).T)
    memory, begun = Memory({"it": owner}), time.process_time()
    memory.changes()
    assert time.process_time() - begun < 1  # 0.06 s; with all items and bytes many seconds


class Locked(dict):
    def values(self):
        raise RuntimeError("changed size during iteration")


def test_what_can_not_be_pickled_or_walked_costs_no_other_value(monkeypatch):
    frozen_values = memory_module._freeze

    def freeze(content):
        if any(path[-1][1] == "bad" for path in content):
            raise OverflowError("too deep")
        return frozen_values(content)

    monkeypatch.setattr(memory_module, "_freeze", freeze)
    owner = types.SimpleNamespace(bad=1, good=1, locked=Locked(a=1))
    memory = Memory({"it": owner})
    owner.bad = owner.good = 2
    kept, lost = memory.changes()
    assert names(kept) == {"it.good"}
    assert lost == ["it.bad (OverflowError: too deep)"]
    assert memory.unseen == {"it.locked": "RuntimeError: changed size during iteration"}


def test_what_can_not_be_walked_at_all_is_named():
    def known():
        raise RuntimeError("not built yet")

    memory = Memory({"module": types.SimpleNamespace(value=1)}, known)
    assert memory.changes()[1] == []
    assert memory.unseen == {"module": "RuntimeError: not built yet"}


def test_what_is_saved_elsewhere_is_neither_kept_nor_restored():
    layer, other = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    memory = Memory({"it": types.SimpleNamespace(layer=layer, weights=[layer.weight])}, list)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    kept, _ = memory.changes()
    known = [*other.parameters()]
    there = Memory({"it": types.SimpleNamespace(layer=other, weights=[other.weight])}, lambda: known)
    before = other.weight.item()
    there.restore(kept)
    assert other.weight.item() == before
    assert names(there.changes()[0]) == set()


def test_what_is_not_looked_at():
    """Of installed packages, of files, classes, functions and methods: the page says so, and steps are compared."""

    def make():
        log = logs = []
        return types.SimpleNamespace(
            process=subprocess,
            method=changing.World().step,
            call=lambda: log,
            path=sys.path.append,
            logs=(logs, print),
        )

    memory = Memory({"it": make()})
    assert [path_name(path) for path in memory.digests] == ["it.logs"]


def test_hyperparameters_that_change_are_kept():
    def make():
        module = L.LightningModule()
        module.save_hyperparameters({"rate": 1.0})
        return module

    _, other, lost = moved(lambda it: it.hparams.update(rate=2.0), make)
    assert not lost
    assert other.hparams.rate == 2.0


class Guarded:
    """An object with a property that does something when it is set, and a method."""

    def __init__(self):
        self.value, self.done = None, []

    @property
    def action(self):
        return None

    @action.setter
    def action(self, value):
        self.done.append(value)

    def act(self):
        """A method."""


class Evil:
    def __reduce__(self):
        return subprocess.check_call, (["touch", "/nowhere/evil"],)


STRANGE = {
    "code": ("value", "value", Evil()),
    "class of a package": ("value", "value", subprocess.CompletedProcess([], 0)),
    "class of the project": ("value", "value", changing.World()),
    "named tuple of a package": ("value", "value", inspect.FullArgSpec(*range(7))),
    "property": ("action", "value", "x"),
    "method": ("act", "value", "x"),
    "dictionary": ("__dict__", "value", {}),
    "class": ("__class__", "value", "x"),
    "state of nothing": ("value", "state_dict", {}),
    "items of nothing": ("value", "items", [1]),
    "generator of nothing": ("value", "generator", ("subprocess.Popen", [])),
}


@pytest.mark.parametrize(("name", "how", "value"), STRANGE.values(), ids=STRANGE)
def test_nothing_is_made_or_called_that_a_strangers_checkpoint_names(name, how, value):
    owner = Guarded()
    kept = frozen({(("attribute", "x"), ("attribute", name)): (how, value)})
    assert len(Memory({"x": owner}).restore(kept)) == 1
    assert (owner.value, owner.done) == (None, [])
    assert "act" not in vars(owner)


@pytest.mark.parametrize(
    "path", [("__class__",), ("world", "__dict__"), ("__init__", "__globals__", "TOTAL"), ("nowhere", "value")]
)
def test_a_path_of_a_stranger_leads_nowhere_else(path):
    kept = frozen({(("attribute", "it"), *(("attribute", name) for name in path)): ("value", 5)})
    assert len(Memory({"it": begin()}).restore(kept)) == 1
    assert changing.TOTAL == 0


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", frozen([1]).numpy().tobytes(), frozen({"a": 1}).numpy().tobytes()]
)
def test_what_is_no_memory_is_named(content):
    kept = torch.frombuffer(bytearray(content or b"\0"), dtype=torch.uint8)
    assert Memory({"it": holder()}).restore(kept)


class Typed:
    """A NumPy type whose flags say that it holds no objects, pickled as NumPy does."""

    def __init__(self, call, arguments, state=None):
        self.reduced = (call, arguments, state) if state else (call, arguments)

    def __reduce__(self):
        return self.reduced


def test_no_address_of_an_object_is_taken_from_a_file():
    """NumPy's own reader trusts the flags of a structured type."""
    state = (3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 1, 0)
    raw = torch.zeros(8, dtype=torch.uint8)
    for value in (Typed(np.dtype, ("V8", 0, 1), state), Typed(_array, (raw, [("a", "O")], (1,), "C")), np.zeros(1)):
        owner = types.SimpleNamespace(value=1)
        lost = Memory({"it": owner}).restore(
            frozen({(("attribute", "it"), ("attribute", "value")): ("value", value)})
        )
        assert lost, value  # as of an array that NumPy has pickled
        assert owner.value == 1

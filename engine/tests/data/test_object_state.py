"""Attributes of somebody's objects: what has changed is kept as a checkpoint can hold it, and restored where it was."""

import collections
import functools
import io
import random
import types
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from leyden.data import object_state
from leyden.data.encoding import encode
from leyden.data.object_state import ObjectState
from tests.data import changing


def kept_by(state):
    """What has changed, written and read as a checkpoint is."""
    kept, lost = state.changes()
    file = io.BytesIO()
    torch.save(kept, file)
    file.seek(0)
    return torch.load(file, weights_only=True), lost


def begin():
    changing.TOTAL, changing.Learner.num_made = 0, 0
    changing.LOG.clear()
    changing.NUMBERS.bit_generator.state = np.random.default_rng(0).bit_generator.state
    return changing.Learner()


def test_what_changes_is_restored_where_it_was():
    learner = begin()
    state = ObjectState({"module": learner})
    for _ in range(3):
        learner.learn()
    kept, lost = kept_by(state)
    assert not lost
    learner.learn()
    expected = learner.seen()
    other = begin()
    there = ObjectState({"module": other})
    there.restore(kept)
    other.learn()
    assert str(other.seen()) == str(expected)
    assert other.alias is other.world.log  # one object still
    assert kept_by(there)[0]  # what was restored is kept again, though it has not changed since


def test_what_does_not_change_is_not_kept():
    learner = begin()
    kept, _ = kept_by(ObjectState({"module": learner}))
    names = {str(entry["path"][-1][1]) for entry in kept}
    assert names == {"NUMBERS", "rng"}  # generators: they may have been seeded by the time of day


@pytest.mark.parametrize(
    "value",
    [
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
        collections.deque([1, 2], maxlen=2),
        collections.OrderedDict(a=[1, {"b": (2,)}]),
        {(1, 2): 3, "x": None},
        np.float32(0.1),
        np.arange(6, dtype=np.int16).reshape(2, 3)[:, ::2],
        np.array("2026-11-27", dtype="datetime64[D]"),
        torch.tensor([1.5, float("inf")], dtype=torch.bfloat16),
        torch.zeros(0, 3),
        changing.Step(1, torch.ones(2)),
        [changing.World(), changing.World()],
        types.SimpleNamespace(a=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_value_that_a_checkpoint_can_hold_is_what_it_was(value):
    owner = types.SimpleNamespace(value="before")
    state = ObjectState({"callback": owner})
    owner.value = value
    kept, lost = kept_by(state)
    if isinstance(value, types.SimpleNamespace):  # a class of Python's, of which nobody knows how it is made
        assert lost == ["callback.value"]
        return
    assert not lost
    other = types.SimpleNamespace(value="before")
    ObjectState({"callback": other}).restore(kept)
    assert type(other.value) is type(value)
    assert str(getattr(other.value, "__dict__", other.value)) == str(getattr(value, "__dict__", value)) or (
        isinstance(value, list)
        and [vars(each).keys() for each in other.value] == [vars(each).keys() for each in value]
    )


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (lambda: iter([1, 2]), None),
        (lambda: (number for number in range(3)), None),
        (lambda: changing.counter(), lambda owner: owner.value()),
        (lambda: set(), lambda owner: owner.value.add(object())),
        (lambda: None, lambda owner: setattr(owner, "value", [lambda: 1])),
        (lambda: torch.zeros(0), lambda owner: setattr(owner, "value", torch.zeros(1, device="meta"))),
    ],
    ids=["iterator", "generator", "closure", "objects", "functions", "no values"],
)
def test_what_cant_be_kept_is_named(before, change):
    owner = types.SimpleNamespace(value=before())
    state = ObjectState({"module": owner})
    if change:
        change(owner)
    assert state.changes()[1] == ["module.value"]


def test_what_a_class_of_an_installed_package_and_its_module_hold_is_seen(monkeypatch):
    monkeypatch.setattr(object_state, "INSTALL_DIRECTORIES", (str(Path(changing.__file__).parent),))
    learner = begin()
    state = ObjectState({"module": learner})
    learner.learn()
    names = {str(entry["path"][-1][1]) for entry in kept_by(state)[0]}
    assert {"TOTAL", "LOG", "num_made", "NUMBERS"} <= names


class Proxy:
    """Stands for an object of a library in C: it answers for whatever is asked of it."""

    __slots__ = ("handle",)

    def __getattr__(self, name):
        return lambda *_: name


class Refusing:
    """An object whose attributes can't be listed."""

    @property
    def __dict__(self):
        raise RuntimeError("not here")


@pytest.mark.parametrize("kind", [Proxy, Refusing])
def test_an_object_that_does_not_tell_its_attributes_is_no_reason_to_end(kind):
    owner = types.SimpleNamespace(held=kind(), deeper=types.SimpleNamespace(held=kind()))
    state = ObjectState({"module": owner})
    owner.number = 1
    assert [entry["path"][-1][1] for entry in kept_by(state)[0]] == ["number"]


def test_a_set_is_written_alike_whatever_its_order():
    one, other = {0, 8}, {8, 0}  # of one place in the table: the first one that came lies first
    assert [*one] != [*other]
    assert encode(one) == encode(other)


def test_what_lightning_and_pytorch_share_is_not_looked_at():
    state = ObjectState({"module": torch.nn.Linear(1, 1), "data": L.LightningDataModule()})
    assert not [path for path, _ in state._leaves() if str(path[0][1]).startswith(("torch", "lightning"))]


def test_a_loader_within_is_looked_into():
    sampler = RandomSampler(range(4), generator=torch.Generator())
    owner = types.SimpleNamespace(loader=DataLoader(range(4), sampler=sampler))
    kept, _ = kept_by(ObjectState({"data": owner}))
    assert {str(entry["path"][-1][1]) for entry in kept} == {"generator"}


def test_what_is_saved_elsewhere_is_not_restored():
    layer = torch.nn.Linear(1, 1)
    owner = types.SimpleNamespace(step=layer.forward)
    state = ObjectState({"dataset": owner})
    with torch.no_grad():
        layer.weight.fill_(2.0)
    kept, _ = kept_by(state)
    assert [entry["path"][-1][1] for entry in kept] == ["weight"]
    other = torch.nn.Linear(1, 1)
    there = ObjectState({"dataset": types.SimpleNamespace(step=other.forward)}, lambda: [*other.parameters()])
    before = other.weight.item()
    there.restore(kept)
    assert other.weight.item() == before
    assert not there.changes()[0]


def test_reading_a_frame_is_no_change():
    pandas = pytest.importorskip("pandas")
    times = pandas.date_range("2026-01-01", periods=4, tz="UTC")
    frame = pandas.DataFrame({"a": [1.0, 2.0, 3.0, 4.0], "b": [*"abcd"], "t": times}).set_index("t", drop=False)
    state = ObjectState({"data": types.SimpleNamespace(frame=frame, index=frame.index, column=frame["b"])})
    frame.loc[times[1]], frame["a"], frame.index.is_unique, frame.index.get_indexer(times[:2])
    assert state.changes() == ([], [])
    frame.iloc[0, 0] = 5.0
    assert state.changes()[1] == ["data.frame"]


def test_what_two_objects_hold_is_found_once():
    shared = changing.World()
    owner = types.SimpleNamespace(one=types.SimpleNamespace(held=shared), other=types.SimpleNamespace(held=shared))
    state = ObjectState({"data": owner})
    shared.step()
    kept, lost = kept_by(state)
    assert not lost
    assert {entry["path"][1][1] for entry in kept if entry["path"][0][1] == "data"} == {"one"}


def test_a_generator_within_what_is_handed_on_is_kept():
    rng = np.random.default_rng(1)
    state = ObjectState({"collate_fn": functools.partial(sorted, key=rng)})
    first = rng.random()
    kept, _ = kept_by(state)
    second = rng.random()
    other = np.random.default_rng(1)
    ObjectState({"collate_fn": functools.partial(sorted, key=other)}).restore(kept)
    assert other.random() == second != first


@pytest.mark.parametrize(
    "path",
    [
        ["__class__"],
        ["world", "__dict__"],
        ["__init__", "__globals__", "TOTAL"],
        ["learn", "__func__", "__code__"],
        ["nowhere", "value"],
    ],
    ids=".".join,
)
def test_a_path_of_a_stranger_leads_nowhere_else(path):
    entry = {"path": [["item", "module"], *(["attribute", name] for name in path)], "in_place": False, "value": 5}
    with pytest.raises(ValueError, match="can't be restored"):
        ObjectState({"module": begin()}).restore([entry])
    assert changing.TOTAL == 0


@pytest.mark.parametrize("name", ["Learner", "np", "random", "new"])
def test_a_name_of_a_module_that_was_no_value_is_not_set(name):
    entry = {"path": [["item", "tests.data.changing"], ["attribute", name]], "in_place": False, "value": 5}
    with pytest.raises(ValueError, match="it was not a value"):
        ObjectState({"module": begin()}).restore([entry])
    assert getattr(changing, name, None) != 5


def test_a_class_that_makes_something_is_not_made():
    owner = types.SimpleNamespace(value=None)
    value = {"<kind>": "object", "class": "subprocess:Popen", "attributes": {}}
    entry = {"path": [["item", "x"], ["attribute", "value"]], "in_place": False, "value": value}
    ObjectState({"x": owner}).restore([entry])
    assert vars(owner.value) == {}  # none of its code has run
    value["class"] = "pathlib:Path"
    with pytest.raises(ValueError, match="not a plain class"):
        ObjectState({"x": owner}).restore([entry])


def test_the_state_of_pythons_own_generator_is_one_of_these():
    owner = types.SimpleNamespace(rng=random.Random(3))
    kept, _ = kept_by(ObjectState({"sampler": owner}))
    expected = owner.rng.random()
    other = types.SimpleNamespace(rng=random.Random())
    ObjectState({"sampler": other}).restore(kept)
    assert other.rng.random() == expected

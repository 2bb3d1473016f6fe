"""Attributes of somebody's objects: what has changed is kept as a checkpoint can hold it, and restored where it was."""

import collections
import functools
import io
import multiprocessing
import queue
import random
import sys
import types
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler

from leyden.exact import encoding
from leyden.exact.encoding import encode
from leyden.exact.object_state import ObjectState
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
        torch.ones(2, 3).shape,
        torch.zeros(1).expand(5),
        torch.tensor([1 + 2j]).conj(),
        changing.Step(1, torch.ones(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_value_that_a_checkpoint_can_hold_is_what_it_was(value):
    owner = types.SimpleNamespace(value="before")
    state = ObjectState({"callback": owner})
    owner.value = value
    kept, lost = kept_by(state)
    assert not lost
    other = types.SimpleNamespace(value="before")
    assert not ObjectState({"callback": other}).restore(kept)
    assert type(other.value) is type(value)
    assert str(other.value) == str(value)


def inference():
    with torch.inference_mode():
        return torch.ones(3)


def filled():
    found = queue.Queue()
    found.put(1)
    return found


@pytest.mark.parametrize(
    ("before", "change"),
    [
        (lambda: iter([1, 2]), None),
        (lambda: (number for number in range(3)), None),
        (lambda: changing.counter(), lambda owner: owner.value()),
        (lambda: set(), lambda owner: owner.value.add(object())),
        (lambda: None, lambda owner: setattr(owner, "value", [lambda: 1])),
        (lambda: torch.zeros(0), lambda owner: setattr(owner, "value", torch.zeros(1, device="meta"))),
        (lambda: None, lambda owner: setattr(owner, "value", [changing.World()])),
        (lambda: None, lambda owner: setattr(owner, "value", types.SimpleNamespace(a=1))),
        (lambda: None, lambda owner: setattr(owner, "value", collections.defaultdict(int))),
        (lambda: None, lambda owner: setattr(owner, "value", torch.optim.SGD([torch.zeros(1)]))),
        (lambda: torch.eye(3).to_sparse(), lambda owner: owner.value.mul_(2)),
        (lambda: torch.eye(3).to_sparse_csr(), lambda owner: owner.value.values().mul_(2)),
        (lambda: torch.nested.as_nested_tensor([torch.ones(2), torch.ones(3)]), lambda owner: owner.value.mul_(2)),
        (lambda: np.zeros(2, dtype=[("a", float)]), lambda owner: owner.value["a"].fill(1)),
        (lambda: np.ma.zeros(2), lambda owner: owner.value.__setitem__(0, np.ma.masked)),
        (filled, lambda owner: owner.value.put(owner.value.get() + 1)),
        (multiprocessing.SimpleQueue, None),
        (lambda: multiprocessing.Value("i", 0), lambda owner: setattr(owner.value, "value", 1)),
        (lambda: torch.nn.Parameter(torch.zeros(3)).as_subclass(Tagged), lambda owner: owner.value.data.add_(1)),
        (random.SystemRandom, None),
    ],
    ids=[
        *("iterator", "generator", "closure", "objects", "functions", "no values", "own objects", "namespace"),
        *("dictionary", "optimizer", "sparse", "sparse by row", "nested", "structured", "masked", "queue"),
        *("opaque queue", "shared memory", "subclass", "system"),
    ],
)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore:Sparse")
def test_what_cant_be_kept_is_named(before, change):
    owner = types.SimpleNamespace(value=before())
    state = ObjectState({"module": owner})
    if change:
        assert not state.changes()[1]
        change(owner)
    (lost,) = state.changes()[1]
    assert lost.startswith("module.value (")
    assert len(lost) > len("module.value ()")


class Tagged(torch.Tensor):
    """A tensor with a class of its own."""


@pytest.mark.parametrize("value", [torch.zeros(3), torch.zeros(300_000), torch.zeros(1).expand(10**9), inference()])
def test_what_is_written_past_the_version_counter_is_seen(value):
    owner = types.SimpleNamespace(value=value)
    state = ObjectState({"module": owner})
    assert state.changes() == ([], [])
    with torch.inference_mode():
        value.data[:1].add_(1) if value.stride() == (0,) else value.data.add_(1)
    kept, lost = state.changes()
    assert len(kept) + len(lost) == 1


class Lazy:
    """Stands for a package that is not installed: it raises its own error, whatever it is asked for."""

    def __getattribute__(self, name):
        raise RuntimeError("install it")


class Unpicklable(torch.utils.data.Dataset):
    """What raises when it is looked at in other ways."""

    def __init__(self):
        self.number, self.lazies, self.lazy = 0, [Lazy()], Lazy()

    def state_dict(self):
        raise RuntimeError("not now")

    def load_state_dict(self, state):
        raise RuntimeError("not now")


def test_an_object_that_raises_is_named_and_the_others_are_kept():
    owner = Unpicklable()
    state = ObjectState({"data": owner})
    owner.number = 5
    kept, lost = kept_by(state)
    assert [entry["path"][-1][1] for entry in kept] == ["number"]
    assert not lost
    assert state.unseen == [f"data.{name} (RuntimeError: install it)" for name in ("lazies", "lazy")]
    other = Unpicklable()
    assert ObjectState({"data": other}).restore(kept) == []
    assert other.number == 5


def test_what_can_not_be_walked_at_all_is_named():
    def known():
        raise RuntimeError("not built yet")

    state = ObjectState({"module": types.SimpleNamespace(value=1)}, known)
    assert state.changes() == ([], [])
    assert state.unseen == ["module (RuntimeError: not built yet)"]


def test_an_entry_that_can_not_be_restored_keeps_no_other_from_it():
    owner = types.SimpleNamespace(first=1, shared=[1], alias=None, last=1)
    owner.alias = owner.shared
    state = ObjectState({"data": owner})
    owner.first, owner.last = 2, 2
    owner.shared.append(2)
    kept, _ = kept_by(state)
    other = types.SimpleNamespace(first=1, shared=[1], last=1)
    entries = {entry["path"][-1][1]: entry for entry in kept}
    entries["shared"]["value"] = {"<kind>": "tuple of a later version", "items": []}
    lost = ObjectState({"data": other}).restore(kept)
    assert [name.partition(" (")[0] for name in lost] == ["data.shared", "data.alias"]
    assert (other.first, other.last, other.shared) == (2, 2, [1])


def test_the_global_generator_behind_a_function_of_random_is_no_attribute():
    """As after `from random import shuffle, uniform` in a user's file."""
    owner = types.SimpleNamespace(shuffle=random.shuffle, uniform=random.uniform, random=random.random)
    assert ObjectState({"file": owner}).changes() == ([], [])


@pytest.mark.parametrize("name", ["shuffle", "random"])
def test_a_generator_behind_a_method_is_kept(name):
    owner, other = (types.SimpleNamespace(draw=getattr(random.Random(seed), name)) for seed in (0, 1))
    state = ObjectState({"file": owner})
    owner.draw.__self__.random()
    kept, lost = kept_by(state)
    assert not lost
    assert not ObjectState({"file": other}).restore(kept)
    assert other.draw.__self__.random() == owner.draw.__self__.random()


def test_the_arguments_of_a_partial_are_restored_in_place():
    owner, other = (types.SimpleNamespace(call=functools.partial(sorted, [1], key=len, x=0)) for _ in range(2))
    state = ObjectState({"file": owner})
    owner.call.args[0].append(2)
    owner.call.keywords["x"] = 3
    kept, lost = kept_by(state)
    assert not lost
    assert not ObjectState({"file": other}).restore(kept)
    assert (other.call.args, other.call.keywords["x"]) == (([1, 2],), 3)


def test_what_a_class_of_an_installed_package_and_its_module_hold_is_seen(monkeypatch):
    monkeypatch.setattr(encoding, "INSTALL_DIRECTORIES", (str(Path(changing.__file__).parent),))
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
    assert state.changes()[1] == ["data.frame (DataFrame object)"]


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
    assert len(ObjectState({"module": begin()}).restore([entry])) == 1
    assert changing.TOTAL == 0


@pytest.mark.parametrize("name", ["Learner", "np", "random", "new"])
def test_a_name_of_a_module_that_was_no_value_is_not_set(name):
    entry = {"path": [["item", "tests.data.changing"], ["attribute", name]], "in_place": False, "value": 5}
    (lost,) = ObjectState({"module": begin()}).restore([entry])
    assert "it was not a value" in lost
    assert getattr(changing, name, None) != 5


class Guarded:
    """An object with a property that does something when it is set, and a class that empties itself."""

    def __init__(self):
        self.value, self.done, self.held = None, [], Emptying(a=1)

    @property
    def action(self):
        return None

    @action.setter
    def action(self, value):
        self.done.append(value)

    def act(self):
        """A method."""


class Emptying(collections.UserDict):
    """Not a dictionary, but with its methods, as a cache on a disk."""

    def clear(self):
        raise AssertionError("emptied")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", {"<kind>": "object", "class": "subprocess:Popen", "attributes": {}}),
        ("value", {"<kind>": "object", "class": "tempfile:_TemporaryFileCloser", "attributes": {"delete": True}}),
        ("value", {"<kind>": "object", "class": "tests.data.changing:World", "attributes": {}}),
        ("value", {"<kind>": "named", "class": "pathlib:Path", "items": []}),
        ("value", {"<kind>": "named", "class": "platform:uname_result", "items": [""] * 6}),
        ("value", {"<kind>": "named", "class": "tests.data.changing:World", "items": []}),
        ("value", {"<kind>": "named", "class": "tests.data.changing:np.random", "items": []}),
        ("value", {"<kind>": "dict", "class": "collections:defaultdict", "items": {}}),
        ("value", {"<kind>": "other", "class": "builtins:NoneType", "items": []}),
        ("value", {"<kind>": "state_dict", "state": {}}),
        ("value", {"<kind>": "eval", "items": ["1"]}),
        ("held", {"<kind>": "dict", "class": "tests.exact.test_object_state:Emptying", "items": {}}),
        ("action", "x"),
        ("act", "x"),
        ("__dict__", {}),
        ("__class__", "x"),
    ],
)
@pytest.mark.parametrize("in_place", [True, False])
def test_nothing_is_made_or_called_that_a_strangers_checkpoint_names(name, value, in_place):
    owner = Guarded()
    entry = {"path": [["item", "x"], ["attribute", name]], "in_place": in_place, "value": value}
    assert len(ObjectState({"x": owner}).restore([entry])) == 1
    assert owner.value is None
    assert owner.done == []
    assert owner.held == {"a": 1}
    assert "act" not in vars(owner)


class Importing:
    """An object that imports what it is asked for."""

    def __init__(self):
        self.number = 1

    def __getattr__(self, name):
        raise AssertionError(f"{name} was imported")


def test_a_name_of_a_stranger_is_not_asked_for():
    entry = {"path": [["item", "x"], ["attribute", "evil"]], "in_place": True, "value": [1]}
    owner = Importing()
    assert ObjectState({"x": owner}).restore([entry]) == []
    assert vars(owner) == {"number": 1, "evil": [1]}


def test_the_search_path_of_python_is_nobodys_attribute():
    """As after `from sys import path` in a user's file."""
    owner, before = types.SimpleNamespace(path=sys.path), [*sys.path]
    entry = {"path": [["item", "x"], ["attribute", "path"]], "in_place": True, "value": ["/evil"]}
    state = ObjectState({"x": owner})
    assert state.restore([entry]) == []
    assert sys.path == before
    assert state.changes() == ([], [])


def test_hyperparameters_that_change_are_kept():
    module, other = L.LightningModule(), L.LightningModule()
    for each in (module, other):
        each.save_hyperparameters({"rate": 1.0})
    state = ObjectState({"module": module})
    module.hparams.rate = 2.0
    kept, lost = kept_by(state)
    assert not lost
    assert ObjectState({"module": other}).restore(kept) == []
    assert other.hparams.rate == 2.0


def test_the_state_of_pythons_own_generator_is_one_of_these():
    owner = types.SimpleNamespace(rng=random.Random(3))
    kept, _ = kept_by(ObjectState({"sampler": owner}))
    expected = owner.rng.random()
    other = types.SimpleNamespace(rng=random.Random())
    ObjectState({"sampler": other}).restore(kept)
    assert other.rng.random() == expected

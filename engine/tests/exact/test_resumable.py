"""A `DataLoader` that goes on within an epoch: from the states of its own process, and of its own generators."""

import copy
import dataclasses
import random
import types
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from leyden.exact import resumable
from leyden.exact.resumable import batch_checksum, make_resumable

SAMPLES = list(range(12))


def loader_of(kind, seed=1):
    """Batches of three, in an order that is drawn from the place that `kind` says."""
    generator = torch.Generator().manual_seed(seed)
    sampler = RandomSampler(SAMPLES, generator=generator)
    options = {
        "loader": {"batch_size": 3, "shuffle": True, "generator": generator},
        "sampler": {"batch_size": 3, "sampler": sampler},
        "batches": {"batch_sampler": BatchSampler(sampler, 3, drop_last=False)},
        "all": {"batch_size": 3, "shuffle": True},
    }[kind]

    class Data:
        train_dataloader = staticmethod(lambda: DataLoader(SAMPLES, **options))

    make_resumable(data := Data())
    return data.train_dataloader()


def begin(seed):
    random.seed(seed)
    torch.manual_seed(seed)


def frames():
    pandas = pytest.importorskip("pandas")
    first, other = ({"a": [1.0, value], "b": ["x", "y"]} for value in (2.0, 3.0))
    yield tuple(map(pandas.DataFrame, (first, other)))
    yield pandas.Index(["a", "b"]), pandas.Index(["a", "c"])
    yield pandas.Series([1, 2]), pandas.Series([1, 3])
    yield pandas.Timestamp("2026-01-01"), pandas.Timestamp("2026-01-02")


def test_a_batch_of_frames_texts_or_sets_is_told_from_another_and_using_it_changes_nothing():
    pairs = [
        *frames(),
        (np.array(["a", None], dtype=object), np.array(["a", "b"], dtype=object)),
        (np.float32(1), np.float32(2)),
        ({"a", "b"}, {"a", "c"}),
        (1 + 2j, 1 + 3j),
    ]
    for one, other in pairs:
        before = batch_checksum({"x": one})
        assert before != batch_checksum({"x": other}), one
        if hasattr(one, "get_loc"):
            one.get_loc("a"), one.is_unique
        assert before == batch_checksum({"x": one}), one


@pytest.mark.parametrize("kind", ["loader", "sampler", "batches", "all"])
@pytest.mark.parametrize("given", [1, 3])
def test_the_order_is_drawn_again_from_where_it_came(kind, given):
    begin(0)
    loader = loader_of(kind)
    list(loader)  # an epoch before
    batches = []
    for batch in loader:
        batches.append(batch.tolist())
        if len(batches) == given:
            state = loader.state_dict()
    begin(5)
    other = loader_of(kind, seed=6)  # of a process that has just begun
    other.load_state_dict(state)
    assert [batch.tolist() for batch in other] == batches[given:]


class Collating(L.LightningModule):
    """Its method is the `collate_fn` of its loader."""

    def __init__(self):
        super().__init__()
        self.layer, self.num_collated = torch.nn.Linear(1, 1), 0

    def collate(self, samples):
        self.num_collated += 1
        return torch.tensor(samples)


def test_the_weights_of_the_module_in_training_are_not_in_the_state_of_a_loader():
    module = Collating()
    module._trainer = SimpleNamespace(lightning_module=module, optimizers=[], lr_scheduler_configs=[])

    class Data:
        trainer = module._trainer
        train_dataloader = staticmethod(lambda: DataLoader(SAMPLES, 3, collate_fn=module.collate))

    make_resumable(data := Data())
    loader = data.train_dataloader()
    for _ in loader:
        with torch.no_grad():
            module.layer.weight += 1
    next(iter(loader))
    (state,) = loader.state_dict()["processes"]
    for objects in (state["objects"], state["random"]["objects"]):
        assert {str(entry["path"][-1][1]) for entry in objects["collate_fn"]} == {"num_collated"}
    assert loader.is_from_module


@dataclasses.dataclass(slots=True)
class Slotted:
    """A batch without `__dict__`."""

    values: object


def test_a_checksum_sees_the_values_of_any_batch():
    for of in (Slotted, lambda values: {"a": values}, lambda values: types.SimpleNamespace(a=values)):
        for values in (torch.zeros(3), torch.ones(3)), (np.zeros(3), np.ones(3)), ("a", "b"):
            first, other = (batch_checksum(of(each)) for each in values)
            assert first != other
            assert first == batch_checksum(of(copy.deepcopy(values[0])))
    itself = types.SimpleNamespace(a=torch.zeros(1))
    itself.itself = itself
    batch_checksum(itself)


def test_each_process_goes_on_from_its_own_state(monkeypatch):
    states, left = [], []
    for seed, given in ((0, 1), (7, 2)):
        begin(seed)
        batches = iter(loader := loader_of("all"))
        for _ in range(given):
            next(batches)
        states += loader.state_dict()["processes"]
        left.append([batch.tolist() for batch in batches])
    for rank in (0, 1):
        there = SimpleNamespace(is_initialized=lambda: True, get_rank=lambda rank=rank: rank)
        monkeypatch.setattr(resumable, "distributed", there)
        loader = loader_of("all")
        loader.load_state_dict({"processes": states})
        assert [batch.tolist() for batch in loader] == left[rank]


class DrawnWhenAsked:
    """A sampler that draws each batch when it is asked for it."""

    def __iter__(self):
        for _ in range(6):
            yield torch.randint(len(SAMPLES), (2,)).tolist()

    def __len__(self):
        return 6


@pytest.mark.parametrize("most", [3, 2000])
def test_an_order_is_compared_as_far_as_it_can_be_drawn_again(monkeypatch, most):
    """The network draws between the batches of a sampler that draws when asked; its states are kept for so many batches."""
    monkeypatch.setattr(resumable, "MAX_DRAWS", most)

    class Data:
        train_dataloader = staticmethod(lambda: DataLoader(SAMPLES, batch_sampler=DrawnWhenAsked()))

    begin(0)
    make_resumable(data := Data())
    loader = data.train_dataloader()
    batches = iter(loader)
    for _ in range(5):
        next(batches)
        torch.rand(1)  # as dropout
    state, random_state = loader.state_dict(), torch.get_rng_state()
    rest = list(batches)
    begin(1)
    make_resumable(data := Data())
    loader = data.train_dataloader()
    loader.load_state_dict(state)
    torch.set_rng_state(random_state)
    assert len(list(loader)) == len(rest)
    assert loader.is_same_order
    assert any("drawn one by one" in name for name in loader.lost()) == (most == 3)

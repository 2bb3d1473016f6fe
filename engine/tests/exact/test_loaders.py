"""A `DataLoader` that goes on within an epoch: from the states of its own process, and of its own generators."""

import random
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from leyden.exact import loaders
from leyden.exact.loaders import make_resumable

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
        monkeypatch.setattr(loaders, "distributed", there)
        loader = loader_of("all")
        loader.load_state_dict({"processes": states})
        assert [batch.tolist() for batch in loader] == left[rank]

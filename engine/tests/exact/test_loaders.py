"""Loaders of several processes."""

import random
from unittest.mock import Mock

import lightning as L
import numpy as np
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import BatchSampler, DataLoader, Sampler, SubsetRandomSampler

from leyden.exact import hooks, loaders

NUM = 24


class Popping(Sampler):
    """Draws by each generator that is shared, as it goes on."""

    def __len__(self):
        return NUM

    def __iter__(self):
        left = [*range(NUM)]
        while left:
            number = random.randrange(99) + np.random.randint(99) + torch.randint(99, ()).item()
            yield left.pop(number % len(left))


class Halves(Sampler):
    """Batches of this rank alone, as whoever has no `use_distributed_sampler` draws them."""

    def __init__(self, rank):
        self.rank = rank

    def __iter__(self):
        mine = torch.randperm(NUM).tolist()[self.rank :: 2]
        yield from BatchSampler(mine, 4, drop_last=False)


OWN = {
    "PyTorch's": lambda rank: {
        "sampler": DistributedSamplerWrapper(SubsetRandomSampler(range(NUM)), 2, rank)
    },
    "lazy": lambda rank: {"sampler": DistributedSamplerWrapper(Popping(), 2, rank)},
    "batches": lambda rank: {"batch_sampler": Halves(rank)},
}


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("hook", ["train_dataloader", "val_dataloader"])
def test_processes_share_the_list_that_an_own_sampler_draws(monkeypatch, hook, name):
    monkeypatch.setattr(hooks, "has_processes", lambda: True)
    monkeypatch.setattr(loaders, "gather_from_processes", lambda mine: [mine])
    epochs = []
    for rank in (0, 1):
        data = L.LightningDataModule()
        setattr(data, hook, lambda rank=rank: DataLoader(range(NUM), **OWN[name](rank)))
        hooks.make_resumable(data, 0)
        loader = getattr(data, hook)()
        L.seed_everything(rank, verbose=False)
        for epoch in (0, 1):
            data.trainer = Mock(current_epoch=epoch)
            data.trainer.fit_loop.total_batch_idx = 10 * epoch - 1
            epochs.append([int(each) for batch in loader for each in batch])
    for epoch in (0, 1):
        assert sorted(epochs[epoch] + epochs[epoch + 2]) == [*range(NUM)]
    assert epochs[0] != epochs[1]


def test_a_batch_that_is_read_ahead_again_leaves_the_random_numbers_of_training(monkeypatch):
    monkeypatch.setattr(hooks.lightning, "prefetches", lambda trainer: True)
    data = L.LightningDataModule()
    data.train_dataloader = lambda: DataLoader(range(NUM), shuffle=True)
    hooks.make_resumable(data, 0)
    first, again = data.train_dataloader(), data.train_dataloader()
    batches = iter(first)
    _, ahead = next(batches), next(batches)
    again.load_state_dict(first.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    assert next(iter(again)) == ahead
    assert torch.rand(1) == expected

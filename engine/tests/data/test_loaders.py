import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.loaders import BatchLoader


def loader(num_samples, **kwargs):
    samples = torch.arange(num_samples)
    return BatchLoader(
        samples, samples, **{"batch_size": 4, "transform": lambda images: images, "seed": 0, **kwargs}
    )


def samples(batches):
    return [labels.tolist() for _, labels in batches]


@given(
    num_samples=st.integers(1, 50),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
    seed=st.none() | st.integers(0, 2**31),
)
def test_every_sample_once_an_epoch_over_all_processes(num_samples, batch_size, world_size, epoch, seed):
    every = []
    for rank in range(world_size):
        mine = loader(num_samples, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        mine.order.set_epoch(epoch)
        every.append(samples(mine))
        assert len(every[-1]) == len(mine)  # so no process waits for another one
    assert sorted(sample for batches in every for batch in batches for sample in batch) == list(range(num_samples))


@given(world_size=st.integers(2, 5))
def test_a_batch_over_all_processes_is_the_batch_of_one(world_size):
    one = samples(loader(23))
    every = [samples(loader(23, rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = [sorted(itertools.chain(*parts)) for parts in zip(*every, strict=True)]
    assert together == [sorted(batch) for batch in one]


def test_the_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = samples(loader(100))
    torch.manual_seed(2)
    assert samples(loader(100)) == first
    orders = [first]
    for seed, epoch in ((0, 1), (1, 0), (1, 1)):
        other = loader(100, seed=seed)
        other.order.set_epoch(epoch)
        orders.append(samples(other))
    assert len({str(order) for order in orders}) == 4
    assert samples(loader(100, seed=None)) == [list(range(i, i + 4)) for i in range(0, 100, 4)]


def test_the_order_is_a_fair_shuffle():
    firsts = []
    for epoch in range(2000):
        order = loader(10)
        order.order.set_epoch(epoch)
        firsts.append(order.order.permutation()[0])
    counts = torch.bincount(torch.stack(firsts), minlength=10)
    assert ((counts - 200) ** 2 / 200).sum() < 27.9  # chi-squared, 9 degrees of freedom, level 0.001


@pytest.mark.parametrize("position", range(6))
def test_goes_on_where_it_was(position):
    whole = samples(loader(23))
    stopped = loader(23)
    batches = iter(stopped)
    for _ in range(position):
        next(batches)
    resumed = loader(23)
    resumed.load_state_dict(stopped.state_dict())
    assert samples(resumed) == whole[position:]
    assert samples(resumed) == whole  # the next epoch is whole again


def test_epoch_and_position_are_looked_up_as_late_as_the_first_batch():
    late = loader(23)
    batches = iter(late)  # Lightning makes the iterator before it restores them
    late.order.set_epoch(3)
    late.load_state_dict({"position": 2})
    expected = loader(23)
    expected.order.set_epoch(3)
    assert samples(batches) == samples(expected)[2:]

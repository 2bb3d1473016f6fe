"""Splits, and the order and shares of their batches; test_streamed.py has the position of a loader, too."""

import itertools
from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.data.in_memory import BatchLoader
from leyden.data.splits import split
from tests.data import small


def samples(num_samples, epoch=0, **kwargs):
    """The batches of an epoch."""
    samples = torch.arange(num_samples)
    made = BatchLoader(samples, samples, **{"batch_size": 4, "transform": lambda each: each, "seed": 0, **kwargs})
    made.order.set_epoch(epoch)
    batches = [labels.tolist() for _, labels in made]
    assert len(batches) == len(made)
    return batches


SEEDS = st.none() | st.integers(0, 2**31)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3), SEEDS)
def test_every_sample_once_an_epoch_and_the_batches_of_all_processes_are_those_of_one(num, size, world, n, seed):
    given = {"num_samples": num, "batch_size": size, "epoch": n, "seed": seed}
    one = samples(**given)
    every = [samples(**given, rank=rank, world_size=world) for rank in range(world)]
    together = [sorted(itertools.chain(*parts)) for parts in zip(*every, strict=True)]  # none waits for another
    assert together == [sorted(batch) for batch in one]
    assert sorted(itertools.chain(*one)) == list(range(num))


def test_the_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = samples(100)
    torch.manual_seed(2)
    assert samples(100) == first
    orders = [first, *(samples(100, epoch, seed=seed) for seed, epoch in ((0, 1), (1, 0), (1, 1)))]
    assert len({str(order) for order in orders}) == 4
    assert samples(100, seed=None) == [list(range(i, i + 4)) for i in range(0, 100, 4)]


@given(
    num=st.integers(2, 60),
    val_size=st.integers(0, 60),
    seed=st.integers(0, 5),
    num_folds=st.none() | st.integers(2, 8),
    fold=st.integers(0, 7),
    overlap=st.none() | st.integers(0, 3),
)
def test_splits_have_nothing_in_common(num, val_size, seed, num_folds, fold, overlap):
    try:
        parts = split(num, val_size=val_size, seed=seed, num_folds=num_folds, fold=fold, overlap=overlap)
    except ValueError:
        return
    train, val = parts["train"].tolist(), parts.get("val", torch.tensor([])).tolist()
    assert len({*train, *val}) == len(train) + len(val)
    assert train
    if overlap is None:
        assert len(train) + len(val) == num
    elif val:  # neighbours that share something are on one side
        assert min(abs(a - b) for a in train for b in val) > overlap
        assert val == list(range(val[0], val[-1] + 1))
    if num_folds is None:
        assert len(val) == val_size


def test_each_sample_is_in_one_fold():
    for num, num_folds in ((2, 2), (23, 8), (60, 5)):
        folds = [split(num, val_size=0, seed=3, num_folds=num_folds, fold=k)["val"] for k in range(num_folds)]
        assert sorted(torch.cat(folds).tolist()) == list(range(num))
        assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_the_split_follows_from_its_own_seed_and_the_order_from_the_seed():
    def parts(seed, split_seed=None):
        made = SimpleNamespace(data=torch.zeros(20, 3), targets=torch.zeros(20, 1))
        data = small.in_memory(lambda **_: made, seed=seed, split_seed=split_seed)
        data.setup("fit")
        return data.indices["val"].tolist(), data.train_dataloader().order.permutation().tolist()

    assert parts(0) == parts(0, 0)
    assert parts(1, 0)[0] == parts(0)[0] != parts(1)[0]
    assert parts(1, 0)[1] == parts(1)[1] != parts(0)[1]

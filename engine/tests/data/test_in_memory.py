import functools
import itertools
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.data import in_memory
from leyden.data.in_memory import BatchLoader, read_tensors, to_device, to_tensors
from leyden.data.splits import split
from tests.data import small

IMAGES = torch.zeros(6, 4, 5, dtype=torch.uint8)
LABELS = [0, 1, 2, 2, 1, 0]
NUMBERS = torch.linspace(0, 1, 12).reshape(6, 2)
TOKENS = torch.arange(12).reshape(6, 2) % 4


def made_of(**usual):
    """What makes a data set of these attributes, less those that it is given."""
    return lambda **changed: SimpleNamespace(**{**usual, **changed})


source = made_of(data=IMAGES, targets=LABELS, classes=["a", "b", "c"])
without_classes = made_of(data=NUMBERS, targets=NUMBERS[:, 0])
texts = made_of(data=TOKENS, targets=TOKENS, vocabulary="abcd")


def test_images_and_classes_of_any_make():
    for data, targets in (
        (IMAGES, LABELS),
        (IMAGES.numpy(), np.array(LABELS, np.uint8)),
        (IMAGES[..., None].expand(-1, -1, -1, 3), torch.tensor(LABELS, dtype=torch.int32)),
    ):
        held = to_tensors(source(data=data, targets=targets))
        assert held.inputs.shape == (6, 1 if data.ndim == 3 else 3, 4, 5)
        assert (held.targets.tolist(), held.targets.dtype) == (LABELS, torch.int64)
        assert (held.facts.class_names, held.facts.num_classes) == (("a", "b", "c"), 3)
        assert held.facts.target_names is held.facts.vocabulary is held.overlap is None


def test_real_numbers_of_any_shape_are_inputs_and_targets_with_names():
    for shape in ((6, 2), (6, 2, 3, 4, 5)):
        data = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(torch.float16)
        for held in (to_tensors(source(data=data)), to_tensors(without_classes(data=data))):
            assert torch.equal(held.inputs, data.float())
    for targets, names in (
        (NUMBERS.numpy(), ("target_0", "target_1")),
        (NUMBERS[:, 0].double(), ("target",)),
    ):
        held = to_tensors(without_classes(targets=targets))
        assert torch.equal(held.targets, torch.as_tensor(targets).float())
        assert held.facts.target_names == names
    assert to_tensors(without_classes(target_names=["height"])).facts.target_names == ("height",)


LENGTHS = "data are uint8, shape (6, 4, 5), targets int64, shape (5,); must be one target"
HALVES = "targets are float32, shape (6,); must be whole numbers, of 1 axes"


REFUSED = [
    (source(data=IMAGES.int()), "data are int32, shape (6, 4, 5); must be real numbers, or have"),
    (source(data=IMAGES[:, 0]), "data are uint8, shape (6, 5); pixels must have shape"),
    (source(data=IMAGES / 0), "data are not all finite numbers"),
    (source(targets=torch.tensor(LABELS) / 2), HALVES),
    (source(targets=torch.tensor([LABELS]).T), "targets are int64, shape (6, 1); must be whole"),
    (source(targets=LABELS[:5]), LENGTHS),
    (source(targets=[0, 1, 2, 3, 1, 0]), "targets are from 0 to 3; must be from 0 to 2"),
    (without_classes(targets=LABELS), "targets are int64, shape (6,); must be real numbers, or"),
    (without_classes(target_names=["a", "b"]), "target_names are 2; must be 1"),
    (texts(data=TOKENS.float()), "data are float32, shape (6, 2); must be whole numbers, of 2"),
    (texts(vocabulary="abc"), "data are from 0 to 3; must be from 0 to 2"),
]


@pytest.mark.parametrize(("made", "message"), REFUSED)
def test_what_is_none_is_refused(made, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        to_tensors(made)


WINDOWS_NT = (torch.arange(1000) % 4).unfold(0, 9, 2)


def test_texts_are_views_of_their_tokens_also_where_they_are_moved():
    held = to_tensors(texts(data=WINDOWS_NT[:, :-1], targets=WINDOWS_NT[:, 1:], overlap=2))
    assert held.inputs.untyped_storage().data_ptr() == WINDOWS_NT.untyped_storage().data_ptr()
    assert (held.facts.vocabulary, held.overlap) == (("a", "b", "c", "d"), 2)
    for part in (WINDOWS_NT, WINDOWS_NT[:, 1:], WINDOWS_NT[3:, :-1]):
        there = to_device(part, torch.device("meta"))
        assert (there.shape, there.stride(), there.dtype) == (part.shape, part.stride(), part.dtype)
        assert there.storage_offset() == part.storage_offset()
        assert there.untyped_storage().nbytes() == 8 * 1000
        assert torch.equal(to_device(part, torch.device("cpu")), part)
    # Of a part of a tensor, the part is moved.
    there = to_device(torch.zeros(1000, 2)[:10], torch.device("meta"))
    assert there.untyped_storage().nbytes() == 10 * 2 * 4


@pytest.mark.gpu
def test_what_is_moved_to_a_gpu_is_the_same():
    part = WINDOWS_NT[3:, 1:]
    there = to_device(part, torch.device("cuda"))
    assert there.untyped_storage().nbytes() == 8 * 1000
    assert torch.equal(there[[5, 2]].cpu(), part[[5, 2]])


class OfHydra(functools.partial):
    """A partial one of a kind of its own, as Hydra makes: `functools.partial` doesn't open it."""

    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)


@pytest.mark.parametrize("partial", [functools.partial, OfHydra])
def test_jobs_read_the_same_data_once(monkeypatch, partial):
    read = []

    def numbers(root, train, download, offset=0.0, draws=False):
        read.append(root)
        data = torch.arange(6.0).reshape(3, 2) + offset + (torch.rand(1) if draws else 0.0)
        return without_classes(data=data, targets=torch.arange(3.0))

    def count(*datasets, train=True, root="a"):
        before = len(read)
        for dataset in datasets:
            read_tensors(dataset, root, train=train, download=False)
        return len(read) - before

    monkeypatch.setattr(in_memory, "_cache", None)
    assert count(numbers, numbers) == 2  # where one run is all
    in_memory.keep_tensors()
    one, again, other = (partial(numbers, offset=offset) for offset in (1.0, 1.0, 2.0))
    assert (count(one, one, again), count(one, one, train=False), count(one, root="b")) == (1, 1, 1)
    assert (count(other, other), count(numbers, numbers)) == (1, 1)
    assert count(lambda **kwargs: numbers(**kwargs), lambda **kwargs: numbers(**kwargs)) == 2
    drawn = functools.partial(numbers, draws=True)  # depends on a job's seed
    assert count(drawn, drawn) == 2


def samples(num_samples, epoch=0, **kwargs):
    samples = torch.arange(num_samples)
    given = {"batch_size": 4, "transform": lambda each: each, "seed": 0, **kwargs}
    made = BatchLoader(samples, samples, samples, **given)
    made.order.set_epoch(epoch)
    batches = [labels.tolist() for _, labels in made]
    assert len(batches) == len(made)
    return batches


SEEDS = st.none() | st.integers(0, 2**31)


@given(st.integers(1, 50), st.integers(1, 20), st.integers(1, 5), st.integers(0, 3), SEEDS)
def test_every_sample_once_an_epoch_and_the_batches_of_all_processes_are_those_of_one(
    num, size, world, n, seed
):
    given = {"num_samples": num, "batch_size": size, "epoch": n, "seed": seed}
    one = samples(**given)
    every = [samples(**given, rank=rank, world_size=world) for rank in range(world)]
    # None waits for another.
    together = [sorted(itertools.chain(*parts)) for parts in zip(*every, strict=True)]
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


ASKED = {
    "val_size": st.integers(0, 60),
    "seed": st.integers(0, 5),
    "num_folds": st.none() | st.integers(2, 8),
}


@given(
    num=st.integers(2, 60), fold=st.integers(0, 7), overlap=st.none() | st.integers(0, 3), **ASKED
)
def test_splits_have_nothing_in_common(num, overlap, **asked):
    try:
        parts = split(num, overlap=overlap, **asked)
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
    assert asked["num_folds"] or len(val) == asked["val_size"]


@given(st.lists(st.integers(0, 6), min_size=2, max_size=40), st.integers(1, 20), st.integers(2, 4))
def test_each_group_is_in_one_split_and_one_fold(groups, val_size, num_folds):
    groups = torch.tensor(groups).unique(return_inverse=True)[1]
    asked = [{"val_size": val_size}]
    asked += [{"val_size": 0, "num_folds": num_folds, "fold": fold} for fold in range(num_folds)]
    folds = []
    for each in asked:
        try:
            parts = split(len(groups), seed=1, groups=groups, **each)
        except ValueError:
            continue
        assert not torch.isin(groups[parts["val"]], groups[parts["train"]]).any()
        assert sorted(torch.cat([*parts.values()]).tolist()) == list(range(len(groups)))
        folds += [parts["val"]] if "fold" in each else []
        assert "fold" in each or len(parts["val"]) >= val_size
    assert not folds or sorted(torch.cat(folds).tolist()) == list(range(len(groups)))


def test_a_split_without_a_key_is_that_of_earlier_versions():
    assert split(10, val_size=3, seed=7)["val"].tolist() == [5, 0, 3]
    folded = split(7, val_size=0, seed=1, num_folds=3, fold=1)
    assert [each.tolist() for each in folded.values()] == [[1, 3], [0, 6, 5, 2, 4]]


def test_each_sample_is_in_one_fold():
    for num, num_folds in ((2, 2), (23, 8), (60, 5)):
        made = functools.partial(split, num, val_size=0, seed=3, num_folds=num_folds)
        folds = [made(fold=k)["val"] for k in range(num_folds)]
        assert sorted(torch.cat(folds).tolist()) == list(range(num))
        assert max(map(len, folds)) - min(map(len, folds)) <= 1


def test_the_split_follows_from_its_own_seed_and_the_order_from_the_seed():
    def parts(seed, split_seed=None):
        made = SimpleNamespace(data=torch.zeros(20, 3), targets=torch.zeros(20, 1))
        data = small.in_memory(lambda **_: made, seed=seed, split_seed=split_seed)
        data.setup("fit")
        return data.indices["val"].tolist(), data.train_dataloader().order.permutation(0).tolist()

    assert parts(0) == parts(0, 0)
    assert parts(1, 0)[0] == parts(0)[0] != parts(1)[0]
    assert parts(1, 0)[1] == parts(1)[1] != parts(0)[1]

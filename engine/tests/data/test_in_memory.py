import functools
import itertools
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from leyden.base.errors import UserError
from leyden.data import in_memory
from leyden.data.in_memory import BatchLoader, read_tensors, to_device, to_tensors
from leyden.data.splits import split
from leyden.data.transforms import Augment
from tests.data import small

IMAGES = torch.zeros(6, 4, 5, dtype=torch.uint8)
LABELS = [0, 1, 2, 2, 1, 0]
NUMBERS = torch.linspace(0, 1, 12).reshape(6, 2)
TOKENS = torch.arange(12).reshape(6, 2) % 4


def source(**changed):
    """Images with classes."""
    usual = {"data": IMAGES, "targets": LABELS, "classes": ["a", "b", "c"]}
    return SimpleNamespace(**usual | changed)


def without_classes(**changed):
    usual = {"data": NUMBERS, "targets": NUMBERS[:, 0]}
    return SimpleNamespace(**usual | changed)


def texts(**changed):
    usual = {"data": TOKENS, "targets": TOKENS, "vocabulary": "abcd"}
    return SimpleNamespace(**usual | changed)


COLOURED = IMAGES[..., None].expand(-1, -1, -1, 3)


@pytest.mark.parametrize(
    ("data", "targets", "channels"),
    [
        (IMAGES, LABELS, 1),
        (COLOURED.numpy(), np.array(LABELS, np.uint8), 3),
    ],
)
def test_images_and_classes_of_any_make(data, targets, channels):
    held = to_tensors(source(data=data, targets=targets))
    facts = held.facts
    assert held.inputs.shape == (6, channels, 4, 5)
    assert held.targets.tolist() == LABELS
    assert held.targets.dtype == torch.int64
    assert facts.class_names == ("a", "b", "c")
    assert facts.num_classes == 3
    assert facts.target_names is facts.vocabulary is held.overlap is None


def test_real_numbers_of_any_shape_are_inputs_and_targets_with_names():
    for shape in ((6, 2), (6, 2, 3, 4, 5)):
        data = torch.linspace(0, 1, math.prod(shape)).reshape(shape).half()
        for made in (source(data=data), without_classes(data=data)):
            held = to_tensors(made)
            assert torch.equal(held.inputs, data.float())
    for targets, names in (
        (NUMBERS.numpy(), ("target_0", "target_1")),
        (NUMBERS[:, 0].double(), ("target",)),
    ):
        held = to_tensors(without_classes(targets=targets))
        assert torch.equal(held.targets, torch.as_tensor(targets).float())
        assert held.facts.target_names == names
    named = to_tensors(without_classes(target_names=["height"]))
    assert named.facts.target_names == ("height",)


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


def num_bytes(tensor):
    return tensor.untyped_storage().nbytes()


def test_texts_are_views_of_their_tokens_also_where_they_are_moved():
    inputs = WINDOWS_NT[:, :-1]
    targets = WINDOWS_NT[:, 1:]
    held = to_tensors(texts(data=inputs, targets=targets, overlap=2))
    assert held.inputs.data_ptr() == WINDOWS_NT.data_ptr()
    assert held.facts.vocabulary == ("a", "b", "c", "d")
    assert held.overlap == 2
    for part in (WINDOWS_NT, WINDOWS_NT[:, 1:], WINDOWS_NT[3:, :-1]):
        there = to_device(part, torch.device("meta"))
        assert there.shape == part.shape
        assert there.stride() == part.stride()
        assert there.dtype == part.dtype
        assert there.storage_offset() == part.storage_offset()
        assert num_bytes(there) == 8 * 1000
        assert torch.equal(to_device(part, torch.device("cpu")), part)
    # Of a part of a tensor, the part is moved.
    there = to_device(torch.zeros(1000, 2)[:10], torch.device("meta"))
    assert num_bytes(there) == 10 * 2 * 4


@pytest.mark.gpu
def test_what_is_moved_to_a_gpu_is_the_same():
    part = WINDOWS_NT[3:, 1:]
    there = to_device(part, torch.device("cuda"))
    assert num_bytes(there) == 8 * 1000
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
        if draws:
            offset = torch.rand(1)
        return without_classes(data=NUMBERS + offset)

    def count(*datasets, train=True, root="a"):
        before = len(read)
        for dataset in datasets:
            read_tensors(dataset, root, train=train, download=False)
        return len(read) - before

    monkeypatch.setattr(in_memory, "_cache", None)
    assert count(numbers, numbers) == 2  # where one run is all
    in_memory.keep_tensors()
    one = partial(numbers, offset=1.0)
    again = partial(numbers, offset=1.0)
    other = partial(numbers, offset=2.0)
    assert count(one, one, again) == 1
    assert count(one, one, train=False) == 1
    assert count(one, root="b") == 1
    assert count(other, other) == 1
    assert count(numbers, numbers) == 1
    assert count(lambda **kwargs: numbers(**kwargs), lambda **kwargs: numbers(**kwargs)) == 2
    drawn = partial(numbers, draws=True)  # depends on a job's seed
    assert count(drawn, drawn) == 2


def samples(num_samples, epoch=0, **changed):
    samples = torch.arange(num_samples)
    options = {"batch_size": 4, "transform": torch.clone, "seed": 0}
    made = BatchLoader(samples, samples, samples, **options | changed)
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
    every = []
    for rank in range(world):
        every.append(samples(**given, rank=rank, world_size=world))
    # None waits for another.
    for batch, *parts in zip(one, *every, strict=True):
        assert sorted(itertools.chain(*parts)) == sorted(batch)
    assert sorted(itertools.chain(*one)) == list(range(num))


def test_the_order_follows_from_seed_and_epoch_alone():
    torch.manual_seed(1)
    first = samples(100)
    torch.manual_seed(2)
    assert samples(100) == first
    orders = {str(first)}
    for seed, epoch in ((0, 1), (1, 0), (1, 1)):
        order = samples(100, epoch, seed=seed)
        orders.add(str(order))
    assert len(orders) == 4
    in_order = samples(100, seed=None)
    assert [*itertools.chain(*in_order)] == [*range(100)]


ASKED = {
    "num": st.integers(2, 60),
    "val_size": st.integers(0, 60),
    "seed": st.integers(0, 5),
    "num_folds": st.none() | st.integers(2, 8),
    "fold": st.integers(0, 7),
    "overlap": st.none() | st.integers(0, 3),
}


@given(**ASKED)
def test_splits_have_nothing_in_common(num, overlap, num_folds, val_size, **asked):
    try:
        parts = split(num, overlap=overlap, num_folds=num_folds, val_size=val_size, **asked)
    except ValueError:
        return
    train = parts["train"].tolist()
    val = parts["val"].tolist() if "val" in parts else []
    num_held = len(train) + len(val)
    assert train
    assert len({*train, *val}) == num_held
    if overlap is None:
        assert num_held == num
    elif val:  # neighbours that share something are on one side
        first = val[0]
        last = val[-1]
        assert val == [*range(first, last + 1)]
        for n in train:
            assert n < first - overlap or n > last + overlap
    if not num_folds:
        assert len(val) == val_size


GROUPS = st.lists(st.integers(0, 6), min_size=2, max_size=40)


@given(GROUPS, st.integers(1, 20), st.integers(2, 4))
def test_each_group_is_in_one_split_and_one_fold(groups, val_size, num_folds):
    _, groups = torch.tensor(groups).unique(return_inverse=True)
    every = [*range(len(groups))]

    def val_of(**asked):
        """The samples of a validation split; none if there can be no such split."""
        try:
            parts = split(len(groups), seed=1, groups=groups, **asked)
        except ValueError:
            return []
        train = parts["train"]
        val = parts["val"]
        assert not torch.isin(groups[val], groups[train]).any()
        assert sorted([*train.tolist(), *val.tolist()]) == every
        return val.tolist()

    val = val_of(val_size=val_size)
    assert not val or len(val) >= val_size
    in_folds = []
    for fold in range(num_folds):
        in_folds += val_of(val_size=0, num_folds=num_folds, fold=fold)
    assert not in_folds or sorted(in_folds) == every


def test_a_split_without_a_key_is_that_of_earlier_versions():
    assert split(10, val_size=3, seed=7)["val"].tolist() == [5, 0, 3]
    folded = split(7, val_size=0, seed=1, num_folds=3, fold=1)
    assert [each.tolist() for each in folded.values()] == [[1, 3], [0, 6, 5, 2, 4]]


def test_each_sample_is_in_one_fold():
    for num, num_folds in ((2, 2), (23, 8), (60, 5)):
        folds = []
        for fold in range(num_folds):
            parts = split(num, val_size=0, seed=3, num_folds=num_folds, fold=fold)
            folds.append(parts["val"].tolist())
        sizes = [*map(len, folds)]
        assert sorted(itertools.chain(*folds)) == [*range(num)]
        assert max(sizes) - min(sizes) <= 1


def test_the_split_follows_from_its_own_seed_and_the_order_from_the_seed():
    def parts(seed, split_seed=None):
        made = without_classes(data=torch.zeros(20, 3), targets=torch.zeros(20))
        data = small.in_memory(lambda **_: made, seed=seed, split_seed=split_seed)
        data.setup("fit")
        order = data.train_dataloader().order.permutation(0)
        return data.indices["val"].tolist(), order.tolist()

    val, order = parts(0)
    other_val, other_order = parts(1)
    assert val != other_val
    assert order != other_order
    assert parts(0, 0) == (val, order)
    assert parts(1, 0) == (val, other_order)


def test_an_augmentation_of_images_refuses_the_rows_of_a_table():
    augment = Augment(num_chunks=2, mirror=lambda images: images.flip(-1))
    assert augment(torch.arange(6.0).reshape(2, 1, 1, 3))[0].tolist() == [[[2, 1, 0]]]
    with pytest.raises(UserError, match=r"data.augment transforms images.* the shape \(3,\)"):
        augment(torch.zeros(4, 3))

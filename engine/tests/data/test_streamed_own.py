"""Data sets of one's own, by `_target_`: opened when they are needed, and streamed as all are."""

import functools
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from leyden.config.errors import UserError
from leyden.data.in_memory import InMemoryDataModule
from leyden.data.streamed import DatasetDataModule
from tests.data.folders import Noisy


def module(train, **changed):
    options = {"val": None, "test": None, "root": "somewhere", "batch_size": 5, "eval_batch_size": 4}
    options |= {"val_size": 0, "num_workers": 0, "normalize": "unit", "augment": None, "seed": 0}
    return DatasetDataModule(train=train, **{**options, **changed})


class Rooted(Noisy):
    made: list = []  # noqa: RUF012 - of all of them

    def __init__(self, root, part):
        super().__init__(num_samples=10)
        self.made.append((root, part))


class Floats(Dataset):
    """A table: 3 columns, and what is to be told from them."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return torch.full((3,), float(index)), float(index)


def in_memory(seed, split_seed=None):
    held = SimpleNamespace(data=torch.zeros(20, 3), targets=torch.zeros(20, 1))
    options = {"root": "", "download": False, "batch_size": 5, "eval_batch_size": 4, "val_size": 4}
    options |= {"normalize": "none", "augment": None}
    return InMemoryDataModule(dataset=lambda **_: held, seed=seed, split_seed=split_seed, **options)


def streamed(seed, split_seed=None):
    return module(Noisy(20), val_size=4, seed=seed, split_seed=split_seed)


@pytest.mark.parametrize("made", [in_memory, streamed])
def test_the_split_follows_from_its_own_seed_and_the_order_from_the_seed(made):
    def parts(*seeds):
        data = made(*seeds)
        data.setup("fit")
        return data.indices["val"].tolist(), data.train_dataloader().order.permutation().tolist()

    assert parts(0) == parts(0, 0)
    assert parts(1, 0)[0] == parts(0)[0] != parts(1)[0]
    assert parts(1, 0)[1] == parts(1)[1] != parts(0)[1]


def test_facts_come_from_the_data_set_and_its_first_sample():
    data = module(Noisy(20), val_size=4, test=Noisy(4))
    assert data.facts.input_shape == (3, 4, 4)
    assert data.facts.class_names == ("even", "odd")
    assert data.facts.num_classes == 2
    assert (data.facts.mean, data.facts.std) == ((0.0,) * 3, (1.0,) * 3)
    assert data.sizes == {"train": 16, "val": 4}


def test_what_is_no_pixels_stays_as_it_is_and_has_facts_of_its_own():
    data = module(Floats(), val=Floats())
    facts = data.facts
    assert facts.input_shape == (3,)
    assert (facts.num_classes, facts.class_names, facts.mean, facts.std) == (None,) * 4
    inputs_NI, targets_N = next(iter(data.val_dataloader()))
    assert inputs_NI.tolist() == [[n] * 3 for n in range(4)]
    assert targets_N.tolist() == [0, 1, 2, 3]
    with pytest.raises(
        ValueError, match=r"normalize=standardize: is for pixels, uint8; the data set gives torch.float"
    ):
        module(Floats(), normalize="standardize").setup("fit")


def test_each_is_made_when_it_is_asked_for_with_the_root():
    Rooted.made.clear()
    parts = {part: functools.partial(Rooted, part=part) for part in ("train", "val", "test")}
    data = module(**parts)
    assert Rooted.made == []
    data.setup("fit")
    assert Rooted.made == [("somewhere", "train"), ("somewhere", "val")]
    data.setup("test")
    data.setup("test")
    assert Rooted.made[2:] == [("somewhere", "test")]
    assert module(functools.partial(Rooted, root="its own", part="train")).facts
    assert Rooted.made[-1] == ("its own", "train")


class Empty(Noisy):
    def __init__(self):
        super().__init__(0)


@pytest.mark.parametrize(
    ("train", "kind", "message"),
    [
        (None, TypeError, "no len"),
        ("mine.Birds", UserError, r"str\[\d\] is \(str\); must be a pair"),
        (functools.partial(Noisy), ValueError, "train: missing a required argument: 'num_samples'"),
        (
            functools.partial(Noisy, num_samples=3, size=3),
            ValueError,
            "train: got an unexpected keyword argument 'size'",
        ),
        (Empty(), ValueError, "train=Empty: has no samples"),
    ],
)
def test_what_is_no_data_set_is_refused(train, kind, message):
    with pytest.raises(kind, match=message):
        module(train).setup("fit")


def test_without_a_test_set_it_says_so():
    with pytest.raises(ValueError, match="test=null: there is no test set; test=false trains without one"):
        module(Noisy(10)).setup("test")

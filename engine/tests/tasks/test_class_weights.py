"""Class weights: factors of a sample's loss, in training only."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from leyden.data.contract import Facts
from leyden.data.in_memory import InMemoryDataModule
from leyden.data.splits import count_classes
from leyden.data.streamed import DatasetDataModule
from leyden.tasks import Classification


def task(**changed):
    torch.manual_seed(0)
    return Classification(network=nn.Linear(2, 3), **changed)


def test_a_weight_is_that_of_so_many_samples():
    inputs, labels = torch.randn(3, 2), torch.tensor([0, 2, 2])
    weighted, plain = task(class_weights=[1, 5, 2]), task()
    twice = torch.tensor([0, 1, 2, 1, 2])
    torch.testing.assert_close(
        weighted.step((inputs, labels)).loss * 3, plain.step((inputs[twice], labels[twice])).loss * 5
    )
    weighted.eval()
    assert weighted.step((inputs, labels)).loss == plain.step((inputs, labels)).loss
    assert weighted.state_dict().keys() == plain.state_dict().keys()  # they are settings


def test_balanced_weights_are_one_on_average_over_the_training_split():
    weights = task(class_weights="balanced", class_counts=(6, 0, 2)).class_weights_K
    torch.testing.assert_close(weights[[0, 2]], torch.tensor([8 / 12, 8 / 4]))
    assert weights.isfinite().all()


class Drawn(Dataset):
    """Images of three classes, of which there are 2, 6 and 12."""

    classes = ("a", "b", "c")

    def __init__(self, root="", train=True, download=False):
        self.data = torch.zeros(20, 2, 2, dtype=torch.uint8)
        self.targets = [min(n // 2, 1) + (n >= 8) for n in range(20)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index][None], self.targets[index]


@pytest.mark.parametrize("kind", ["in memory", "streamed", "other targets"])
def test_data_report_the_classes_of_their_training_split(tmp_path, kind):
    options = {
        "batch_size": 4,
        "eval_batch_size": 4,
        "val_size": 5,
        "augment": None,
        "seed": 0,
        "normalize": "unit",
    }
    if kind == "in memory":
        data = InMemoryDataModule(dataset=Drawn, download=False, root=str(tmp_path), **options)
    else:
        made = Drawn()
        made.target_transform = (lambda target: 2 - target) if kind == "other targets" else None
        data = DatasetDataModule(train=made, val=None, test=None, num_workers=0, root=str(tmp_path), **options)
    counts = data.facts.class_counts
    if kind == "other targets":
        assert counts is None
        return
    labels = torch.tensor(Drawn().targets)[data.indices["train"]]
    assert list(counts) == labels.bincount(minlength=3).tolist()
    assert sum(counts) == 15
    assert Facts.from_state(data.facts.to_state()).class_counts == counts


@pytest.mark.parametrize("targets", [None, 3, [0.5, 1.5], [[0], [1]], ["a", "b"], [0, 7], [-1, 0], [{}], object()])
def test_targets_that_are_no_classes_are_not_counted(targets):
    assert count_classes(targets, torch.tensor([0, 1]), 2) is None

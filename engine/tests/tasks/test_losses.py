"""The losses of the library's tasks, against other ways to compute them."""

import math

import pytest
import torch
from torch import nn

from leyden.data.splits import count_classes
from leyden.data.streamed import DatasetDataModule
from leyden.tasks import Autoencoder, Classification, Language, Regression, generate
from tests.data import folders, small


class Coded(nn.Module):
    """Gives what it is told to, whatever goes in."""

    def __init__(self, mean, log_variance):
        super().__init__()
        self.code = nn.Parameter(torch.tensor([mean, log_variance]))

    def forward(self, inputs):
        mean_NZ, log_variance_NZ = (value.expand(len(inputs), 3) for value in self.code)
        return torch.zeros_like(inputs), mean_NZ, log_variance_NZ


def test_the_loss_is_the_negative_evidence_lower_bound():
    inputs = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    prior = torch.distributions.Normal(0.0, 1.0)
    code = torch.distributions.Normal(0.5, torch.tensor(0.3))
    expected = 3 * torch.distributions.kl_divergence(code, prior)
    outcome = Autoencoder(network=Coded(0.5, 2 * torch.tensor(0.3).log().item()), beta=2.0).step((inputs, None))
    reconstruction = 0.5 * inputs.square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(outcome.loss, reconstruction + 2.0 * expected)
    torch.testing.assert_close(outcome.sums["kl"], 5 * expected)
    torch.testing.assert_close(outcome.sums["reconstruction"], 5 * reconstruction)


def test_the_likelihood_of_pixels_is_a_sum_over_them():
    inputs = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Sigmoid(), nn.Unflatten(1, (1, 4, 4)))
    outcome = Autoencoder(network=network, loss=nn.BCELoss()).step((inputs, None))
    expected = nn.functional.binary_cross_entropy(network(inputs), inputs, reduction="none").sum(dim=(1, 2, 3))
    torch.testing.assert_close(outcome.loss, expected.mean())
    assert outcome.sums["kl"] == 0  # a plain one


def classification(**changed):
    torch.manual_seed(0)
    return Classification(network=nn.Linear(2, 3), **changed)


def test_a_class_weight_is_that_of_so_many_samples():
    inputs, labels = torch.randn(3, 2), torch.tensor([0, 2, 2])
    weighted, plain = classification(class_weights=[1, 5, 2]), classification()
    twice = torch.tensor([0, 1, 2, 1, 2])
    expected = plain.step((inputs[twice], labels[twice])).loss * 5
    torch.testing.assert_close(weighted.step((inputs, labels)).loss * 3, expected)
    weighted.eval()
    assert weighted.step((inputs, labels)).loss == plain.step((inputs, labels)).loss
    assert weighted.state_dict().keys() == plain.state_dict().keys()  # they are settings


def test_balanced_weights_are_one_on_average_over_the_training_split():
    weights = classification(class_weights="balanced", class_counts=(6, 0, 2)).class_weights_K
    torch.testing.assert_close(weights[[0, 2]], torch.tensor([8 / 12, 8 / 4]))
    assert weights.isfinite().all()


class Drawn(torch.utils.data.Dataset):
    """Images of three classes, of which there are 2, 6 and 12."""

    classes = ("a", "b", "c")

    def __init__(self, root="", train=True, download=False):
        self.data = torch.zeros(20, 2, 2, dtype=torch.uint8)
        self.targets = [min(n // 2, 1) + (n >= 8) for n in range(20)]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index][None], self.targets[index]


def test_data_report_the_classes_of_their_training_split():
    changed = Drawn()
    changed.target_transform = lambda target: 2 - target
    options = {**folders.SPLITS, "val": None, "test": None, "root": "", "val_size": 5}
    streamed = [DatasetDataModule(train=made, **options) for made in (Drawn(), changed)]
    for data in (small.in_memory(Drawn, normalize="unit", val_size=5), streamed[0]):
        labels = torch.tensor(Drawn().targets)[data.indices["train"] if data.facts else None]
        assert list(data.facts.class_counts) == labels.bincount(minlength=3).tolist()
    assert streamed[1].facts.class_counts is None
    for targets in (None, 3, [0.5, 1.5], [[0], [1]], ["a", "b"], [0, 7], [-1, 0], object()):
        assert count_classes(targets, torch.tensor([0, 1]), 2) is None


class Next(nn.Module):
    """Is nearly sure that the next number of K follows."""

    def __init__(self, num_words=5, sureness=20.0):
        super().__init__()
        self.sureness = nn.Parameter(torch.tensor(sureness))
        self.num_words, self.longest = num_words, 0

    def forward(self, tokens_NT):
        self.longest = max(self.longest, tokens_NT.shape[1])
        return self.sureness * nn.functional.one_hot((tokens_NT + 1) % self.num_words, self.num_words).float()


def test_the_loss_of_a_text_is_the_mean_over_all_tokens():
    tokens_NT = torch.arange(12).reshape(3, 4) % 5
    task = Language(network=Next(sureness=1.0))
    right, wrong = task.step((tokens_NT, (tokens_NT + 1) % 5)), task.step((tokens_NT, tokens_NT))
    total = math.log(math.e + 4)
    torch.testing.assert_close(right.loss, torch.tensor(total - 1))
    torch.testing.assert_close(wrong.loss, torch.tensor(total))
    assert (right.sums["acc"], wrong.sums["acc"]) == (3, 0)


def test_a_text_goes_on_as_the_network_says_and_the_seed_decides():
    def made(network, seed=0, context=9, temperature=1.0):
        given = {"num_tokens": 6, "max_context": context, "temperature": temperature, "seed": seed}
        return generate(network, torch.tensor([2]), **given).tolist()

    network, before = Next(), torch.get_rng_state()
    assert made(network, context=3) == made(network, 5, 3, 1e-3) == [2, 3, 4, 0, 1, 2, 3]
    assert network.longest == 3
    unsure = Next(sureness=0.1)
    assert made(unsure) == made(unsure) != made(unsure, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_of_another_shape_than_their_targets_are_refused():
    with pytest.raises(ValueError, match="predictions of shape"):
        Regression(network=nn.Linear(4, 2)).step((torch.zeros(5, 4), torch.zeros(5)))

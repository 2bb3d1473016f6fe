"""The losses of the library's tasks, against other ways to compute them."""

import math

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from leyden.data.splits import count_classes
from leyden.data.streamed import DatasetDataModule
from leyden.tasks import Autoencoder, Classification, Language, Outcome, Regression, generate
from tests.data import folders, small

INPUTS = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_negative_evidence_lower_bound():
    prior = torch.distributions.Normal(0.0, 1.0)
    code = torch.distributions.Normal(0.5, torch.tensor(0.3))
    expected = 3 * torch.distributions.kl_divergence(code, prior)
    mean = torch.full((5, 3), 0.5)
    log_variance = torch.full((5, 3), 2 * math.log(0.3))
    network = nn.Identity()  # that gives a code, whatever goes in
    network.forward = lambda inputs: (0 * inputs, mean, log_variance)
    outcome = Autoencoder(network=network, beta=2.0).step((INPUTS, None))
    reconstruction = 0.5 * INPUTS.square().sum() / 5
    torch.testing.assert_close(outcome.loss, reconstruction + 2.0 * expected)
    torch.testing.assert_close(outcome.sums["kl"], 5 * expected)
    torch.testing.assert_close(outcome.sums["reconstruction"], 5 * reconstruction)


def test_the_likelihood_of_pixels_is_a_sum_over_them():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    task = Autoencoder(network=network, loss=nn.BCELoss())
    outcome = task.step((INPUTS, None))
    summed = nn.functional.binary_cross_entropy(network(INPUTS), INPUTS, reduction="sum")
    torch.testing.assert_close(outcome.loss, summed / 5)
    assert outcome.sums["kl"] == 0
    large = INPUTS + 2
    with pytest.raises(ValueError, match=r"inputs in \[0, 1\]"):
        Autoencoder(network=network, loss=nn.BCELoss()).step((large, None))
    assert Autoencoder(network=network).step((large, None)).loss > 0  # any values


def classification(**changed):
    torch.manual_seed(0)
    return Classification(network=nn.Linear(2, 3), **changed)


def test_a_class_weight_is_that_of_so_many_samples():
    inputs = torch.randn(3, 2)
    labels = torch.tensor([0, 2, 2])
    weighted = classification(class_weights=[1, 5, 2])
    plain = classification()
    twice = torch.tensor([0, 1, 2, 1, 2])
    expected = plain.step((inputs[twice], labels[twice])).loss
    found = weighted.step((inputs, labels)).loss
    torch.testing.assert_close(3 * found, 5 * expected)
    weighted.eval()
    assert weighted.step((inputs, labels)).loss == plain.step((inputs, labels)).loss
    assert weighted.state_dict().keys() == plain.state_dict().keys()  # they are settings


def test_a_balanced_class_weight_is_one_on_average_over_the_training_split():
    task = classification(class_weights="balanced", class_counts=(6, 0, 2))
    first, none, last = task.class_weights_K.tolist()
    assert first == pytest.approx(8 / 12)
    assert last == pytest.approx(8 / 4)
    assert math.isfinite(none)


def labelled():
    """Images of three classes, of which there are 2, 6 and 12."""
    pixels = torch.zeros(20, 2, 2, dtype=torch.uint8)
    targets = torch.tensor([0] * 2 + [1] * 6 + [2] * 12)
    made = TensorDataset(pixels[:, None], targets)
    made.data = pixels
    made.targets = targets
    made.classes = "abc"
    return made


def test_data_report_the_classes_of_their_training_split():
    options = {**folders.SPLITS, "val": None, "test": None, "root": "", "val_size": 5}
    data = labelled()
    for made in (
        small.in_memory(lambda **_: data, normalize="unit", val_size=5),
        DatasetDataModule(train=data, **options),
    ):
        counts = made.facts.class_counts
        labels = data.targets[made.indices["train"]]
        assert list(counts) == labels.bincount(minlength=3).tolist()
    data.target_transform = lambda target: 2 - target
    assert DatasetDataModule(train=data, **options).facts.class_counts is None
    for targets in (None, 3, [0.5, 1.5], [[0], [1]], ["a", "b"], [0, 7], [-1, 0], object()):
        assert count_classes(targets, torch.tensor([0, 1]), 2) is None


class Following(nn.Module):
    """Says, more or less surely, that the next number of five follows."""

    def __init__(self, sureness=20.0):
        super().__init__()
        self.sureness = sureness
        self.longest = 0

    def forward(self, tokens_NT):
        num_tokens = tokens_NT.shape[1]
        self.longest = max(self.longest, num_tokens)
        next_NT = (tokens_NT + 1) % 5
        return self.sureness * nn.functional.one_hot(next_NT, 5)


def test_the_loss_of_a_text_is_the_mean_over_all_tokens():
    tokens_NT = torch.arange(12).reshape(3, 4) % 5
    next_NT = (tokens_NT + 1) % 5
    task = Language(network=Following(sureness=1.0))
    total = math.log(math.e + 4)
    for targets_NT, loss, num_right in (
        (next_NT, total - 1, 3),
        (tokens_NT, total, 0),
    ):
        outcome = task.step((tokens_NT, targets_NT))
        assert outcome.loss.item() == pytest.approx(loss)
        assert outcome.sums["acc"] == num_right


def test_a_text_goes_on_as_the_network_says_and_the_seed_decides():
    def made(network, **changed):
        options = {"num_tokens": 6, "max_context": 9, "temperature": 1.0, "seed": 0}
        return generate(network, torch.tensor([2]), **options | changed).tolist()

    before = torch.get_rng_state()
    sure = Following()
    follows = [2, 3, 4, 0, 1, 2, 3]
    assert made(sure, max_context=3) == follows
    assert made(sure, max_context=3, seed=5, temperature=1e-3) == follows
    assert sure.longest == 3
    unsure = Following(sureness=0.1)
    drawn = made(unsure)
    assert made(unsure) == drawn
    assert made(unsure, seed=1) != drawn
    assert torch.equal(torch.get_rng_state(), before)


def test_predictions_of_another_shape_than_their_targets_are_refused():
    with pytest.raises(ValueError, match="predictions of shape"):
        Regression(network=nn.Linear(4, 2)).step((torch.zeros(5, 4), torch.zeros(5)))


class Shares(Classification):
    """Logs its accuracy again, by each batch's mean and by each sample's value."""

    logs = ("mean", "samples")

    def step(self, batch):
        outcome = super().step(batch)
        is_right = outcome.predictions.argmax(1) == batch[1]
        return outcome.log(mean=is_right.float().mean(), samples=is_right)


class Misspelt(Shares):
    logs = "share"  # beside those of the base

    def step(self, batch):
        return super().step(batch).log(shares=0.5)


def batches(*sizes):
    generator = torch.Generator().manual_seed(0)
    for size in sizes:
        labels = torch.randint(3, (size,), generator=generator)
        yield torch.randn(size, 2, generator=generator), labels


def test_a_mean_that_is_logged_is_one_over_samples_whatever_the_batches():
    task = Shares(network=nn.Linear(2, 3))
    for batch in batches(7, 0, 2, 1):
        task.validation_step(batch)
    found = task.val_means.compute()
    assert 0 < found["acc"] < 1
    assert found["mean"] == pytest.approx(found["acc"].item())
    assert found["samples"] == found["acc"]


def test_what_is_logged_must_be_named_and_what_a_base_sums_may_be_left_out():
    (batch,) = batches(4)
    task = Misspelt(network=nn.Linear(2, 3))
    assert task.names_in("val") == {
        f"val/{name}" for name in ("loss", "acc", "mean", "samples", "share")
    }
    with pytest.raises(ValueError, match=r'Misspelt.step logs shares: .* logs = \("shares",\)'):
        task.validation_step(batch)
    few = type("Few", (Classification,), {"sums": {}})(network=nn.Linear(2, 3))
    few.validation_step(batch)
    assert [*few.val_means.compute()] == ["loss"]
    few.step = lambda batch: Outcome(torch.tensor(0.0), None, None)
    with pytest.raises(TypeError, match="targets are None"):
        few.validation_step(batch)
    few.step = lambda batch: torch.tensor(0.0)
    with pytest.raises(TypeError, match="returns a Tensor; must be an Outcome"):
        few.validation_step(batch)


class Silent(Classification):
    logs = "share"

    def step(self, batch):
        return super().step(batch)


def test_a_name_without_a_value_is_refused_as_its_mean_would_be_zero():
    (batch,) = batches(4)
    task = Silent(network=nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"Silent names share in logs or sums.*\.log\(share="):
        task.validation_step(batch)


def test_a_value_to_log_cannot_take_the_name_of_the_loss():
    refused = "loss is the outcome's own"
    with pytest.raises(ValueError, match=refused):
        Outcome(torch.tensor(1.0), None, torch.zeros(2)).log(loss=5.0)
    named = type("Named", (Classification,), {"logs": "loss"})
    with pytest.raises(ValueError, match=refused):
        named(network=nn.Linear(2, 3))

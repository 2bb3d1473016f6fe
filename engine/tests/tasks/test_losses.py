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
    network = nn.Identity()  # that gives a code, whatever goes in
    code = (torch.full((5, 3), 0.5), torch.full((5, 3), 2 * math.log(0.3)))
    network.forward = lambda inputs: (0 * inputs, *code)
    outcome = Autoencoder(network=network, beta=2.0).step((INPUTS, None))
    reconstruction = 0.5 * INPUTS.square().sum(dim=(1, 2, 3)).mean()
    torch.testing.assert_close(outcome.loss, reconstruction + 2.0 * expected)
    torch.testing.assert_close(outcome.sums["kl"], 5 * expected)
    torch.testing.assert_close(outcome.sums["reconstruction"], 5 * reconstruction)
    # The likelihood of pixels is a sum over them.
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    plain = Autoencoder(network=network, loss=nn.BCELoss())
    outcome = plain.step((INPUTS, None))
    expected = nn.functional.binary_cross_entropy(network(INPUTS), INPUTS, reduction="sum") / 5
    torch.testing.assert_close(outcome.loss, expected)
    assert outcome.sums["kl"] == 0
    large = INPUTS + 2
    with pytest.raises(ValueError, match=r"inputs in \[0, 1\]"):
        Autoencoder(network=network, loss=nn.BCELoss()).step((large, None))
    assert Autoencoder(network=network).step((large, None)).loss > 0  # any values


def classification(**changed):
    torch.manual_seed(0)
    return Classification(network=nn.Linear(2, 3), **changed)


def test_a_class_weight_is_that_of_so_many_samples_and_a_balanced_one_is_one_on_average_over_the_training_split():
    inputs, labels = torch.randn(3, 2), torch.tensor([0, 2, 2])
    weighted, plain = classification(class_weights=[1, 5, 2]), classification()
    twice = torch.tensor([0, 1, 2, 1, 2])
    expected = plain.step((inputs[twice], labels[twice])).loss * 5
    torch.testing.assert_close(weighted.step((inputs, labels)).loss * 3, expected)
    weighted.eval()
    assert weighted.step((inputs, labels)).loss == plain.step((inputs, labels)).loss
    assert weighted.state_dict().keys() == plain.state_dict().keys()  # they are settings
    weights = classification(class_weights="balanced", class_counts=(6, 0, 2)).class_weights_K
    torch.testing.assert_close(weights[[0, 2]], torch.tensor([8 / 12, 8 / 4]))
    assert weights.isfinite().all()


def labelled(**attributes):
    """Images of three classes, of which there are 2, 6 and 12."""
    targets = torch.tensor([0] * 2 + [1] * 6 + [2] * 12)
    made = TensorDataset(torch.zeros(20, 1, 2, 2, dtype=torch.uint8), targets)
    vars(made).update(
        data=torch.zeros(20, 2, 2, dtype=torch.uint8), targets=targets, classes="abc", **attributes
    )
    return made


def test_data_report_the_classes_of_their_training_split():
    options = {**folders.SPLITS, "val": None, "test": None, "root": "", "val_size": 5}
    data, changed = labelled(), labelled(target_transform=lambda target: 2 - target)
    streamed, other = (DatasetDataModule(train=made, **options) for made in (data, changed))
    for made in (small.in_memory(lambda **_: data, normalize="unit", val_size=5), streamed):
        counts = made.facts.class_counts
        assert list(counts) == data.targets[made.indices["train"]].bincount(minlength=3).tolist()
    assert other.facts.class_counts is None
    for targets in (None, 3, [0.5, 1.5], [[0], [1]], ["a", "b"], [0, 7], [-1, 0], object()):
        assert count_classes(targets, torch.tensor([0, 1]), 2) is None


def following(sureness=20.0):
    """A network that is nearly sure that the next number of five follows; it keeps the length of what it is given."""
    network = nn.Identity()

    def forward(tokens_NT):
        network.longest = max(getattr(network, "longest", 0), tokens_NT.shape[1])
        return sureness * nn.functional.one_hot((tokens_NT + 1) % 5, 5).float()

    network.forward = forward
    return network


def test_the_loss_of_a_text_is_the_mean_over_all_tokens():
    tokens_NT = torch.arange(12).reshape(3, 4) % 5
    task = Language(network=following(sureness=1.0))
    total = math.log(math.e + 4)
    for next_NT, loss, num_right in (((tokens_NT + 1) % 5, total - 1, 3), (tokens_NT, total, 0)):
        outcome = task.step((tokens_NT, next_NT))
        torch.testing.assert_close(outcome.loss, torch.tensor(loss))
        assert outcome.sums["acc"] == num_right


def test_a_text_goes_on_as_the_network_says_and_the_seed_decides():
    def made(network, seed=0, context=9, temperature=1.0):
        given = {"num_tokens": 6, "max_context": context, "temperature": temperature, "seed": seed}
        return generate(network, torch.tensor([2]), **given).tolist()

    network, before = following(), torch.get_rng_state()
    assert made(network, context=3) == made(network, 5, 3, 1e-3) == [2, 3, 4, 0, 1, 2, 3]
    assert network.longest == 3
    unsure = following(sureness=0.1)
    assert made(unsure) == made(unsure) != made(unsure, seed=1)
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

import pytest
import torch
from torch import nn

from leyden.tasks import Autoencoder


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


def test_what_is_no_reconstruction_is_refused():
    with pytest.raises(ValueError, match=r"outputs of shape \(5, 2\) for inputs of \(5, 4\)"):
        Autoencoder(network=nn.Linear(4, 2)).step((torch.zeros(5, 4), None))
    outside = 2 * torch.ones(5, 4)
    with pytest.raises(
        ValueError, match=r"BCELoss needs inputs in \[0, 1\], such as pixels with data.normalize=unit"
    ):
        Autoencoder(network=nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), loss=nn.BCELoss()).step((outside, None))
    with pytest.raises(ValueError, match=r"needs real numbers; these inputs are torch.int64"):
        Autoencoder(network=nn.Identity()).step((torch.zeros(5, 4, dtype=torch.int64), None))
    with pytest.raises(ValueError, match="beta=-1: must be"):
        Autoencoder(network=nn.Identity(), beta=-1)

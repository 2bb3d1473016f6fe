"""Variational autoencoder.

Shapes: N samples in a batch, Z latent dimensions.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class VAE(nn.Module):
    """Variational autoencoder with one hidden dense layer each way; outputs are in (0, 1).

    In training, the code is sampled from the encoder's normal distribution; in evaluation, it is
    the mean. Source: Kingma and Welling, Auto-encoding variational Bayes (2014).

    Args:
        input_shape: Shape of a sample, such as (C, H, W) for images; samples are flattened.
        hidden_size: Units of each hidden layer.
        latent_size: Z, the number of latent dimensions.

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> network = VAE(input_shape=(1, 28, 28), hidden_size=400, latent_size=20)
        >>> [tuple(part.shape) for part in network(torch.zeros(2, 1, 28, 28))]
        [(2, 1, 28, 28), (2, 20), (2, 20)]
    """

    def __init__(self, *, input_shape: Sequence[int], hidden_size: int, latent_size: int) -> None:
        super().__init__()
        for name, size in (("hidden_size", hidden_size), ("latent_size", latent_size)):
            if type(size) is not int or size < 1:
                raise ValueError(f"{name}={size}: must be a positive whole number")
        num_inputs = math.prod(input_shape)
        self.encoder = nn.Sequential(
            nn.Flatten(),
            nn.Linear(num_inputs, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, 2 * latent_size),
        )
        self.decoder = nn.Sequential(
            nn.Linear(latent_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, num_inputs),
            nn.Sigmoid(),
            nn.Unflatten(1, tuple(input_shape)),
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return reconstructions, and the mean and log variance of the codes, shape (N, Z)."""
        encoded = self.encoder(inputs)
        mean_NZ, log_variance_NZ = encoded.chunk(2, dim=1)
        code_NZ = mean_NZ
        if self.training:
            deviation_NZ = torch.exp(0.5 * log_variance_NZ)
            noise_NZ = torch.randn_like(mean_NZ)
            code_NZ = mean_NZ + deviation_NZ * noise_NZ
        return self.decoder(code_NZ), mean_NZ, log_variance_NZ

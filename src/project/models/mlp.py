"""Multilayer perceptron.

Shapes: N samples in a batch, K outputs per sample.
"""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Dense layers with ReLU between them; weights are Glorot-uniform, biases zero, as in Keras.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural
    networks (2010).

    Args:
        input_shape: Shape of a sample, such as (C, H, W) for images; samples are flattened.
        num_outputs: Number of outputs per sample: one logit per class, or one number per target.
        hidden_sizes: Units of each hidden layer, at least one layer.
        dropout: Dropout probability of the hidden units, in [0, 1).

    Raises:
        ValueError: An argument is out of its range.

    Example:
        >>> network = MLP(input_shape=(1, 28, 28), num_outputs=10, hidden_sizes=[512], dropout=0.0)
        >>> sum(p.numel() for p in network.parameters())
        407050
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int],
        num_outputs: int,
        hidden_sizes: Sequence[int],
        dropout: float,
    ) -> None:
        super().__init__()
        is_list = isinstance(hidden_sizes, Sequence)
        are_sizes = is_list and all(type(size) is int and size > 0 for size in hidden_sizes)
        if not hidden_sizes or not are_sizes:
            found = f"hidden_sizes={hidden_sizes}"
            raise ValueError(f"{found}: must be a list of positive whole numbers, as [512]")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be a number in [0, 1)")
        sizes = [math.prod(input_shape), *hidden_sizes]
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in itertools.pairwise(sizes):
            layers += [nn.Linear(before, after), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(sizes[-1], num_outputs))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits or numbers, shape (N, num_outputs), for samples, shape (N, ...)."""
        outputs_NK: Tensor = self.layers(inputs)
        return outputs_NK

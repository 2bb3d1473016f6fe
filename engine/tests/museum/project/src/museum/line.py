"""A network of one linear layer."""

from torch import Tensor, nn


class Line(nn.Module):
    """A linear layer."""

    def __init__(self, *, input_shape: tuple[int, ...], num_classes: int, bias: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(input_shape[0], num_classes, bias=bias)

    def forward(self, inputs_NF: Tensor) -> Tensor:
        """Return the logits."""
        logits_NK: Tensor = self.layer(inputs_NF)
        return logits_NK

"""Convolutional network.

Shapes: N images in a batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn


class CNN(nn.Module):
    """5×5 convolutions with batch normalisation and 2×2 max pooling, then two dense layers.

    A wider LeNet-5 with batch normalisation, ReLU and dropout. Source: LeCun, Bottou, Bengio and
    Haffner, Gradient-based learning applied to document recognition (1998).

    Args:
        input_shape: Shape of an image, (C, H, W); a convolution with its pooling reduces a side h
            to (h - 4) / 2.
        num_classes: Number of logits.
        num_channels: Number of output channels of each convolution.
        hidden_size: Units of the dense hidden layer.
        dropout: Dropout probability of the hidden units, in [0, 1).

    Raises:
        ValueError: The images are too small, or an argument is out of its range.

    Example:
        >>> shape = {"input_shape": (1, 28, 28), "num_classes": 10}
        >>> network = CNN(**shape, num_channels=[32, 64], hidden_size=128, dropout=0.5)
        >>> sum(p.numel() for p in network.parameters())
        184682
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        num_channels: Sequence[int],
        hidden_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        is_list = isinstance(num_channels, Sequence)
        are_numbers = is_list and all(type(num) is int and num > 0 for num in num_channels)
        if not num_channels or not are_numbers:
            found = f"num_channels={num_channels}"
            raise ValueError(f"{found}: must be a list of positive whole numbers, as [32, 64]")
        if type(hidden_size) is not int or hidden_size < 1:
            raise ValueError(f"hidden_size={hidden_size}: must be a positive whole number")
        if not isinstance(dropout, int | float) or not 0 <= dropout < 1:
            raise ValueError(f"dropout={dropout}: must be a number in [0, 1)")
        num_inputs, height, width = input_shape
        layers: list[nn.Module] = []
        for num_outputs in num_channels:
            layers += [
                nn.Conv2d(num_inputs, num_outputs, kernel_size=5, bias=False),
                nn.BatchNorm2d(num_outputs),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ]
            num_inputs = num_outputs
            height = (height - 4) // 2
            width = (width - 4) // 2
        if height < 1 or width < 1:
            channels = list(num_channels)
            raise ValueError(f"num_channels={channels}: too many for images of {input_shape}")
        self.layers = nn.Sequential(
            *layers,
            nn.Flatten(),
            nn.Linear(num_inputs * height * width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, num_classes),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits, shape (N, num_classes), for images, shape (N, C, H, W)."""
        logits_NK: Tensor = self.layers(images_NCHW)
        return logits_NK

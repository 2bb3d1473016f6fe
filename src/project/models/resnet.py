"""Residual network for small images.

Shapes: N images in a batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Residual block: two 3×3 convolutions plus a shortcut; stride 2 halves the sides."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(num_outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or num_inputs != num_outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(num_inputs, num_outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(num_outputs),
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Map features, shape (N, C, H, W), to num_outputs channels of H / stride by W / stride."""
        y_NCHW = self.conv1(x_NCHW)
        y_NCHW = F.relu(self.norm1(y_NCHW))
        y_NCHW = self.conv2(y_NCHW)
        y_NCHW = self.norm2(y_NCHW)
        return F.relu(y_NCHW + self.shortcut(x_NCHW))


class ResNet(nn.Module):
    """Residual network for images of 28×28 to 32×32 pixels.

    A 3×3 convolution, stages of residual blocks, global average pooling and a dense layer. Each
    stage after the first starts with stride 2. Source: He, Zhang, Ren and Sun, Deep residual
    learning for image recognition (2016), section 4.2, with 1×1 convolutions as shortcuts.

    Args:
        input_shape: Shape of an image, (C, H, W), with sides from 28 to 32.
        num_classes: Number of logits.
        num_channels: Number of channels in each stage.
        num_blocks: Number of blocks per stage.

    Raises:
        ValueError: The images are too small or too large, or an argument is out of its range.

    Example:
        >>> sizes = {"num_channels": [16, 32, 64], "num_blocks": 3}
        >>> network = ResNet(input_shape=(3, 32, 32), num_classes=10, **sizes)
        >>> sum(p.numel() for p in network.parameters())
        272474
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        num_channels: Sequence[int],
        num_blocks: int,
    ) -> None:
        super().__init__()
        is_list = isinstance(num_channels, Sequence)
        are_numbers = is_list and all(type(num) is int and num > 0 for num in num_channels)
        if not num_channels or not are_numbers:
            raise ValueError(
                f"num_channels={num_channels}: must be a list of positive whole numbers"
            )
        if type(num_blocks) is not int or num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks}: must be a positive whole number")
        num_inputs, *sides = input_shape
        if not all(28 <= side <= 32 for side in sides):
            raise ValueError(f"images of {sides[0]}×{sides[1]}: ResNet is for sides from 28 to 32")
        stem = num_channels[0]
        layers: list[nn.Module] = [
            nn.Conv2d(num_inputs, stem, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
        ]
        num_inputs = stem
        for stage, num_outputs in enumerate(num_channels):
            stride = 1 if stage == 0 else 2
            for _ in range(num_blocks):
                layers.append(Block(num_inputs, num_outputs, stride))
                num_inputs = num_outputs
                stride = 1
        layers.append(nn.AdaptiveAvgPool2d(1))
        layers.append(nn.Flatten())
        layers.append(nn.Linear(num_inputs, num_classes))
        self.layers = nn.Sequential(*layers)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits, shape (N, num_classes), for images, shape (N, C, H, W)."""
        logits_NK: Tensor = self.layers(images_NCHW)
        return logits_NK

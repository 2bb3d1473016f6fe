"""Networks made elsewhere, for colour images of a size of their own.

Shapes: N images of a batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class RGB(nn.Module):
    """Gives a network what it wants: images of three channels and of a certain size.

    Args:
        input_shape: Shape of one image, (C, H, W), with 1 channel, which is repeated, or 3.
        num_classes: Number of logits.
        network: Makes the network when called with `num_classes`, as torchvision's models are.
        size: Sides of the images that it sees; None: as they are.

    Raises:
        ValueError: The images have another number of channels, or an argument is out of its range.

    Example:
        >>> import torch, torchvision
        >>> made = torchvision.models.squeezenet1_1
        >>> network = RGB(input_shape=(1, 28, 28), num_classes=10, network=made, size=64)
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        input_shape: tuple[int, int, int],
        num_classes: int,
        network: Callable[..., nn.Module],
        size: int | None,
    ) -> None:
        super().__init__()
        if input_shape[0] not in (1, 3):
            raise ValueError(f"images of {input_shape[0]} channels: must be 1 or 3")
        if size is not None and (type(size) is not int or size < 1):
            raise ValueError(f"size={size}: must be a positive whole number, or null for images as they are")
        self.network = network(num_classes=num_classes)
        for norm in self.network.modules():
            if isinstance(
                norm, nn.BatchNorm2d
            ):  # takes anything; its momentum may be None, for the mean of all steps
                for name, value in (
                    ("eps", norm.eps),
                    ("momentum", 0.1 if norm.momentum is None else norm.momentum),
                ):
                    if not isinstance(value, int | float) or not 0 < value <= 1:
                        raise ValueError(f"{name}={value}: must be a number in (0, 1]")
        self.size = size

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, num_classes), of images, shape (N, C, H, W)."""
        images_NCHW = images_NCHW.expand(-1, 3, -1, -1)
        if self.size:
            images_NCHW = F.interpolate(images_NCHW, size=(self.size, self.size), mode="bilinear")
        logits_NK: Tensor = self.network(images_NCHW)
        return logits_NK

"""Adapter for networks that expect colour images of a certain size, such as torchvision's.

Shapes: N images in a batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class RGB(nn.Module):
    """Converts images to three channels and a certain size for another network.

    Args:
        input_shape: Shape of an image, (C, H, W), with 3 channels, or 1, which is repeated.
        num_classes: Number of logits.
        network: Called with `num_classes`, returns the network, as torchvision's model builders do.
        size: Side to which images are resized; None to keep their size.

    Raises:
        ValueError: The images have another number of channels, or an argument is out of its range.

    Example:
        >>> import torch, torchvision
        >>> builder = torchvision.models.squeezenet1_1
        >>> network = RGB(input_shape=(1, 28, 28), num_classes=10, network=builder, size=64)
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
            raise ValueError(f"size={size}: must be a positive whole number, or null to keep it")
        try:
            self.network = network(num_classes=num_classes)
        except (KeyError, ValueError) as error:  # how torchvision refuses an argument
            found = f"{type(error).__name__}: {error}"
            raise ValueError(f"network: can't be created from its settings ({found})") from error
        for norm in self.network.modules():
            # BatchNorm2d does not check its arguments; a momentum of None is valid (cumulative
            # average).
            if isinstance(norm, nn.BatchNorm2d):
                _check_share("eps", norm.eps)
                if norm.momentum is not None:
                    _check_share("momentum", norm.momentum)
        self.size = size

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Return logits, shape (N, num_classes), for images, shape (N, C, H, W)."""
        images_NCHW = images_NCHW.expand(-1, 3, -1, -1)
        if self.size:
            size = (self.size, self.size)
            images_NCHW = F.interpolate(images_NCHW, size=size, mode="bilinear")
        logits_NK: Tensor = self.network(images_NCHW)
        return logits_NK


def _check_share(name: str, value: float) -> None:
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(f"{name}={value}: must be a number in (0, 1]")

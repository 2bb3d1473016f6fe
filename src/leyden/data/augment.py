"""Training images changed at random."""

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from leyden.data.transfer import Sending


class Augment:
    """Changes training images by transforms of torchvision (v2), whole batches at once, on their device.

    One draw of a transform holds for all the images that it is given, so a batch is cut into parts with a draw
    each. The random numbers are PyTorch's, which checkpoints keep.

    Args:
        num_draws: Number of parts.
        transforms: By names of your choice; they are applied in turn, to pixels, shape (N, C, H, W), uint8.

    Raises:
        ValueError: `num_draws` is out of its range.

    Example:
        >>> from torchvision.transforms import v2
        >>> augment = Augment(num_draws=2, mirror=v2.RandomHorizontalFlip(p=1.0))
        >>> augment(torch.tensor([[[[1, 2]]], [[[3, 4]]]], dtype=torch.uint8)).tolist()
        [[[[2, 1]]], [[[4, 3]]]]
    """

    def __init__(self, *, num_draws: int, **transforms: Callable[[Tensor], Tensor]) -> None:
        if type(num_draws) is not int or num_draws < 1:
            raise ValueError(f"num_draws={num_draws}: must be a positive whole number")
        self.num_draws = num_draws
        self.transforms = transforms

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """Changed images of the same shape."""
        parts = []
        with Sending() if pixels_NCHW.device.type != "cpu" else contextlib.nullcontext():
            for part_NCHW in pixels_NCHW.chunk(self.num_draws):
                for transform in self.transforms.values():
                    part_NCHW = transform(part_NCHW)
                parts.append(part_NCHW)
        return torch.cat(parts)

"""Transforms between a stored dataset and a network: normalisation and augmentation.

Shapes: N samples of a batch, C channels or columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def check_integers(**named: tuple[Any, int]) -> None:
    """Check that each named value is a whole number, and at least its minimum.

    Raises:
        ValueError: A value is no whole number, or too small.
    """
    for name, (value, least) in named.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")


@dataclass(frozen=True)
class Normalize:
    """Compute (raw / `scale` - `mean`) / `std` as float32; int64 inputs (tokens) are unchanged.

    Args:
        mean: One value per channel (the second axis), or one for all.
        std: One value per channel, or one for all.
        scale: 255 for pixels, 1 for other numbers.

    Example:
        >>> Normalize((0.0,), (1.0,))(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8)).item()
        0.20000000298023224
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __call__(self, raw: Tensor) -> Tensor:
        """Return normalised inputs, shape (N, C, ...), without changing `raw`."""
        return self.on(raw.device)(raw)

    def on(self, device: torch.device | str) -> Callable[[Tensor], Tensor]:
        """Return this normalisation for inputs on a device.

        Mean and standard deviation are stored there, to avoid a copy per batch.
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float32, device=device)
            for values in (self.mean, self.std)
        )
        shifts = any(self.mean) or any(value != 1 for value in self.std)

        def normalize(raw: Tensor) -> Tensor:
            if raw.dtype == torch.int64:
                return raw
            inputs = raw.to(torch.float32, copy=True)
            if self.scale != 1:
                inputs.div_(self.scale)
            if shifts:
                per_channel = (-1, *(1 for _ in raw.shape[2:])) if len(self.mean) > 1 else (1,)
                inputs.sub_(mean.view(per_channel))
                inputs.div_(std.view(per_channel))
            return inputs

        return normalize

    @classmethod
    def standardize(cls, values: Tensor) -> "Normalize":
        """Return the normalisation of numbers to mean 0 and standard deviation 1 per image channel or table column.

        Channels of 0 and 1 only, such as categories, stay as they are.

        Args:
            values: Shape (N, C) or (N, C, H, W). Numbers of any other shape get one mean for all.
        """
        axes = [axis for axis in range(values.ndim) if axis != 1 or values.ndim not in (2, 4)]
        std, mean = torch.std_mean(values.double(), dim=axes, correction=0)
        is_binary = (values.square() == values).all(dim=axes)
        std, mean = std.masked_fill(is_binary | (std == 0), 1.0), mean.masked_fill(is_binary, 0.0)
        return cls(tuple(mean.reshape(-1).tolist()), tuple(std.reshape(-1).tolist()), 1.0)

    @classmethod
    def standardize_pixels(cls, batches: Iterable[Tensor]) -> "Normalize":
        """Return the normalisation of pixels, (N, C, H, W) uint8, to mean 0 and standard deviation 1 per channel."""
        # Counting the 256 values is exact, whatever the batches are, and needs no float copy of the images.
        count_CV = torch.zeros((), dtype=torch.int64)
        for pixels_NCHW in batches:
            each = [
                torch.bincount(channel.flatten(), minlength=256)
                for channel in pixels_NCHW.transpose(0, 1)
            ]
            count_CV = torch.stack(each) + count_CV
        part_CV = count_CV / count_CV.sum(dim=1, keepdim=True, dtype=torch.float64)
        values_V = torch.arange(256, dtype=torch.float64) / 255
        mean_C = part_CV @ values_V
        std_C = (part_CV * (values_V - mean_C[:, None]).square()).sum(dim=1).sqrt()
        return cls(tuple(mean_C.tolist()), tuple(std or 1.0 for std in std_C.tolist()))


class NormalizingNetwork(nn.Module):
    """Network that normalises its inputs itself.

    Args:
        network: Receives normalised inputs.
        normalize: Receives raw inputs, such as pixels.
    """

    def __init__(self, network: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.network, self.normalize = network, normalize

    def forward(self, raw: Tensor) -> Tensor:
        """Return the network's output; the first one of a tuple (a reconstruction and its code)."""
        outputs: Tensor | tuple[Tensor, ...] = self.network(self.normalize(raw))
        return outputs[0] if isinstance(outputs, tuple) else outputs


class Augment:
    """Augment batches of training images by torchvision's transforms (v2), on the images' device.

    A transform draws its random numbers once per call, so a batch is split into chunks, with one draw each. The
    random numbers are PyTorch's, which checkpoints contain.

    Args:
        num_chunks: Number of chunks.
        transforms: Transforms by arbitrary names, applied in turn to pixels, shape (N, C, H, W), uint8.

    Raises:
        ValueError: `num_chunks` is out of its range.

    Example:
        >>> from torchvision.transforms import v2
        >>> augment = Augment(num_chunks=2, mirror=v2.RandomHorizontalFlip(p=1.0))
        >>> augment(torch.tensor([[[[1, 2]]], [[[3, 4]]]], dtype=torch.uint8)).tolist()
        [[[[2, 1]]], [[[4, 3]]]]
    """

    def __init__(self, *, num_chunks: int, **transforms: Callable[[Tensor], Tensor]) -> None:
        check_integers(num_chunks=(num_chunks, 1))
        self.num_chunks = num_chunks
        self.transforms = transforms

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """Return augmented images of the same shape."""
        parts = []
        for part_NCHW in pixels_NCHW.chunk(self.num_chunks):
            for transform in self.transforms.values():
                part_NCHW = transform(part_NCHW)
            parts.append(part_NCHW)
        return torch.cat(parts)

"""Transforms between a stored dataset and a network: normalisation and augmentation.

Shapes: N samples of a batch, C channels or columns.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from leyden.base.errors import UserError

Transform = Callable[[Tensor], Tensor]


def check_integers(**named: tuple[Any, int]) -> None:
    """Check that each named value is a whole number, and at least its minimum.

    Raises:
        ValueError: A value is no whole number, or too small.
    """
    for name, (value, least) in named.items():
        if type(value) is not int or value < least:
            raise ValueError(f"{name}={value}: must be a whole number, {least} or larger")


def number_by_name(names: Iterable[str]) -> dict[str, int]:
    """Return the number of each name, from 0."""
    return {name: number for number, name in enumerate(names)}


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

    def on(self, device: torch.device | str) -> Transform:
        """Return this normalisation for inputs on a device.

        Mean and standard deviation are stored there, to avoid a copy per batch.
        """
        mean = torch.tensor(self.mean, dtype=torch.float32, device=device)
        std = torch.tensor(self.std, dtype=torch.float32, device=device)
        shifts = any(self.mean) or {*self.std} != {1}

        def normalize(raw: Tensor) -> Tensor:
            if raw.dtype == torch.int64:
                return raw
            inputs = raw.to(torch.float32, copy=True)
            if self.scale != 1:
                inputs.div_(self.scale)
            if shifts:
                per_channel = [1]
                if len(self.mean) > 1:
                    per_channel = [-1] + [1] * (raw.ndim - 2)
                inputs.sub_(mean.view(per_channel))
                inputs.div_(std.view(per_channel))
            return inputs

        return normalize

    @classmethod
    def unit(cls, num_channels: int) -> "Normalize":
        """Return the normalisation of pixels to [0, 1]."""
        return cls((0.0,) * num_channels, (1.0,) * num_channels)

    @classmethod
    def standardize(cls, values: Tensor) -> "Normalize":
        """Return the normalisation of numbers to mean 0 and deviation 1 per channel or column.

        Channels of 0 and 1 only, such as categories, stay as they are.

        Args:
            values: Shape (N, C) or (N, C, H, W). Numbers of any other shape get one mean for all.
        """
        axes = [*range(values.ndim)]
        if values.ndim in (2, 4):
            axes.remove(1)
        std, mean = torch.std_mean(values.double(), dim=axes, correction=0)
        are_binary = values.square() == values
        is_binary = are_binary.all(dim=axes)
        std = std.masked_fill(is_binary | (std == 0), 1.0)
        mean = mean.masked_fill(is_binary, 0.0)
        means = mean.reshape(-1).tolist()
        stds = std.reshape(-1).tolist()
        return cls(tuple(means), tuple(stds), 1.0)

    @classmethod
    def standardize_pixels(cls, batches: Iterable[Tensor]) -> "Normalize":
        """Return the normalisation of pixels to mean 0 and standard deviation 1 per channel."""
        # Counting the 256 values is exact, whatever the batches are, and needs no float copy of the
        # images.
        count_CV = torch.zeros((), dtype=torch.int64)
        for pixels_NCHW in batches:
            channels = pixels_NCHW.transpose(0, 1).flatten(1)
            counts = [channel.bincount(minlength=256) for channel in channels]
            count_CV = torch.stack(counts) + count_CV
        total_C1 = count_CV.sum(dim=1, keepdim=True, dtype=torch.float64)
        part_CV = count_CV / total_C1
        values_V = torch.arange(256, dtype=torch.float64) / 255
        mean_C = part_CV @ values_V
        squares_CV = (values_V - mean_C[:, None]).square()
        variance_C = (part_CV * squares_CV).sum(dim=1)
        std_C = variance_C.sqrt()
        std_C[std_C == 0] = 1.0
        return cls(tuple(mean_C.tolist()), tuple(std_C.tolist()))


class NormalizingNetwork(nn.Module):
    """Network that normalises its inputs itself.

    Args:
        network: Receives normalised inputs.
        normalize: Receives raw inputs, such as pixels.
    """

    def __init__(self, network: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.network = network
        self.normalize = normalize

    def forward(self, raw: Tensor) -> Tensor:
        """Return the network's output; the first one of a tuple (a reconstruction and its code)."""
        outputs: Any = self.network(self.normalize(raw))
        first: Tensor = outputs[0] if isinstance(outputs, tuple) else outputs
        return first


class Augment:
    """Augment batches of training images by torchvision's transforms (v2), on the images' device.

    A transform draws its random numbers once per call, so a batch is split into chunks, with one
    draw each. The random numbers are PyTorch's, which checkpoints contain.

    Args:
        num_chunks: Number of chunks.
        transforms: Transforms by arbitrary names, applied in turn to pixels, shape (N, C, H, W),
            uint8.

    Raises:
        ValueError: `num_chunks` is out of its range.

    Example:
        >>> from torchvision.transforms import v2
        >>> augment = Augment(num_chunks=2, mirror=v2.RandomHorizontalFlip(p=1.0))
        >>> augment(torch.tensor([[[[1, 2]]], [[[3, 4]]]], dtype=torch.uint8)).tolist()
        [[[[2, 1]]], [[[4, 3]]]]
    """

    def __init__(self, *, num_chunks: int, **transforms: Transform) -> None:
        check_integers(num_chunks=(num_chunks, 1))
        self.num_chunks = num_chunks
        self.transforms = transforms

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """Return augmented images of the same shape.

        Raises:
            UserError: The samples are no images.
        """
        if pixels_NCHW.ndim < 4:
            shape = tuple(pixels_NCHW.shape[1:])
            raise UserError(
                f"data.augment transforms images, and these samples have the shape {shape}; set "
                "data.augment=null"
            )
        parts = []
        for part_NCHW in pixels_NCHW.chunk(self.num_chunks):
            for transform in self.transforms.values():
                part_NCHW = transform(part_NCHW)
            parts.append(part_NCHW)
        return torch.cat(parts)

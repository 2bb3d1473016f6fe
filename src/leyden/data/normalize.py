"""From pixels to what a network sees."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Normalize:
    """Pixels / 255, less `mean`, over `std`, a value a channel; nothing further for mean 0 and deviation 1.

    Example:
        >>> Normalize((0.0,), (1.0,))(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8)).item()
        0.20000000298023224
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels_NCHW: Tensor) -> Tensor:
        """Images, shape (N, C, H, W), float32, of pixels of the same shape, uint8."""
        images_NCHW = pixels_NCHW.float().div_(255)
        if any(self.mean) or any(std != 1 for std in self.std):
            mean_C11 = images_NCHW.new_tensor(self.mean)[:, None, None]
            std_C11 = images_NCHW.new_tensor(self.std)[:, None, None]
            images_NCHW.sub_(mean_C11).div_(std_C11)
        return images_NCHW

    @classmethod
    def standardize(cls, pixels_NCHW: Tensor) -> "Normalize":
        """The one that gives `pixels_NCHW`, uint8, mean 0 and deviation 1 in each channel."""
        # Counting the 256 values is exact, and needs no float copy of all the images.
        means, stds = [], []
        values = torch.arange(256, dtype=torch.float64) / 255
        for channel in range(pixels_NCHW.shape[1]):
            count = torch.bincount(pixels_NCHW[:, channel].flatten(), minlength=256).double()
            mean = (count @ values / count.sum()).item()
            means.append(mean)
            stds.append((count @ (values - mean).square() / count.sum()).sqrt().item() or 1.0)
        return cls(tuple(means), tuple(stds))


class FromPixels(nn.Module):
    """A network with the normalisation inside.

    Args:
        network: Takes normalised images, shape (N, C, H, W), float32.
        normalize: Makes them of pixels.
    """

    def __init__(self, network: nn.Module, normalize: Normalize) -> None:
        super().__init__()
        self.network, self.normalize = network, normalize

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Logits, shape (N, K), of pixels, shape (N, C, H, W), uint8."""
        logits_NK: Tensor = self.network(self.normalize(pixels_NCHW))
        return logits_NK

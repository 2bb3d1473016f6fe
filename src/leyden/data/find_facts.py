"""What a data set on the disk says of itself, by its first sample, or by all of them.

Shapes: N samples, C channels, H rows and W columns of an image.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from leyden.config.terminal import warn
from leyden.data.facts import Facts
from leyden.data.normalize import Normalize
from leyden.data.stream import StreamLoader
from leyden.run.process import is_main_process


def find_facts(dataset: Dataset[Any], *, first: StreamLoader, every: StreamLoader, normalize: str) -> Facts:
    """The facts of a data set: its `classes`, `target_names` or `vocabulary`, where it has them, and the shape of its inputs.

    Inputs that are uint8 of shape (C, H, W) are pixels; of others there is neither mean nor deviation.

    Args:
        dataset: Of the training split.
        first: Gives one of its samples.
        every: Gives all of them; they are read for `standardize` only.
        normalize: `unit` or `standardize`.

    Raises:
        ValueError: `standardize` is asked for of what are no pixels.
    """
    with contextlib.closing(first):
        inputs, target = next(iter(first))
    has_pixels = inputs.dtype == torch.uint8 and inputs.ndim == 4
    if normalize == "standardize" and not has_pixels:
        raise ValueError(f"normalize=standardize: is for pixels, uint8; the data set gives {inputs.dtype}")
    scale = Normalize((0.0,) * inputs.shape[1], (1.0,) * inputs.shape[1]) if has_pixels else None
    if normalize == "standardize":
        if is_main_process():
            warn(f"data.normalize=standardize: all {len(every.indices_N):,} training images are read once for it")
        with contextlib.closing(every):
            scale = standardize(inputs_NCHW for inputs_NCHW, _ in every)
    classes = getattr(dataset, "classes", None)
    vocabulary = getattr(dataset, "vocabulary", None)
    is_number = classes is None and isinstance(target, Tensor) and target.is_floating_point() and target.ndim <= 2
    names = getattr(dataset, "target_names", None)
    if is_number and names is None:
        num = 1 if target.ndim == 1 else target.shape[1]
        names = ["target"] if num == 1 else [f"target_{n}" for n in range(num)]
    found: dict[str, Any] = {
        "target_names": tuple(names) if is_number and names else None,
        "vocabulary": None if vocabulary is None else tuple(map(str, vocabulary)),
        "input_shape": tuple(inputs.shape[1:]),
        "num_classes": None if classes is None else len(classes),
        "class_names": None if classes is None else tuple(map(str, classes)),
        "mean": scale and scale.mean,
        "std": scale and scale.std,
        "scale": 255.0 if has_pixels else 1.0,
    }
    return Facts(**found)


def standardize(batches: Iterable[Tensor]) -> Normalize:
    """The one that gives the pixels of all batches, shape (N, C, H, W), uint8, mean 0 and deviation 1 in each channel."""
    count_CV = None  # of each of the 256 values
    for pixels_NCHW in batches:
        each = [torch.bincount(channel.flatten(), minlength=256) for channel in pixels_NCHW.transpose(0, 1)]
        count_CV = torch.stack(each) + (0 if count_CV is None else count_CV)
    assert count_CV is not None
    part_CV = count_CV / count_CV.sum(dim=1, keepdim=True, dtype=torch.float64)
    values_V = torch.arange(256, dtype=torch.float64) / 255
    mean_C = part_CV @ values_V
    std_C = (part_CV * (values_V - mean_C[:, None]).square()).sum(dim=1).sqrt()
    return Normalize(tuple(mean_C.tolist()), tuple(std or 1.0 for std in std_C.tolist()))

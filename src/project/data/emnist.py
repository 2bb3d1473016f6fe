"""EMNIST, upright and with classes from 0."""

from typing import Any

import torch
import torchvision


class EMNIST(torchvision.datasets.EMNIST):
    """Handwritten characters, `data` (N, 28, 28) uint8 and `targets` int64, in one of six splits.

    torchvision's is as the files are: images with rows and columns exchanged, and in the split `letters` a class
    "N/A" without images before "a". This one has neither.

    Source: Cohen, Afshar, Tapson and van Schaik, EMNIST: an extension of MNIST to handwritten letters (2017).

    Args:
        root: Folder of the downloads.
        split: `byclass`, `bymerge`, `balanced`, `letters`, `digits` or `mnist`.
        kwargs: `train` and `download`.

    Raises:
        ValueError: There is no such split.
    """

    sha256: dict[str, str] = {}  # noqa: RUF012 - kept beside the files when torchvision has fetched and checked them

    def __init__(self, root: str, split: str, **kwargs: Any) -> None:
        super().__init__(root, split, **kwargs)
        self.data: torch.Tensor = self.data.transpose(1, 2)
        if split == "letters":
            self.targets: torch.Tensor = self.targets - 1
            self.classes: list[str] = self.classes_split_dict[split][1:]

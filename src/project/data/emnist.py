"""EMNIST with upright images and classes from 0."""

from typing import Any

import torch
import torchvision


class EMNIST(torchvision.datasets.EMNIST):
    """Handwritten characters in one of six splits: `data`, (N, 28, 28) uint8, and `targets`, (N,).

    In torchvision's class, rows and columns of the images are transposed, and the split `letters`
    has an empty class "N/A" before "a", as in the original files. This class corrects both.

    Source: Cohen, Afshar, Tapson and van Schaik, EMNIST: an extension of MNIST to handwritten
    letters (2017).

    Args:
        root: Folder of the data sets.
        split: `byclass`, `bymerge`, `balanced`, `letters`, `digits` or `mnist`.
        kwargs: `train` and `download`, as in torchvision.

    Raises:
        ValueError: The split is unknown.
    """

    data: torch.Tensor
    targets: torch.Tensor
    classes: list[str]

    def __init__(self, root: str, split: str, **kwargs: Any) -> None:
        super().__init__(root, split, **kwargs)
        self.data = self.data.transpose(1, 2)
        if split == "letters":
            self.targets = self.targets - 1
            self.classes = self.classes[1:]

"""Fashion-MNIST as JPEG files, an example of images streamed from disk."""

import shutil
from pathlib import Path
from typing import Any

from leyden.data import FolderDataModule, load
from PIL import Image

from project.data.fashion_mnist import FashionMNIST

SIZES = (28, 56, 84)  # sides of the images in pixels, in turn


class FashionJpegs(FolderDataModule):
    """Fashion-MNIST as 70,000 JPEGs of three sizes.

    They are in `root/fashion_jpegs/train/CLASS/` and `root/fashion_jpegs/test/CLASS/`.

    Args:
        root: Folder of the data sets.
        download: True to download Fashion-MNIST if it is missing.
        kwargs: Further arguments of `FolderDataModule`.
    """

    def __init__(self, *, root: str, download: bool, **kwargs: Any) -> None:
        super().__init__(root=f"{root}/fashion_jpegs", **kwargs)
        self.download = download

    def prepare_data(self) -> None:
        """Write the JPEG files if they are missing."""
        folder = Path(self.root)
        if folder.exists():
            return
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
        for split in ("train", "test"):
            is_train = split == "train"
            dataset = load(FashionMNIST, folder.parent, train=is_train, download=self.download)
            _write(dataset, partial / split)
        partial.rename(folder)


def _write(dataset: FashionMNIST, folder: Path) -> None:
    folders = []
    for name in dataset.classes:
        subfolder = folder / name.replace("/", " or ")
        subfolder.mkdir(parents=True)
        folders.append(subfolder)
    samples = zip(dataset.data, dataset.targets, strict=True)
    for n, (pixels_HW, target) in enumerate(samples):
        size = SIZES[n % len(SIZES)]
        original = Image.fromarray(pixels_HW.numpy())
        image = original.resize((size, size), Image.Resampling.BICUBIC)
        path = folders[target] / f"{n:05d}.jpg"
        image.save(path, quality=90)

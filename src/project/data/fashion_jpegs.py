"""Fashion-MNIST as files: images that stream from the disk."""

import shutil
from pathlib import Path
from typing import Any

from PIL import Image

from leyden.data.fetch import load
from leyden.data.folder import FolderDataModule
from project.data.fashion_mnist import FashionMNIST

SIZES = (28, 56, 84)  # rows and columns, in turn


class FashionJpegs(FolderDataModule):
    """70,000 JPEGs of three sizes in `root/fashion_jpegs/train/CLASS/` and `root/fashion_jpegs/test/CLASS/`.

    Args:
        root: Folder of the data sets.
        download: Whether Fashion-MNIST is fetched, if it is not there.
        further: As `FolderDataModule` has it.
    """

    def __init__(self, *, root: str, download: bool, **further: Any) -> None:
        super().__init__(root=f"{root}/fashion_jpegs", **further)
        self.download = download

    def prepare_data(self) -> None:
        """Write the files, if they are not there."""
        folder = Path(self.root)
        if folder.exists():
            return
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was ended
        for split in ("train", "test"):
            dataset = load(FashionMNIST, folder.parent, train=split == "train", download=self.download)
            names = [name.replace("/", " or ") for name in dataset.classes]
            for name in names:
                (partial / split / name).mkdir(parents=True)
            for n, (pixels_HW, target) in enumerate(zip(dataset.data, dataset.targets, strict=True)):
                size = SIZES[n % len(SIZES)]
                image = Image.fromarray(pixels_HW.numpy()).resize((size, size), Image.Resampling.BICUBIC)
                image.save(partial / split / names[target] / f"{n:05d}.jpg", quality=90)
        partial.rename(folder)

"""Image folders with one subfolder per class, streamed from disk."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from leyden.config.terminal import warn
from leyden.data.images import SUFFIXES, read_center_crop
from leyden.data.streamed import StreamedDataModule
from leyden.data.transforms import check_integers
from leyden.run.process import is_main_process

# Limits up to which a folder is identified by its files' contents, and not by names and sizes alone.
MAX_FILES, MAX_BYTES = 1000, 2**25


class FolderDataModule(StreamedDataModule):
    """Images in `root/train/CLASS/`, `root/test/CLASS/` and, optionally, `root/val/CLASS/`.

    Reads .jpg, .jpeg, .png and .webp files and ignores hidden ones. Each image is center-cropped to the aspect ratio
    of `image_size` and resized.

    Args:
        root: The folder.
        image_size: Height and width of the network's input images.
        channels: 3 for RGB, 1 for grey.
        kwargs: Arguments of `StreamedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(self, *, root: str, image_size: Sequence[int], channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
        if not isinstance(image_size, list | tuple) or len(image_size) != 2:
            raise ValueError(f"image_size={image_size}: must be two sizes, rows and columns")
        for size in image_size:
            check_integers(image_size=(size, 1))
        self.root, self.input_shape = root, (channels, image_size[0], image_size[1])

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 that identifies the images of each training or validation folder, by folder."""
        opened = [dataset for split, dataset in self.datasets.items() if split != "test"]
        return {f"{each.folder.name}/": each.digest for each in opened if isinstance(each, Folder)}

    def read_image(self, path: Path) -> Tensor:
        """Return an image file's pixels as in training, shape (C, H, W), uint8."""
        return read_center_crop(path, self.input_shape)

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the images of a split, labelled by the classes of the training split."""
        folder, train = Path(self.root, split), Path(self.root, "train")
        if split == "val" and not folder.is_dir():
            return None
        for needed in (train, folder):
            if not needed.is_dir():
                raise FileNotFoundError(f"{needed}: there is no such folder; images lie in {needed}/CLASS/")
        return Folder(folder, class_names(train), self.input_shape)


class Folder(Dataset[tuple[Tensor, int]]):
    """Images in folders named after their classes, sorted by class, then by name.

    Args:
        folder: Contains one folder per class, except for classes without images.
        classes: Names of the classes.
        input_shape: Shape of the returned images, (C, H, W).

    Raises:
        OSError: A folder can't be listed.
        ValueError: There is no image, or a folder of an unknown class.
    """

    def __init__(self, folder: Path, classes: Sequence[str], input_shape: tuple[int, int, int]) -> None:
        self.folder, self.classes, self.input_shape = folder, classes, input_shape
        if unknown := sorted({*class_names(folder)} - {*classes}):
            raise ValueError(f"{folder / unknown[0]}: is not a class of the training images ({', '.join(classes)})")
        names = [_image_names(folder / name) for name in classes]
        # Arrays, not lists: reference counting would copy the memory of a million objects into each worker.
        self.names = np.array([name for each in names for name in each], dtype=np.bytes_)
        self.targets = np.repeat(np.arange(len(classes), dtype=np.int32), [len(each) for each in names])
        if not len(self.names):
            raise ValueError(
                f"{folder}: holds no image; they lie in {folder}/CLASS/ and end in {', '.join(SUFFIXES)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image's pixels, shape (C, H, W), uint8, and its class."""
        return read_center_crop(self.path(index), self.input_shape), int(self.targets[index])

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / self.classes[int(self.targets[index])] / os.fsdecode(self.names[index])

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the images' names and sizes, and of their contents if they are few and small."""
        place, folders = os.fsencode(self.folder), [os.fsencode(name) for name in self.classes]
        pairs = zip(self.targets.tolist(), self.names.tolist(), strict=True)
        names = [folders[target] + b"/" + name for target, name in pairs]
        # There can be a million files, for which pathlib takes three times as long.
        sizes = [os.stat(os.path.join(place, name)).st_size for name in names]  # noqa: PTH116, PTH118
        sha256 = hashlib.sha256(b"".join(b"%d %b\0" % pair for pair in zip(sizes, names, strict=True)))
        if len(names) > MAX_FILES or sum(sizes) > MAX_BYTES:
            return f"{sha256.hexdigest()} (names and sizes)"
        for name in names:
            sha256.update(Path(self.folder, os.fsdecode(name)).read_bytes())
        return sha256.hexdigest()


def class_names(folder: Path) -> list[str]:
    """Return the sorted names of a folder's subfolders, but for hidden ones."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _image_names(folder: Path) -> list[bytes]:
    """Return the sorted names of a folder's image files; a line warns of others that are not hidden."""
    every = os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208 - pathlib takes three times as long
    names = [name for name in every if not name.startswith(".")]
    found = sorted(os.fsencode(name) for name in names if name.lower().endswith(SUFFIXES))
    if (num := len(names) - len(found)) and is_main_process():
        warn(f"{folder}: {num} entries are ignored; images end in {', '.join(SUFFIXES)}")
    return found

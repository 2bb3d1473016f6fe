"""Images in a folder per class, streamed from the disk."""

import errno
import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from leyden.config.terminal import warn
from leyden.data.files import digest_of_folder
from leyden.data.images import SUFFIXES, read_cut
from leyden.data.streamed import StreamedDataModule
from leyden.run.process import is_main_process


class FolderDataModule(StreamedDataModule):
    """Images in `root/train/CLASS/`, `root/test/CLASS/` and, where that is there, `root/val/CLASS/`, of any size.

    They are .jpg, .jpeg, .png and .webp files. Of each the largest middle part of the aspect of `image_size` is cut out and
    resized, by `read_image`, for `predict` too. Hidden files are left out.

    Args:
        root: The folder.
        image_size: Rows and columns of the images that a network gets.
        channels: 3 for RGB, 1 for grey.
        further: As `StreamedDataModule` has it.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: Sequence[int],
        channels: int,
        **further: Any,
    ) -> None:
        super().__init__(**further)
        if not isinstance(image_size, list | tuple) or len(image_size) != 2:
            raise ValueError(f"image_size={image_size}: must be two sizes, rows and columns")
        if not all(type(size) is int and 0 < size < 2**14 for size in image_size):
            raise ValueError(f"image_size={image_size}: must be whole numbers from 1 to {2**14 - 1}")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
        self.root = root
        self.input_shape = (channels, image_size[0], image_size[1])

    @property
    def digests(self) -> dict[str, str]:
        """What identifies the images of training and validation: a SHA-256 by the folder of the split."""
        opened = [dataset for split, (dataset, _) in self.splits.items() if split != "test"]
        return {name: found for each in opened if isinstance(each, Folder) for name, found in each.digests.items()}

    def read_image(self, path: Path) -> Tensor:
        """Pixels of a file as training sees them, shape (C, H, W), uint8."""
        return read_cut(path, self.input_shape)

    def open(self, split: str) -> "Folder | None":
        """The images of a split, listed; their classes are those of training."""
        folder, train = Path(self.root, split), Path(self.root, "train")
        for needed in (train,) if split == "val" else (train, folder):
            if not needed.is_dir():
                raise FileNotFoundError(f"{needed}: there is no such folder; images lie in {needed}/CLASS/")
        if not folder.is_dir():
            return None
        classes = [os.fsdecode(name) for name in _names(train, folders=True)]
        if not classes:
            raise ValueError(f"{train}: holds no folder of a class; images lie in {train}/CLASS/")
        found = Folder(folder, classes, self.input_shape)
        empty = sorted({*classes} - {classes[target] for target in np.unique(found.targets)})
        if split == "train" and empty:
            raise ValueError(f"{folder / empty[0]}: holds no image; they end in {', '.join(SUFFIXES)}")
        return found


class Folder(Dataset[tuple[Tensor, int]]):
    """Images in folders that are named after their classes, in the order of classes and names.

    Args:
        folder: Holds a folder per class; one that has no image of a class needn't have its folder.
        classes: Their names.
        input_shape: Shape of the images that it gives, (C, H, W).

    Raises:
        ValueError: There is no image, one of another class, a link to nothing, or something that can't be listed.
    """

    def __init__(self, folder: Path, classes: Sequence[str], input_shape: tuple[int, int, int]) -> None:
        self.folder, self.classes, self.input_shape = folder, classes, input_shape
        there = {os.fsdecode(name) for name in _names(folder, folders=True)}
        if unknown := sorted(there - {*classes}):
            raise ValueError(f"{folder / unknown[0]}: is no class of the training images ({', '.join(classes)})")
        names = [_names(folder / name) if name in there else NO_NAMES for name in classes]
        # Arrays, not lists: of a million objects each worker would make copies of its own, by counting who holds them.
        self.names = np.concatenate(names)
        self.targets = np.repeat(np.arange(len(classes), dtype=np.int32), [len(each) for each in names])
        if not len(self.names):
            raise ValueError(
                f"{folder}: holds no image; they lie in {folder}/CLASS/ and end in {', '.join(SUFFIXES)}"
            )

    def __len__(self) -> int:
        return len(self.names)

    @functools.cached_property
    def digests(self) -> dict[str, str]:
        """What identifies the images: a SHA-256 of their names and sizes, and of the contents of a small folder."""
        folders = [os.fsencode(name) for name in self.classes]
        pairs = zip(self.targets.tolist(), self.names.tolist(), strict=True)
        names = [folders[target] + b"/" + name for target, name in pairs]
        return {f"{self.folder.name}/": digest_of_folder(self.folder, names)}

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Pixels, shape (C, H, W), uint8, and the class."""
        target = int(self.targets[index])
        path = self.folder / self.classes[target] / os.fsdecode(self.names[index])
        return read_cut(path, self.input_shape), target


NO_NAMES = np.array([], dtype=np.bytes_)


def _names(folder: Path, *, folders: bool = False) -> NDArray[np.bytes_]:
    """Names of the image files in a folder, sorted, or of its folders; what else lies there, but hidden, is told."""
    names, others, path = [], [], str(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() if folders else entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    names.append(os.fsencode(entry.name))
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - a Path takes longer
                    raise ValueError(f"{entry.path}: is a link to nothing")
                else:
                    others.append(entry.name)
    except OSError as error:  # of a link to itself, a folder that is not ours to list
        problem = "is a link to itself" if error.errno == errno.ELOOP else f"can't be read ({error.strerror})"
        raise ValueError(f"{path}: {problem}") from error
    if others and is_main_process():
        kind = "folders of classes" if folders else f"images, which end in {', '.join(SUFFIXES)}"
        warn(f"{folder}: {len(others)} entries are left out, as {min(others)}; they are no {kind}")
    return np.array(sorted(names), dtype=np.bytes_)

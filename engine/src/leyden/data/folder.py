"""Image folders with one subfolder per class, streamed from disk."""

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

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.data.images import SUFFIXES, read_center_crop, refuse_size, upright_size
from leyden.data.streamed import StreamedDataModule
from leyden.files.fetch import digest_of_folder
from leyden.run.process import is_main_process

MAX_OPENED = 1000  # images of a split, spread over it, whose sizes are compared before training
MAX_OWN_PIXELS = (
    512**2
)  # larger images are of a camera: of their own size, a network would have billions of parameters


class FolderDataModule(StreamedDataModule):
    """Images in `root/train/CLASS/`, `root/test/CLASS/` and, optionally, `root/val/CLASS/`.

    Reads .jpg, .jpeg, .png and .webp files and ignores hidden ones. With `image_size`, each image is center-cropped to
    this aspect ratio and resized. Without, an image of another size than the first one's is refused: of up to
    `MAX_OPENED` per split before training, of all when they are read. `predict` crops and resizes any image.

    Args:
        root: The folder.
        image_size: Height and width of the network's input images; None: their own, up to `MAX_OWN_PIXELS`.
        channels: 3 for RGB, 1 for grey.
        kwargs: Arguments of `StreamedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: Sequence[int] | None,
        channels: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
        self.root, self.channels = root, channels
        self.first: Path | None = None  # the image whose size all must have, unless `image_size` is given
        self.input_shape: tuple[int, int, int]  # set in `open` without `image_size`
        if image_size is None:
            return
        if not isinstance(image_size, list | tuple) or len(image_size) != 2:
            raise ValueError(f"image_size={image_size}: must be two sizes, rows and columns")
        if not all(type(size) is int and 0 < size < 2**14 for size in image_size):
            raise ValueError(f"image_size={image_size}: must be whole numbers from 1 to {2**14 - 1}")
        self.input_shape = (channels, image_size[0], image_size[1])

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 that identifies the images of each training or validation folder, by folder."""
        opened = [dataset for split, dataset in self.datasets.items() if split != "test"]
        return {name: found for each in opened if isinstance(each, Folder) for name, found in each.digests.items()}

    def read_image(self, path: Path) -> Tensor:
        """Return an image file's pixels as in training, shape (C, H, W), uint8."""
        return read_center_crop(path, self.input_shape)

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the images of a split, labelled by the classes of the training split."""
        folder, train = Path(self.root, split), Path(self.root, "train")
        for needed in (train,) if split == "val" else (train, folder):
            if not needed.is_dir():
                raise FileNotFoundError(f"{needed}: there is no such folder; images lie in {needed}/CLASS/")
        if not folder.is_dir():
            return None
        classes = [os.fsdecode(name) for name in _entry_names(train, folders=True)]
        if not classes:
            raise ValueError(f"{train}: holds no folder of a class; images lie in {train}/CLASS/")
        found = Folder(folder, classes)
        empty = sorted({*classes} - {classes[target] for target in np.unique(found.targets)})
        if split == "train" and empty:
            raise ValueError(f"{folder / empty[0]}: holds no image; they end in {', '.join(SUFFIXES)}")
        if not hasattr(self, "input_shape"):
            self.first = (found if split == "train" else Folder(train, classes)).path(0)
            self.input_shape = (self.channels, *_own_size(self.first))
        if self.first:
            for index in np.linspace(0, len(found) - 1, min(len(found), MAX_OPENED), dtype=int).tolist():
                refuse_size(found.path(index), upright_size(found.path(index)), self.first, self.input_shape[1:])
        found.input_shape, found.like = self.input_shape, self.first
        return found


def _own_size(path: Path) -> tuple[int, int]:
    """Return the size of an image that networks can have as their input.

    Raises:
        UserError: It has too many pixels, as a photograph of a camera.
    """
    rows, columns = upright_size(path)
    if rows * columns > MAX_OWN_PIXELS:
        raise UserError(
            f"{path}: has {rows} x {columns} pixels; data.image_size=[224,224] crops and resizes each image, "
            f"data.image_size=[{rows},{columns}] keeps this size"
        )
    return rows, columns


class Folder(Dataset[tuple[Tensor, int]]):
    """Images in folders named after their classes, sorted by class, then by name.

    Args:
        folder: Contains one folder per class, except for classes without images.
        classes: Names of the classes.

    Attributes:
        input_shape: Shape of the returned images, (C, H, W).
        like: An image of this shape, if those of others are refused.

    Raises:
        ValueError: There is no image, a folder of an unknown class, a broken link, or a folder that can't be
            listed.
    """

    input_shape: tuple[int, int, int]
    like: Path | None = None

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        present = {os.fsdecode(name) for name in _entry_names(folder, folders=True)}
        if unknown := sorted(present - {*classes}):
            raise ValueError(f"{folder / unknown[0]}: is not a class of the training images ({', '.join(classes)})")
        names = [_entry_names(folder / name) if name in present else NO_NAMES for name in classes]
        # Arrays, not lists: reference counting would copy the memory of a million objects into each worker.
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
        """SHA-256 that identifies the images: of names and sizes, and of the contents if the folder is small."""
        folders = [os.fsencode(name) for name in self.classes]
        pairs = zip(self.targets.tolist(), self.names.tolist(), strict=True)
        names = [folders[target] + b"/" + name for target, name in pairs]
        return {f"{self.folder.name}/": digest_of_folder(self.folder, names)}

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image's pixels, shape (C, H, W), uint8, and its class."""
        return read_center_crop(self.path(index), self.input_shape, like=self.like), int(self.targets[index])

    def path(self, index: int) -> Path:
        """Return the path of an image."""
        return self.folder / self.classes[int(self.targets[index])] / os.fsdecode(self.names[index])


NO_NAMES = np.array([], dtype=np.bytes_)


def _entry_names(folder: Path, *, folders: bool = False) -> NDArray[np.bytes_]:
    """Return the sorted names of a folder's image files, or of its subfolders.

    Warns about other entries that are not hidden.
    """
    names, others, path = [], [], str(folder)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = entry.path
                if entry.name.startswith("."):
                    continue
                if entry.is_dir() if folders else entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    names.append(os.fsencode(entry.name))
                elif entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - pathlib is slower
                    raise ValueError(f"{entry.path}: is a broken link")
                else:
                    others.append(entry.name)
    except OSError as error:  # for a link to itself, or a folder without read permission
        problem = "is a link to itself" if error.errno == errno.ELOOP else f"can't be read ({error.strerror})"
        raise ValueError(f"{path}: {problem}") from error
    if others and is_main_process():
        kind = "folders of classes" if folders else f"images, which end in {', '.join(SUFFIXES)}"
        warn(f"{folder}: {len(others)} entries are ignored, such as {min(others)}; they are not {kind}")
    return np.array(sorted(names), dtype=np.bytes_)

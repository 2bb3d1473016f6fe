"""Images: folders with a subfolder per class, and what is read of an image file."""

import contextlib
import functools
import hashlib
import io
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.data import Dataset
from torchvision import io as torchvision_io
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import find_classes
from torchvision.transforms.functional import pil_to_tensor

from leyden.base.errors import UserError
from leyden.data.splits import is_of_training
from leyden.data.streamed import StreamedDataModule
from leyden.data.transforms import check_integers, number_by_name

# Suffixes of image files by their format, as Pillow names it.
IMAGE_FORMATS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WebP": (".webp",),
}
SUFFIXES: tuple[str, ...] = sum(IMAGE_FORMATS.values(), ())
JPEG_END = b"\xff\xd9"
# Limits up to which a folder is identified by its files' contents, and not by names and sizes
# alone.
MAX_FILES, MAX_IMAGE_BYTES = 1000, 2**25


class FolderDataModule(StreamedDataModule):
    """Images in `root/train/CLASS/`, `root/test/CLASS/` and, optionally, `root/val/CLASS/`.

    Reads files with a suffix of `FORMATS` and ignores hidden ones. Each image is center-cropped to
    the aspect ratio of `image_size` and resized.

    Args:
        root: The folder.
        image_size: Height and width of the network's input images.
        channels: 3 for RGB, 1 for grey.
        group: Regular expression for the group of an image, as of a patient, in its path below the
            class: what its first parenthesis matches, or all of it. No group is in several splits.
            None: no groups.
        kwargs: Arguments of `StreamedDataModule`.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        *,
        root: str,
        image_size: Sequence[int],
        channels: int,
        group: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: must be 1 (grey) or 3 (RGB)")
        if not isinstance(image_size, list | tuple) or len(image_size) != 2:
            raise ValueError(f"image_size={image_size}: must be two sizes, rows and columns")
        for size in image_size:
            check_integers(image_size=(size, 1))
        rows, columns = image_size
        self.root = root
        self.input_shape = (channels, rows, columns)
        try:
            self.group = None if group is None else re.compile(group)
        except (re.error, TypeError) as error:
            raise ValueError(f"group={group}: must be a regular expression ({error})") from None

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 that identifies the images of each training or validation folder, by folder."""
        found = {}
        for split, dataset in self.datasets.items():
            if is_of_training(split) and isinstance(dataset, Folder):
                found[f"{Path(dataset.root).name}/"] = dataset.digest
        return found

    def read_image(self, path: Path) -> Tensor:
        """Return an image file's pixels as in training, shape (C, H, W), uint8."""
        return read_image(path, self.input_shape)

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the images of a split, labelled by the classes of the training split."""
        folder = Path(self.root, split)
        if split == "val" and not folder.is_dir():
            return None
        classes = class_names(Path(self.root, "train"))
        return Folder(folder, classes, self.input_shape)

    def groups_of(self, dataset: Any) -> Any:
        """Return the group of each image, which `group` finds in its path."""
        if self.group is None:
            return None
        return dataset.find_groups(self.group)


class Folder(ImageFolder):
    """Images in folders of their classes, as pixels, shape (C, H, W), and the class's number.

    Args:
        folder: Contains one folder per class, except for classes without images.
        known: Names of the classes.
        input_shape: Shape of the returned images, (C, H, W).

    Raises:
        OSError: A folder can't be listed.
        ValueError: There is a folder of an unknown class.
    """

    def __init__(
        self,
        folder: Path,
        known: list[str],
        input_shape: tuple[int, int, int],
    ) -> None:
        self.known = known
        read = functools.partial(read_image, input_shape=input_shape)
        super().__init__(str(folder), loader=read, is_valid_file=_is_image, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and the number of each."""
        for name in class_names(directory):
            if name not in self.known:
                known = ", ".join(self.known)
                raise ValueError(
                    f"{Path(directory, name)}: is not a class of the training images ({known})"
                )
        return self.known, number_by_name(self.known)

    def find_groups(self, pattern: re.Pattern[str]) -> list[str]:
        """Return the group of each image, which a pattern finds in its path below the class.

        Raises:
            ValueError: An image has none.
        """
        parenthesis = min(pattern.groups, 1)
        groups = []
        for path, target in self.samples:
            folder = f"{self.root}{os.sep}{self.classes[target]}{os.sep}"
            name = path.removeprefix(folder)
            found = pattern.search(name.replace(os.sep, "/"))
            if not found or found[parenthesis] is None:
                raise ValueError(f"group={pattern.pattern}: matches nothing in {path}")
            groups.append(found[parenthesis])
        return groups

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the images' names and sizes; of contents, too, if they are few and small."""
        folder = f"{self.root}{os.sep}"
        sha256 = hashlib.sha256()
        num_bytes = 0
        for path, _ in self.samples:
            size = os.stat(path).st_size  # noqa: PTH116 - pathlib takes three times as long
            num_bytes += size
            name = os.fsencode(path.removeprefix(folder))
            sha256.update(b"%d %b\0" % (size, name))
        if len(self.samples) > MAX_FILES or num_bytes > MAX_IMAGE_BYTES:
            return f"{sha256.hexdigest()} (names and sizes)"
        for path, _ in self.samples:
            sha256.update(Path(path).read_bytes())
        return sha256.hexdigest()


def class_names(folder: str | Path) -> list[str]:
    """Return the sorted names of a folder's subfolders, but for hidden ones."""
    names, _ = find_classes(folder)
    return [name for name in names if not name.startswith(".")]


def _is_image(path: str) -> bool:
    name = os.path.basename(path)  # noqa: PTH119
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def read_image(
    path: str | Path, input_shape: tuple[int, int, int], *, invert: bool = False
) -> Tensor:
    """Return an image as a network takes it: cropped to the input's aspect ratio, then resized.

    Any mode and bit depth is converted to 8-bit grey or RGB; transparent parts become background. A
    large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, as long as it stays larger than the input.

    Args:
        path: An image file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.
        invert: Whether the image is dark on a light background, and the network's inputs are light
            on dark.

    Returns:
        Pixels, shape (C, H, W), uint8.

    Raises:
        UserError: The file is not an image, or can't be read.
    """
    channels, height, width = input_shape
    with _opened(path) as (content, image):
        size = image.size
        largest = max(height, width)
        image.draft("L" if channels == 1 else "RGB", (largest, largest))
        pixels_CHW = None
        if image.size == size:
            pixels_CHW = _decode_jpeg(content, image, channels)
        if pixels_CHW is None:
            converted = _converted(image, channels, 255 if invert else 0)
            pixels_CHW = pil_to_tensor(converted)
    _, rows, columns = pixels_CHW.shape
    scale = min(rows / height, columns / width)
    num_rows = max(1, round(height * scale))
    num_columns = max(1, round(width * scale))
    top = (rows - num_rows) // 2
    left = (columns - num_columns) // 2
    part_CHW = pixels_CHW[:, top : top + num_rows, left : left + num_columns]
    wanted = (height, width)
    if part_CHW.shape[1:] != wanted:
        # Four times as fast as Pillow's resize.
        part_NCHW = interpolate(part_CHW[None], wanted, mode="bilinear", antialias=True)
        part_CHW = part_NCHW[0]
    if invert:
        part_CHW = 255 - part_CHW
    return part_CHW.contiguous()


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[bytes, Image.Image]]:
    """Open an image, which is not decoded yet.

    An error within the context is a `UserError` that names the image.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # raised for damaged EXIF data
            warnings.simplefilter("ignore", DeprecationWarning)  # of torchvision's decoder
            # A small file can decode to an image that exhausts the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # By pathlib both would take twice as long, a tenth of the time of a small image.
            if not os.path.isfile(path):  # noqa: PTH113
                raise OSError("is not a file")
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                content = file.read()
            image = Image.open(io.BytesIO(content), formats=[*IMAGE_FORMATS])
            yield content, image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        # An UnidentifiedImageError has the address of an object in its text.
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(
            f"{path}: not an image that can be read{why}; must be one of {', '.join(IMAGE_FORMATS)}"
        ) from error


def open_image(path: Path, channels: int, *, background: int = 0) -> Image.Image:
    """Return an image, upright, in grey or RGB."""
    with _opened(path) as (_, image):
        return _converted(image, channels, background)


def _converted(image: Image.Image, channels: int, background: int) -> Image.Image:
    """Return an opened image, upright, in grey or RGB."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bit, which Pillow would clip at 255
        pixels = np.asarray(image, dtype=np.uint32) >> 8
        image = Image.fromarray(pixels.astype(np.uint8))
    if image.has_transparency_data:
        grey = (background,) * 3
        canvas = Image.new("RGBA", image.size, (*grey, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _decode_jpeg(content: bytes, image: Image.Image, channels: int) -> Tensor | None:
    """Return the pixels of a JPEG, shape (C, H, W), uint8, by torchvision, as Pillow is slower.

    Returns:
        None for what only Pillow decodes, or refuses with a reason.
    """
    if image.format != "JPEG" or image.mode not in ("L", "RGB"):
        return None
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    # Of a file that is cut off, torchvision would fill in the rest.
    if orientation != 1 or not content.endswith(JPEG_END):
        return None
    mode = "RGB"
    if channels == 1:
        mode = "GRAY"
    stored = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    try:
        pixels_CHW: Tensor = torchvision_io.decode_jpeg(stored, mode)
    except (RuntimeError, AttributeError):  # damaged, or a torchvision without a decoder of JPEG
        return None
    return pixels_CHW


def find_images(images: Sequence[str]) -> list[Path]:
    """Return files, and the image files of folders, sorted by name.

    Raises:
        UserError: A file or folder does not exist, or contains no image.
    """
    found = []
    for path in map(Path, images):
        if not path.exists():
            raise UserError(f"images={path}: no such file or folder")
        if path.is_dir():
            files = sorted(path.iterdir())
            found += [file for file in files if file.suffix.lower() in SUFFIXES]
        else:
            found.append(path)
    if not found:
        raise UserError(f"images={','.join(images)}: no {', '.join(SUFFIXES)} file")
    return found

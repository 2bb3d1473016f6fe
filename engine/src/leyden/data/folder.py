"""Images: folders with one subfolder per class, streamed from disk, and what is read of an image file."""

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

from leyden.config.errors import UserError
from leyden.data.splits import is_of_training
from leyden.data.streamed import StreamedDataModule
from leyden.data.transforms import check_integers

# Suffixes of image files by their format, as Pillow names it.
FORMATS = {"PNG": (".png",), "JPEG": (".jpg", ".jpeg"), "WebP": (".webp",)}
SUFFIXES = tuple(suffix for each in FORMATS.values() for suffix in each)
JPEG_END = b"\xff\xd9"
# Limits up to which a folder is identified by its files' contents, and not by names and sizes alone.
MAX_FILES, MAX_BYTES = 1000, 2**25


class FolderDataModule(StreamedDataModule):
    """Images in `root/train/CLASS/`, `root/test/CLASS/` and, optionally, `root/val/CLASS/`.

    Reads files with a suffix of `FORMATS` and ignores hidden ones. Each image is center-cropped to the aspect ratio of
    `image_size` and resized.

    Args:
        root: The folder.
        image_size: Height and width of the network's input images.
        channels: 3 for RGB, 1 for grey.
        group: Regular expression for the group of an image, as of a patient, in its path below the class: what its
            first parenthesis matches, or all of it. No group is in several splits. None: no groups.
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
        self.root, self.input_shape = root, (channels, image_size[0], image_size[1])
        try:
            self.group = None if group is None else re.compile(group)
        except (re.error, TypeError) as error:
            raise ValueError(f"group={group}: must be a regular expression ({error})") from None

    @property
    def digests(self) -> dict[str, str]:
        """SHA-256 that identifies the images of each training or validation folder, by folder."""
        opened = [dataset for split, dataset in self.datasets.items() if is_of_training(split)]
        return {
            f"{Path(each.root).name}/": each.digest for each in opened if isinstance(each, Folder)
        }

    def read_image(self, path: Path) -> Tensor:
        """Return an image file's pixels as in training, shape (C, H, W), uint8."""
        return read_image(path, self.input_shape)

    def open(self, split: str) -> Dataset[Any] | None:
        """Return the images of a split, labelled by the classes of the training split."""
        folder = Path(self.root, split)
        if split == "val" and not folder.is_dir():
            return None
        return Folder(folder, class_names(Path(self.root, "train")), self.input_shape)

    def groups_of(self, dataset: Any) -> list[str] | None:
        """Return the group of each image, which `group` finds in its path."""
        return None if self.group is None else dataset.find_groups(self.group)


class Folder(ImageFolder):
    """Images in folders named after their classes, as pixels, shape (C, H, W), uint8, and the number of the class.

    Args:
        folder: Contains one folder per class, except for classes without images.
        known: Names of the classes.
        input_shape: Shape of the returned images, (C, H, W).

    Raises:
        OSError: A folder can't be listed.
        ValueError: There is a folder of an unknown class.
    """

    def __init__(self, folder: Path, known: list[str], input_shape: tuple[int, int, int]) -> None:
        self.known = known
        read = functools.partial(read_image, input_shape=input_shape)
        super().__init__(str(folder), loader=read, is_valid_file=_is_image, allow_empty=True)

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Return the names of the classes, and the number of each."""
        if unknown := sorted({*class_names(directory)} - {*self.known}):
            known = ", ".join(self.known)
            raise ValueError(
                f"{Path(directory, unknown[0])}: is not a class of the training images ({known})"
            )
        return self.known, {name: number for number, name in enumerate(self.known)}

    def find_groups(self, pattern: re.Pattern[str]) -> list[str]:
        """Return the group of each image, which a pattern finds in its path below the class.

        Raises:
            ValueError: An image has none.
        """
        parenthesis = min(pattern.groups, 1)
        groups = []
        for path, target in self.samples:
            folder = f"{self.root}{os.sep}{self.classes[target]}{os.sep}"
            found = pattern.search(path.removeprefix(folder).replace(os.sep, "/"))
            if not found or found[parenthesis] is None:
                raise ValueError(f"group={pattern.pattern}: matches nothing in {path}")
            groups.append(found[parenthesis])
        return groups

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the images' names and sizes, and of their contents if they are few and small."""
        paths = [path for path, _ in self.samples]
        sizes = [os.stat(path).st_size for path in paths]  # noqa: PTH116 - pathlib takes three times as long
        names = [os.fsencode(path.removeprefix(f"{self.root}{os.sep}")) for path in paths]
        sha256 = hashlib.sha256(
            b"".join(b"%d %b\0" % pair for pair in zip(sizes, names, strict=True))
        )
        if len(names) > MAX_FILES or sum(sizes) > MAX_BYTES:
            return f"{sha256.hexdigest()} (names and sizes)"
        for path in paths:
            sha256.update(Path(path).read_bytes())
        return sha256.hexdigest()


def class_names(folder: str | Path) -> list[str]:
    """Return the sorted names of a folder's subfolders, but for hidden ones."""
    return [name for name in find_classes(folder)[0] if not name.startswith(".")]


def _is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES) and not os.path.basename(path).startswith(".")  # noqa: PTH119


def read_image(
    path: str | Path, input_shape: tuple[int, int, int], *, invert: bool = False
) -> Tensor:
    """Return an image as a network takes it: center-cropped to the input's aspect ratio, then resized.

    Any mode and bit depth is converted to 8-bit grey or RGB; transparent parts become background. A large JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size, as long as it stays larger than the input.

    Args:
        path: An image file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.
        invert: Whether the image is dark on a light background, and the network's inputs are light on dark.

    Returns:
        Pixels, shape (C, H, W), uint8.

    Raises:
        UserError: The file is not an image, or can't be read.
    """
    channels, height, width = input_shape
    with _opened(path) as (content, image):
        size = image.size
        image.draft("L" if channels == 1 else "RGB", (max(height, width),) * 2)
        decoded_CHW = _decode_jpeg(content, image, channels) if image.size == size else None
        pixels_CHW = (
            _pixels(_converted(image, channels, 255 * invert))
            if decoded_CHW is None
            else decoded_CHW
        )
    _, rows, columns = pixels_CHW.shape
    scale = min(rows / height, columns / width)
    num_rows, num_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - num_rows) // 2, (columns - num_columns) // 2
    part_CHW = pixels_CHW[:, top : top + num_rows, left : left + num_columns]
    if part_CHW.shape[1:] != (height, width):
        # Four times as fast as Pillow's resize.
        part_CHW = interpolate(part_CHW[None], (height, width), mode="bilinear", antialias=True)[0]
    return (255 - part_CHW if invert else part_CHW).contiguous()


@contextlib.contextmanager
def _opened(path: str | Path) -> Iterator[tuple[bytes, Image.Image]]:
    """Open an image, which is not decoded yet; an error within the context is a `UserError` that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # raised for damaged EXIF data
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of torchvision's decoder since 0.29
            # A small file can decode to an image that exhausts the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # By pathlib both would take twice as long, a tenth of the time of a small image.
            if not os.path.isfile(path):  # noqa: PTH113
                raise OSError("is not a file")
            with open(path, "rb", buffering=0) as file:  # noqa: PTH123
                content = file.read()
            yield content, Image.open(io.BytesIO(content), formats=[*FORMATS])
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        # An UnidentifiedImageError has the address of an object in its text.
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(
            f"{path}: not an image that can be read{why}; must be one of {', '.join(FORMATS)}"
        ) from error


def open_image(path: Path, channels: int, *, background: int = 0) -> Image.Image:
    """Return an image, upright, in grey or RGB."""
    with _opened(path) as (_, image):
        return _converted(image, channels, background)


def _converted(image: Image.Image, channels: int, background: int) -> Image.Image:
    """Return an opened image, upright, in grey or RGB."""
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):  # 16 bit, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (background, background, background, 255))
        image = Image.alpha_composite(canvas, image.convert("RGBA"))
    return image.convert("L" if channels == 1 else "RGB")


def _decode_jpeg(content: bytes, image: Image.Image, channels: int) -> Tensor | None:
    """Return the pixels of a JPEG, shape (C, H, W), uint8, by torchvision: those that Pillow takes longer for.

    Returns:
        None for what only Pillow decodes, or refuses with a reason.
    """
    is_upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
    # Of a file that is cut off, torchvision would fill in the rest.
    if (
        image.format != "JPEG"
        or image.mode not in ("L", "RGB")
        or not is_upright
        or not content.endswith(JPEG_END)
    ):
        return None
    try:
        mode = (
            torchvision_io.ImageReadMode.GRAY if channels == 1 else torchvision_io.ImageReadMode.RGB
        )
        pixels_CHW: Tensor = torchvision_io.decode_jpeg(
            torch.frombuffer(bytearray(content), dtype=torch.uint8), mode
        )
    except (RuntimeError, AttributeError):  # damaged, or a torchvision without a decoder of JPEG
        return None
    return pixels_CHW


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels of a grey or RGB image, shape (C, H, W), uint8."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def find_images(images: Sequence[str]) -> list[Path]:
    """Return files, and the image files of folders, sorted by name.

    Raises:
        UserError: A file or folder does not exist, or contains no image.
    """
    found = []
    for path in map(Path, images):
        if not path.exists():
            raise UserError(f"images={path}: no such file or folder")
        is_folder = path.is_dir()
        found += (
            sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if is_folder
            else [path]
        )
    if not found:
        raise UserError(f"images={','.join(images)}: no {', '.join(SUFFIXES)} file")
    return found

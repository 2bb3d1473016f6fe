"""Image files, converted to the format of a network's dataset."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import ListConfig
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.io import ImageReadMode, decode_jpeg

from leyden.config.errors import UserError
from leyden.run.files import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")
JPEG_END = b"\xff\xd9"


def read_image(path: Path, input_shape: tuple[int, int, int], *, invert: bool) -> Tensor:
    """Return an image as an in-memory dataset would store it.

    Any mode and bit depth is converted to 8-bit grey or RGB; transparent parts become background. The image is
    padded with background to the input's aspect ratio and resized.

    Args:
        path: A PNG, JPEG or WebP file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.
        invert: Whether the image is dark on a light background.

    Returns:
        Pixels, shape (C, H, W), uint8, light on dark.

    Raises:
        UserError: The file is not an image, or can't be read.
    """
    channels, height, width = input_shape
    background = 255 if invert else 0
    image = open_image(path, channels, background=background)
    image = ImageOps.pad(
        image, (width, height), Image.Resampling.BILINEAR, color=background if channels == 1 else (background,) * 3
    )
    return _pixels(ImageOps.invert(image) if invert else image).contiguous()


def read_center_crop(path: Path, input_shape: tuple[int, int, int]) -> Tensor:
    """Return an image as a streamed dataset yields it: center-cropped to the input's aspect ratio, then resized.

    Any mode and bit depth is converted to 8-bit grey or RGB; transparent parts become black. A large JPEG is
    decoded at 1/2, 1/4 or 1/8 of its size, as long as it stays larger than the input.

    Args:
        path: A PNG, JPEG or WebP file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.

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
        pixels_CHW = _pixels(_converted(image, channels, 0)) if decoded_CHW is None else decoded_CHW
    _, rows, columns = pixels_CHW.shape
    scale = min(rows / height, columns / width)
    num_rows, num_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - num_rows) // 2, (columns - num_columns) // 2
    part_CHW = pixels_CHW[:, top : top + num_rows, left : left + num_columns]
    if part_CHW.shape[1:] == (height, width):
        return part_CHW.contiguous()
    # Four times as fast as Pillow's resize.
    return interpolate(part_CHW[None], (height, width), mode="bilinear", antialias=True)[0]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[bytes, Image.Image]]:
    """Open an image, which is not decoded yet; an error within the context is a `UserError` that names the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # raised for damaged EXIF data
            # A small file can decode to an image that exhausts the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            content = read_bytes(path)
            yield content, Image.open(io.BytesIO(content), formats=FORMATS)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        # An UnidentifiedImageError has the address of an object in its text.
        why = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{path}: not a PNG, JPEG or WebP image that can be read{why}") from error


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
    if image.format != "JPEG" or image.mode not in ("L", "RGB") or not is_upright or not content.endswith(JPEG_END):
        return None
    try:
        mode = ImageReadMode.GRAY if channels == 1 else ImageReadMode.RGB
        pixels_CHW: Tensor = decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), mode)
    except RuntimeError:  # damaged, or a torchvision that was built without JPEG
        return None
    return pixels_CHW


def _pixels(image: Image.Image) -> Tensor:
    """Return the pixels of a grey or RGB image, shape (C, H, W), uint8."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def find_images(images: Any) -> list[Path]:
    """Return the files that `images` names: a file, a folder (its image files, sorted by name), or a list of these.

    Raises:
        UserError: A file or folder does not exist, or contains no image.
    """
    found = []
    for name in images if isinstance(images, list | tuple | ListConfig) else [images]:
        path = Path(str(name))
        if not path.exists():
            raise UserError(f"images={path}: no such file or folder")
        is_folder = path.is_dir()
        found += sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if is_folder else [path]
    if not found:
        raise UserError(f"images={images}: no {', '.join(SUFFIXES)} file")
    return found

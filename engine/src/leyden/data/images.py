"""Image files, converted to the format of a network's dataset."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import ListConfig
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn.functional import interpolate

from leyden.config.errors import UserError
from leyden.run.files import read_bytes

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
FORMATS = ("PNG", "JPEG", "WEBP")


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
    image = _open(path, channels, background=background)
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
    pixels_CHW = _pixels(_open(path, channels, min_size=max(height, width)))
    _, rows, columns = pixels_CHW.shape
    scale = min(rows / height, columns / width)
    num_rows, num_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - num_rows) // 2, (columns - num_columns) // 2
    part_CHW = pixels_CHW[:, top : top + num_rows, left : left + num_columns]
    if part_CHW.shape[1:] == (height, width):
        return part_CHW.contiguous()
    # Four times as fast as Pillow's resize.
    return interpolate(part_CHW[None], (height, width), mode="bilinear", antialias=True)[0]


def _open(path: Path, channels: int, *, background: int = 0, min_size: int | None = None) -> Image.Image:
    """Return an image, upright, in grey or RGB.

    A JPEG may be decoded smaller, if at least `min_size` rows and columns remain.
    """
    mode = "L" if channels == 1 else "RGB"
    try:
        # Read the bytes first: this refuses files that are too large or not regular.
        content = io.BytesIO(read_bytes(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # raised for damaged EXIF data
            # A small file can decode to an image that exhausts the memory.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(content, formats=FORMATS)
            if min_size:
                image.draft(mode, (min_size, min_size))
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16 bit, which Pillow would clip at 255
                image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                canvas = Image.new("RGBA", image.size, (background, background, background, 255))
                image = Image.alpha_composite(canvas, image.convert("RGBA"))
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise UserError(f"{path}: not a PNG, JPEG or WebP image that can be read ({error})") from error


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
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not inside:
                raise UserError(f"images={path}: no {', '.join(SUFFIXES)} file in this folder")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"images={path}: no such file or folder")
    if not found:
        raise UserError("images=[]: name a file, a folder, or a list of those")
    return found

"""Image files, read as a network's data set has them."""

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
    """An image as a data set in memory would hold it.

    Any mode and depth goes to grey or RGB of 8 bit; transparent parts show the ground. It is padded with the
    ground to the aspect of the input and resized.

    Args:
        path: A PNG, JPEG or WebP file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.
        invert: Whether the image is dark on light ground.

    Returns:
        Pixels, shape (C, H, W), uint8, light on dark.

    Raises:
        UserError: The file is no image, or can't be read.
    """
    channels, height, width = input_shape
    ground = 255 if invert else 0
    image = _open(path, channels, ground=ground)
    image = ImageOps.pad(
        image, (width, height), Image.Resampling.BILINEAR, color=ground if channels == 1 else (ground,) * 3
    )
    return _pixels(ImageOps.invert(image) if invert else image).contiguous()


def read_cut(path: Path, input_shape: tuple[int, int, int]) -> Tensor:
    """An image as a data set of files holds it: its largest middle part of the input's aspect, resized.

    Any mode and depth goes to grey or RGB of 8 bit; transparent parts are black. A large JPEG is decoded at a half, a quarter
    or an eighth of its size, as long as it stays larger than the input.

    Args:
        path: A PNG, JPEG or WebP file.
        input_shape: As above.

    Returns:
        Pixels, shape (C, H, W), uint8.

    Raises:
        UserError: The file is no image, or can't be read.
    """
    channels, height, width = input_shape
    pixels_CHW = _pixels(_open(path, channels, least=max(height, width)))
    _, rows, columns = pixels_CHW.shape
    scale = min(rows / height, columns / width)
    num_rows, num_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - num_rows) // 2, (columns - num_columns) // 2
    part_CHW = pixels_CHW[:, top : top + num_rows, left : left + num_columns]
    if part_CHW.shape[1:] == (height, width):
        return part_CHW.contiguous()
    # Four times as fast as Pillow's.
    return interpolate(part_CHW[None], (height, width), mode="bilinear", antialias=True)[0]


def _open(path: Path, channels: int, *, ground: int = 0, least: int | None = None) -> Image.Image:
    """An image, upright, in grey or RGB; `least`: rows and columns that are enough, where it can be decoded smaller."""
    mode = "L" if channels == 1 else "RGB"
    try:
        # Read before it is looked at: what is no regular file, or too large, is none.
        content = io.BytesIO(read_bytes(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of damaged EXIF data
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # few bytes, more pixels than memory
            image: Image.Image = Image.open(content, formats=FORMATS)
            if least:
                image.draft(mode, (least, least))
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode.startswith("I"):  # 16 bit; Pillow would cut off what is above 255
                image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
            if image.has_transparency_data:
                behind = Image.new("RGBA", image.size, (ground, ground, ground, 255))
                image = Image.alpha_composite(behind, image.convert("RGBA"))
            return image.convert(mode)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning) as error:
        raise UserError(f"{path}: not a PNG, JPEG or WebP image that can be read ({error})") from error


def _pixels(image: Image.Image) -> Tensor:
    """Pixels of a grey or RGB image, shape (C, H, W), uint8."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def find_images(images: Any) -> list[Path]:
    """The files that `images` names: a file, a folder (its image files by name), or a list of those.

    Raises:
        UserError: There is no such file or folder, or nothing in it.
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

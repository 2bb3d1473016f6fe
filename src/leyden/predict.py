"""Classify images by a trained run."""

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig
from rich.console import Console
from rich.table import Table

from leyden.command import command
from leyden.config import UserError, choice
from leyden.run import Run

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg")


def read_image(path: Path, input_shape: tuple[int, int, int], *, invert: bool) -> "Tensor":
    """An image as a network's data set would hold it.

    Any mode and depth goes to grey or RGB of 8 bit; transparent parts show the ground. It is padded with the
    ground to the aspect of the input and resized.

    Args:
        path: A PNG or JPEG file.
        input_shape: Shape of the network's input, (C, H, W), C 1 or 3.
        invert: Whether the image is dark on light ground.

    Returns:
        Pixels, shape (C, H, W), uint8, light on dark.

    Raises:
        UserError: The file is no image, or can't be read.
    """
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    channels, height, width = input_shape
    ground = 255 if invert else 0
    try:
        with Image.open(path, formats=("PNG", "JPEG")) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith("I"):  # 16 bit; Pillow would cut off what is above 255
                image = Image.fromarray((np.asarray(image, dtype=np.uint32) >> 8).astype(np.uint8))
            image = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: not a PNG or JPEG image that can be read ({error})") from error
    image = Image.alpha_composite(Image.new("RGBA", image.size, (ground, ground, ground, 255)), image)
    image = image.convert("L" if channels == 1 else "RGB")
    image = ImageOps.pad(
        image, (width, height), Image.Resampling.BILINEAR, color=ground if channels == 1 else (ground,) * 3
    )
    if invert:
        image = ImageOps.invert(image)
    return torch.from_numpy(np.array(image)).reshape(height, width, channels).permute(2, 0, 1)


def find_images(images: Any) -> list[Path]:
    """The files that `images` names: a file, a folder (its PNG and JPEG files by name), or a list of those.

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
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f"images={path}: no such file or folder")
    if not found:
        raise UserError("images=[]: name a file, a folder, or a list of those")
    return found


@command
def main(cfg: DictConfig) -> None:
    """Print a table of classes and probabilities, and write it to a file or draw a picture if asked to."""
    choice(cfg, "checkpoint", "best", "last")
    output = None if cfg.output is None else Path(cfg.output)
    if output and output.suffix not in (".csv", ".json"):
        raise UserError(f"output={output}: must end in .csv or .json")
    picture = None if cfg.picture is None else Path(cfg.picture)
    if picture and picture.suffix != ".png":
        raise UserError(f"picture={picture}: must end in .png")
    for key, path in (("output", output), ("picture", picture)):
        if path and not path.absolute().parent.is_dir():
            raise UserError(f"{key}={path}: there is no folder {path.parent}")
    run = Run(cfg.run)
    checkpoint = run.checkpoint(cfg.checkpoint)
    paths = find_images(cfg.images)

    from leyden.heavy import build

    network, facts = build.trained_network(run, checkpoint)

    import torch

    pixels_NCHW = torch.stack([read_image(path, facts.input_shape, invert=cfg.invert) for path in paths])
    light = [str(path) for path, pixels in zip(paths, pixels_NCHW, strict=True) if pixels.float().mean() > 127]
    if light:
        meant = f"invert={str(not cfg.invert).lower()}"
        print(f"leyden: mostly light, did you mean {meant}? {', '.join(light)}", file=sys.stderr)
    with torch.inference_mode():
        probabilities_NK = network(facts.normalize(pixels_NCHW)).softmax(dim=1)
    best = probabilities_NK.argmax(dim=1)
    rows = [
        {
            "image": str(path),
            "class": facts.class_names[k],
            "probability": float(p[k]),
            "probabilities": dict(zip(facts.class_names, p.tolist(), strict=True)),
        }
        for path, k, p in zip(paths, best.tolist(), probabilities_NK, strict=True)
    ]
    table = Table("image", "class", "probability", "next", box=None)
    for row in rows:
        second = sorted(row["probabilities"].items(), key=lambda item: -item[1])[1]
        table.add_row(row["image"], row["class"], f"{row['probability']:.4f}", f"{second[0]} {second[1]:.4f}")
    # A table is cut to the terminal's width, and a cut path can't be read.
    width = max(Console().width, max(len(row["image"]) for row in rows) + 50)
    Console(highlight=False, markup=False, width=width).print(table)
    if output:
        _write(output, rows)
    if picture:
        _draw(picture, pixels_NCHW, rows)


def _draw(picture: Path, pixels_NCHW: "Tensor", rows: list[dict[str, Any]]) -> None:
    from leyden.sheet import sheet

    captions = []
    for row in rows:
        first, second = sorted(row["probabilities"].items(), key=lambda item: -item[1])[:2]
        captions.append(f"{first[0]}  {first[1]:.3f}\n{second[0]}  {second[1]:.3f}")
    try:
        title = "as the network sees them, with the two likeliest classes"
        sheet(pixels_NCHW.numpy(), captions, title).savefig(picture, dpi=120)
    except OSError as error:
        raise UserError(f"picture={picture}: can't be written ({error.strerror})") from error


def _write(output: Path, rows: list[dict[str, Any]]) -> None:
    try:
        with output.open("w", newline="") as file:
            if output.suffix == ".json":
                json.dump(rows, file, indent=2)
                return
            names = list(rows[0]["probabilities"])
            table = csv.writer(file)
            table.writerow(["image", "class", "probability", *(f"p({name})" for name in names)])
            for row in rows:
                table.writerow([row["image"], row["class"], row["probability"], *row["probabilities"].values()])
    except OSError as error:
        raise UserError(f"output={output}: can't be written ({error.strerror})") from error


if __name__ == "__main__":
    main()

"""Small folders of images."""

import io
import tarfile

import numpy as np
from PIL import Image

from leyden.data.folder import SUFFIXES as READ

SIZES = ((28, 28), (56, 40), (30, 90))  # rows and columns
SUFFIXES = (".jpg", *READ, ".JPEG")
# Arguments of a data module that streams, but for its data.
SPLITS = {
    "batch_size": 5,
    "eval_batch_size": 4,
    "val_size": 0,
    "normalize": "unit",
    "augment": None,
    "seed": 0,
    "num_workers": 0,
}


def pixels(rows, columns, seed):
    """Smooth noise, shape (rows, columns, 3), uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    small = Image.fromarray(noise)
    large = small.resize((columns, rows), Image.Resampling.BICUBIC)
    return np.asarray(large)


def write(root, classes=("cat", "dog"), **sizes):
    """Write so many images of each class for each split, of several sizes and formats.

    Returns `root`.
    """
    sizes = sizes or {"train": 12, "val": 5, "test": 6}
    for split, num in sizes.items():
        for k, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for n in range(num):
                rows, columns = SIZES[n % len(SIZES)]
                suffix = SUFFIXES[n % len(SUFFIXES)]
                image = Image.fromarray(pixels(rows, columns, seed=[len(split), k, n]))
                image.save(folder / f"{n:03d}{suffix}")
    return root


def pack(root):
    """Write tar archives as WebDataset does, `KEY.jpg` and `KEY.cls`, beside each split's folder.

    Returns `root`.
    """
    for split in [*root.iterdir()]:
        with tarfile.open(root / f"{split.name}-0.tar", "w") as archive:
            for path in sorted(split.glob("*/*")):
                label = path.parent.name
                key = f"{label}_{path.stem}"
                archive.add(path, f"{key}.jpg")
                text = tarfile.TarInfo(f"{key}.cls")
                text.size = len(label)
                archive.addfile(text, io.BytesIO(label.encode()))
    return root

"""Diamonds: a table of measurements and prices."""

import hashlib
import tempfile
from pathlib import Path

from leyden.data import Table

from project.data.files import fetch_wheel

FILE = "diamonds.csv"


class Diamonds(Table):
    """Prices of diamonds, with six measurements each.

    `data` has shape (N, 6), float32, with N = 48,546 for training and 5,394 for the test: carats,
    depth and table in percent, length, width and height in mm. `targets` has shape (N,), float32:
    prices in 1,000 US dollars. The test set is a random tenth of the diamonds.

    Source: Wickham, ggplot2: Elegant graphics for data analysis (2009), from the package plotnine.

    Args:
        root: Folder of the file.
        train: True for the training set, False for the test set.
        download: True to download the file if it is missing.

    Raises:
        OSError: The download fails, or the file is corrupt.
        RuntimeError: The file is missing.
    """

    sha256 = {FILE: "9574730b03aba241d899c4a97511c5061b19358fab89510774fb6c24168345c4"}  # noqa: RUF012 - a constant

    def __init__(self, root: str, *, train: bool, download: bool = False) -> None:
        path = Path(root, FILE)
        if download and not path.exists():
            path.write_bytes(_fetch(path.parent))
        if not path.exists():
            raise RuntimeError(f"{path} not found")  # as torchvision's data sets do
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256[FILE]:
            raise FileNotFoundError(f"{path} is corrupt")
        inputs = ["carat", "depth", "table", "x", "y", "z"]
        super().__init__(
            root,
            train=train,
            file=FILE,
            test_file=None,
            test_size=0.1,
            inputs=inputs,
            targets="price",
            classes=False,
        )
        self.targets /= 1000
        self.target_names = ["price in 1,000 $"]


def _fetch(folder: Path) -> bytes:
    with (
        tempfile.TemporaryDirectory(dir=folder) as temporary,
        fetch_wheel("plotnine==0.15.9", Path(temporary)) as wheel,
    ):
        return wheel.read(f"plotnine/data/{FILE}")

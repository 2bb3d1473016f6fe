"""What the files of a data set must be: no other file is ever taken for one of them.

A data set in the format of MNIST (torchvision's, or a class made from one) tells the SHA-256 of its unpacked files by a class
attribute `sha256`, from name to checksum. Where that is empty, it is kept beside each file when that is fetched: then
torchvision has just checked the archive. The same holds of torchvision's own classes. CIFAR is not among them, torchvision checks its files whenever it reads them.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torchvision

SUFFIX = ".sha256"  # of the file beside each file


def check(dataset: Callable[..., Any], root: str | Path) -> None:
    """Hold the files of a data set that are there against their checksums; those of a class not known here pass.

    Raises:
        FileNotFoundError: A file is another one; it counts as missing, and can be fetched anew.
        OSError: There are files of old torchvision, which would be read instead.
    """
    folder = _folder(dataset, root)
    if folder is None or not folder.parent.is_dir():
        return
    if old := sorted((folder.parent / "processed").glob("*.pt")):
        raise OSError(f"{old[0]} is a file of an old torchvision, without checksum; remove that folder")
    known = known_sums(dataset)
    for name in known or _names(dataset, folder):
        path = folder / name
        expected = known.get(name) or _kept(folder / (name + SUFFIX))
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if expected is None:
            raise FileNotFoundError(f"{path} can't be checked, it has no checksum from when it was fetched")
        if (found := _sha256(path)) != expected:
            raise FileNotFoundError(f"{path} is corrupt (expected SHA-256 {expected}, found {found})")


def keep(dataset: Callable[..., Any], root: str | Path) -> None:
    """Write down the checksums of files that were just fetched, where their class tells none."""
    folder = _folder(dataset, root)
    if folder and not known_sums(dataset):
        for path in folder.glob("*-idx*"):
            if not path.suffix:  # no archive
                path.with_name(path.name + SUFFIX).write_text(_sha256(path) + "\n", encoding="utf-8")


def known_sums(dataset: Callable[..., Any]) -> dict[str, str]:
    """The checksums that a class tells, by the names of the files; none where it tells none."""
    return dict(getattr(getattr(dataset, "func", dataset), "sha256", {}))


def expected(dataset: Callable[..., Any], root: str | Path) -> dict[str, str]:
    """Return the checksums that `check` holds the files against, by their names below `root`; none of a class not known here."""
    folder = _folder(dataset, root)
    if folder is None:
        return {}
    known = known_sums(dataset)
    sums = {name: known.get(name) or _kept(folder / (name + SUFFIX)) for name in known or _names(dataset, folder)}
    return {f"{folder.relative_to(root).as_posix()}/{name}": value for name, value in sums.items() if value}


def _folder(dataset: Callable[..., Any], root: str | Path) -> Path | None:
    """Where torchvision keeps the files of a data set in the format of MNIST; None for others."""
    made = getattr(dataset, "func", dataset)
    if not isinstance(made, type) or not issubclass(made, torchvision.datasets.MNIST):
        return None
    if not hasattr(made, "sha256") and not made.__module__.startswith("torchvision."):
        return None  # somebody's own, of which nothing is known
    return Path(root) / made.__name__ / "raw"


def _names(dataset: Callable[..., Any], folder: Path) -> list[str]:
    """The files that are there, or were; of EMNIST, a folder with six data sets, those of the one that is meant."""
    split = getattr(dataset, "keywords", {}).get("split")
    names = {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*-{split}-*" if split else "*")}
    return sorted(name for name in names if "-idx" in name and "." not in name)


def _kept(path: Path) -> str | None:
    """The checksum in a file; None if there is none in it."""
    content = path.read_bytes()[:80].decode(errors="replace").strip() if path.is_file() else ""
    return content if re.fullmatch("[0-9a-f]{64}", content) else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

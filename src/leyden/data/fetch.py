"""Data sets of torchvision: read where they are there, else fetched, whole or not at all; checked by checksums.

A data set in the format of MNIST (torchvision's, or a class made from one) gives the SHA-256 of its unpacked files by a
class attribute `sha256`, from name to checksum. Where that is empty, it is kept beside each file when that is fetched:
then torchvision has just checked the archive. The same holds of torchvision's own classes. CIFAR is not among them,
since torchvision checks its files whenever it reads them.
"""

import contextlib
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torchvision
from filelock import FileLock

from leyden.config.terminal import warn

SUFFIX = ".sha256"  # of the file beside each file


def verify_files(dataset: Callable[..., Any], root: str | Path) -> None:
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
    known = class_checksums(dataset)
    for name in known or _names(dataset, folder):
        path = folder / name
        expected = known.get(name) or _kept(folder / (name + SUFFIX))
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if expected is None:
            raise FileNotFoundError(f"{path} can't be checked, it has no checksum from when it was fetched")
        if (found := _sha256(path)) != expected:
            raise FileNotFoundError(f"{path} is corrupt (expected SHA-256 {expected}, found {found})")


def record_checksums(dataset: Callable[..., Any], root: str | Path) -> None:
    """Write down the checksums of files that were just fetched, where their class tells none."""
    folder = _folder(dataset, root)
    if folder and not class_checksums(dataset):
        for path in folder.glob("*-idx*"):
            if not path.suffix:  # no archive
                path.with_name(path.name + SUFFIX).write_text(_sha256(path) + "\n", encoding="utf-8")


def class_checksums(dataset: Callable[..., Any]) -> dict[str, str]:
    """The checksums that a class tells, by the names of the files; none where it tells none."""
    return dict(getattr(getattr(dataset, "func", dataset), "sha256", {}))


def expected_checksums(dataset: Callable[..., Any], root: str | Path) -> dict[str, str]:
    """Return the checksums that `check` holds the files against, by their names below `root`; none of a class not known here."""
    folder = _folder(dataset, root)
    if folder is None:
        return {}
    known = class_checksums(dataset)
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


TIMEOUT_S = 20.0
ARCHIVES = (".gz", ".xz", ".zip", ".tgz", ".tar")
NOT_THERE = "the data set is not there"


def load(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Any:
    """The training or the test set, both fetched if the files are not there, or are not what they must be.

    Processes that need the files at once wait for the one that fetches them; of a fetch that is interrupted
    nothing is left to be taken for a file.

    Args:
        dataset: Makes one of torchvision's data sets when called with `root`, `train` and `download`.
        root: Folder of the downloads.
        train: Whether it is the training set.
        download: Whether to fetch what is missing.

    Raises:
        OSError: The files are not there, or can't be had, written or read.

    Example:
        >>> from torchvision.datasets import MNIST
        >>> load(MNIST, "data", train=False, download=True).data.shape  # doctest: +SKIP
        torch.Size([10000, 28, 28])
    """
    try:
        return _read(dataset, root, train)
    except FileNotFoundError as error:
        problem = f"root={root}: {error}"
    if not download:
        raise FileNotFoundError(
            f"{problem}, and download=false; fetch it where there is a network: the same command with dry_run=true"
        )
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        try:
            return _read(dataset, root, train)  # another process has fetched it
        except FileNotFoundError as error:
            if NOT_THERE not in str(error):
                warn(f"{error}: it is fetched anew")
        try:
            _fetch(dataset, root, train)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{problem}, and can't be fetched: {error}") from error
        return _read(dataset, root, train)


def _fetch(dataset: Callable[..., Any], root: Path, train: bool) -> None:
    partial = root / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        for path in list(root.rglob("*")):
            if path.suffix in ARCHIVES and path.is_file():
                # torchvision takes an archive that is there and right instead of fetching it.
                (partial / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # not every file system can
                    os.link(path, partial / path.relative_to(root))
        with _timeout():
            for part in (train, not train):  # what the end of a run will need is had before it starts
                dataset(root=str(partial), train=part, download=True)
        record_checksums(dataset, partial)
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                target = root / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(partial)


def _read(dataset: Callable[..., Any], root: str | Path, train: bool) -> Any:
    verify_files(dataset, root)
    try:
        return dataset(root=str(root), train=train, download=False)
    except RuntimeError as error:
        if "not found" not in str(error):  # torchvision's words for files that are not there
            raise
        raise FileNotFoundError(NOT_THERE) from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Let no server keep us waiting for ever; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

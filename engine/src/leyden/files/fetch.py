"""Torchvision datasets: read from disk or downloaded as a whole, and verified by checksums.

A dataset in MNIST's format (torchvision's, or a subclass) can define the SHA-256 of its unpacked files in a class
attribute `sha256`, a mapping from file name to checksum. If the mapping is empty, as for torchvision's own classes,
the checksums are recorded next to the files after the download, when torchvision has just verified the archives.
CIFAR is not covered, since torchvision verifies its files on every read.
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

from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.run import lease

SUFFIX = ".sha256"  # suffix of the checksum file next to each data file


def verify_files(dataset: Callable[..., Any], root: str | Path) -> None:
    """Verify a dataset's existing files against their checksums; datasets that are not in MNIST's format pass.

    Raises:
        FileNotFoundError: A file is missing, can't be verified or has changed; it can be downloaded again.
        OSError: There are files of an old torchvision version, which would be read instead.
    """
    folder = _raw_folder(dataset, root)
    if folder is None or not folder.parent.is_dir():
        return
    if old := sorted((folder.parent / "processed").glob("*.pt")):
        raise OSError(f"{old[0]} is a file of an old torchvision, without checksum; remove that folder")
    known = class_checksums(dataset)
    for name in known or _data_file_names(dataset, folder):
        path = folder / name
        expected = known.get(name) or _recorded_checksum(folder / (name + SUFFIX))
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing")
        if expected is None:
            raise FileNotFoundError(f"{path} can't be checked, no checksum was saved when it was downloaded")
        if (found := _sha256(path)) != expected:
            raise FileNotFoundError(f"{path} is corrupt (expected SHA-256 {expected}, found {found})")


def record_checksums(dataset: Callable[..., Any], root: str | Path) -> None:
    """Write the checksums of files that were just downloaded, unless their class defines them."""
    folder = _raw_folder(dataset, root)
    if folder and not class_checksums(dataset):
        for path in folder.glob("*-idx*"):
            if not path.suffix:  # not an archive
                path.with_name(path.name + SUFFIX).write_text(_sha256(path) + "\n", encoding="utf-8")


def class_checksums(dataset: Callable[..., Any]) -> dict[str, str]:
    """Return the checksums that a class defines, by file name; empty if it defines none."""
    return dict(getattr(getattr(dataset, "func", dataset), "sha256", {}))


def expected_checksums(dataset: Callable[..., Any], root: str | Path) -> dict[str, str]:
    """Return the checksums that `verify_files` uses, by file path relative to `root`; empty for unknown classes."""
    folder = _raw_folder(dataset, root)
    if folder is None:
        return {}
    known = class_checksums(dataset)
    sums = {
        name: known.get(name) or _recorded_checksum(folder / (name + SUFFIX))
        for name in known or _data_file_names(dataset, folder)
    }
    return {f"{folder.relative_to(root).as_posix()}/{name}": value for name, value in sums.items() if value}


def _raw_folder(dataset: Callable[..., Any], root: str | Path) -> Path | None:
    """Return the folder where torchvision stores a dataset in MNIST's format; None for other datasets."""
    made = getattr(dataset, "func", dataset)
    if not isinstance(made, type) or not issubclass(made, torchvision.datasets.MNIST):
        return None
    if not hasattr(made, "sha256") and not made.__module__.startswith("torchvision."):
        return None  # a user's class without checksums
    return Path(root) / made.__name__ / "raw"


def _data_file_names(dataset: Callable[..., Any], folder: Path) -> list[str]:
    """Return the names of data files that exist or have a checksum; for EMNIST, only the selected split's."""
    split = getattr(dataset, "keywords", {}).get("split")
    names = {path.name.removesuffix(SUFFIX) for path in folder.glob(f"*-{split}-*" if split else "*")}
    return sorted(name for name in names if "-idx" in name and "." not in name)


def _recorded_checksum(path: Path) -> str | None:
    """Return the checksum in a file; None if it contains none."""
    content = path.read_bytes()[:80].decode(errors="replace").strip() if path.is_file() else ""
    return content if re.fullmatch("[0-9a-f]{64}", content) else None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


TIMEOUT_S = 20.0
ARCHIVES = (".gz", ".xz", ".zip", ".tgz", ".tar")


class MissingDatasetError(FileNotFoundError):
    """Error for a dataset of which there are no files yet; damaged files are a plain `FileNotFoundError`."""


def load(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Any:
    """Return the training or the test set; download both if files are missing or don't match their checksums.

    Processes that need the files at the same time wait for the one that downloads them. An interrupted download
    leaves no partial files in the dataset's folder.

    Args:
        dataset: Creates one of torchvision's datasets when called with `root`, `train` and `download`.
        root: Folder of the downloads.
        train: Whether to return the training set.
        download: Whether to download missing files.

    Raises:
        OSError: The files are missing, or can't be downloaded, written or read.

    Example:
        >>> from torchvision.datasets import MNIST
        >>> load(MNIST, "data", train=False, download=True).data.shape  # doctest: +SKIP
        torch.Size([10000, 28, 28])
    """
    try:
        return _read_verified(dataset, root, train)
    except FileNotFoundError as error:
        kind, problem = type(error), f"root={root}: {error}"
    if not download:
        raise kind(
            f"{problem}, and download=false; run the same command with dry_run=true where there is a network"
        )
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with lease.hold(root / ".lock") as held:
        try:
            return _read_verified(dataset, root, train)  # another process has downloaded it
        except MissingDatasetError:
            pass
        except FileNotFoundError as error:
            warn(f"{error}: downloading it again")
        try:
            _download(dataset, root, train, held)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{problem}, and can't be downloaded: {error}") from error
        return _read_verified(dataset, root, train)


def _download(dataset: Callable[..., Any], root: Path, train: bool, held: lease.Lease) -> None:
    partial = root / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    try:
        for path in list(root.rglob("*")):
            if path.suffix in ARCHIVES and path.is_file():
                # torchvision uses an existing archive with the right checksum instead of downloading it.
                (partial / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(OSError):  # not every file system supports hard links
                    os.link(path, partial / path.relative_to(root))
        with _timeout():
            for part in (train, not train):  # the test set, too: it is needed at the end of the run
                dataset(root=str(partial), train=part, download=True)
        record_checksums(dataset, partial)
        held.check()
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                target = root / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        with contextlib.suppress(UserError):
            held.check()  # otherwise it is another process's
            shutil.rmtree(partial)


def _read_verified(dataset: Callable[..., Any], root: str | Path, train: bool) -> Any:
    verify_files(dataset, root)
    try:
        return dataset(root=str(root), train=train, download=False)
    except RuntimeError as error:
        if "not found" not in str(error):  # torchvision's message for missing files
            raise
        raise MissingDatasetError("the dataset is missing") from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Set a socket timeout for downloads, since torchvision sets none."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

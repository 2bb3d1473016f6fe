"""A data set of torchvision's: read if it is there, else fetched, whole or not at all."""

import contextlib
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from leyden.config.terminal import warn
from leyden.data.checksums import check, keep

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
        keep(dataset, partial)
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                target = root / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        shutil.rmtree(partial)


def _read(dataset: Callable[..., Any], root: str | Path, train: bool) -> Any:
    check(dataset, root)
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

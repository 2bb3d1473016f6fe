"""Files of data sets: a user's own, and torchvision's, which are downloaded as a whole.

Torchvision checks the archives that it downloads. A data set that raises `FileNotFoundError` for
damaged files has them downloaded again.
"""

import contextlib
import hashlib
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.base.errors import UserError
from leyden.base.terminal import warn
from leyden.run import lock


def read_file(path: Path) -> bytes:
    """Return the content of a user's file.

    Raises:
        OSError: There is no such file, or it can't be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        # Not FileNotFoundError, which starts a download: a user's own file is never downloaded.
        raise OSError(f"{path}: can't be read ({error.strerror})") from error


def decode_text(path: Path, content: bytes) -> str:
    """Return the text of a file in UTF-8, without its byte order mark.

    Args:
        path: The file, for messages.
        content: Content of the file.

    Raises:
        ValueError: The file has another encoding, or is not text.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: holds NUL characters; must be a text in UTF-8")
    return text


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


DOWNLOAD_TIMEOUT_S = 20.0


class MissingDatasetError(FileNotFoundError):
    """Error for a dataset of which there are no files yet.

    Damaged files are a plain `FileNotFoundError`.
    """


def load(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Any:
    """Return the training or the test set; download both if files are missing or damaged.

    Processes that need the files at the same time wait for the one that downloads them. An
    interrupted download leaves no partial files in the dataset's folder.

    Args:
        dataset: Creates one of torchvision's datasets when called with `root`, `train` and
            `download`.
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
        return _read(dataset, root, train)
    except FileNotFoundError as error:
        kind, problem = type(error), f"root={root}: {error}"
    if not download:
        raise kind(
            f"{problem}, and download=false; run the same command with dry_run=true where there "
            "is a network"
        )
    root = Path(root)
    with lock.hold(root / ".lock") as held:
        try:
            return _read(dataset, root, train)  # another process has downloaded it
        except MissingDatasetError:
            pass
        except FileNotFoundError as error:
            warn(f"{error}: downloading it again")
        try:
            _download(dataset, root, train, held)
        except (OSError, RuntimeError) as error:
            raise OSError(f"{problem}, and can't be downloaded: {error}") from error
        return _read(dataset, root, train)


def _download(dataset: Callable[..., Any], root: Path, train: bool, held: lock.Lock) -> None:
    partial = root / ".partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir()
    before = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)  # torchvision sets none
        for part in (train, not train):  # the test set, too: it is needed at the end of the run
            dataset(root=str(partial), train=part, download=True)
        held.check()
        for path in sorted(partial.rglob("*")):
            if path.is_file():
                target = root / path.relative_to(partial)
                target.parent.mkdir(parents=True, exist_ok=True)
                path.replace(target)
    finally:
        socket.setdefaulttimeout(before)
        with contextlib.suppress(UserError):
            held.check()  # otherwise it is another process's
            shutil.rmtree(partial)


def _read(dataset: Callable[..., Any], root: str | Path, train: bool) -> Any:
    try:
        return dataset(root=str(root), train=train, download=False)
    except RuntimeError as error:
        if "not found" in str(error):  # torchvision's message for missing files
            raise MissingDatasetError("the dataset is missing") from error
        raise

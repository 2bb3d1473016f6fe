"""A data set of torchvision's: read if it is there, else fetched, whole or not at all."""

import contextlib
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

TIMEOUT_S = 20.0


def load(dataset: Callable[..., Any], root: str | Path, *, train: bool, download: bool) -> Any:
    """The training or the test set, fetched if its files are not there.

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
        >>> from leyden.data.mnist import MNIST
        >>> load(MNIST, "data", train=False, download=True).data.shape  # doctest: +SKIP
        torch.Size([10000, 28, 28])
    """
    with contextlib.suppress(FileNotFoundError):
        return _read(dataset, root, train)
    if not download:
        raise FileNotFoundError(
            f"root={root}: the data set is not there, and download=false; "
            "fetch it where there is a network: the same command with dry_run=true"
        )
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        with contextlib.suppress(FileNotFoundError):
            return _read(dataset, root, train)  # another process has fetched it
        partial = root / ".partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        partial.mkdir()
        try:
            with _timeout():
                dataset(root=str(partial), train=train, download=True)
            for path in sorted(partial.rglob("*")):
                if path.is_file():
                    target = root / path.relative_to(partial)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    path.replace(target)
        except (OSError, RuntimeError) as error:
            raise OSError(f"root={root}: the data set is not there, and can't be fetched: {error}") from error
        finally:
            shutil.rmtree(partial)
        return _read(dataset, root, train)


def _read(dataset: Callable[..., Any], root: str | Path, train: bool) -> Any:
    try:
        return dataset(root=str(root), train=train, download=False)
    except RuntimeError as error:  # torchvision's word for files that are not there
        raise FileNotFoundError(str(error)) from error
    except (AssertionError, EOFError, IndexError) as error:
        raise OSError(
            f"root={root}: files of the data set are damaged; remove them, they are fetched again"
        ) from error


@contextlib.contextmanager
def _timeout() -> Iterator[None]:
    """Let no server keep us waiting for ever; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

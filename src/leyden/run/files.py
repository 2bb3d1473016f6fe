"""Files of a run: written whole or not at all, read as what anybody may have made; and their fingerprints."""

import contextlib
import errno
import hashlib
import json
import os
import stat
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from leyden.config.errors import UserError

MAX_BYTES = 64 * 2**20  # of a text; a config is a thousand times smaller


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` once all of it is on the disk; after an error the old one stays.

    Neither `path` nor the name that it is written under is followed where it is a link: who has made a directory
    decides nothing about files outside.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that was killed
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a path can't be opened for itself alone
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        # Where the folder is gone, or read-only, the first error is the one to tell.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # of a full disk
            error.filename = str(path)
        raise


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def sha256_of(file: BinaryIO) -> str:
    """The SHA-256 of what follows in a file, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    while block := file.read(2**20):
        sha256.update(block)
    return sha256.hexdigest()


@contextlib.contextmanager
def writing(key: str, path: Path) -> Iterator[None]:
    """Tell of a file that can't be written by the key that has named it.

    Raises:
        UserError: It can't.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}={path}: can't be written ({error.strerror})") from error


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES, last_bytes: int | None = None) -> bytes:
    """The content of a regular file, or its last bytes; a pipe or a device would keep us waiting for ever.

    Raises:
        OSError: It is none, it has more than `max_bytes`, or it can't be read.
    """
    # Windows has no pipes among its files, for which one would wait.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:  # noqa: PTH123 - as above
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        if last_bytes is not None:
            file.seek(max(0, status.st_size - last_bytes))
        elif status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"has {status.st_size} bytes, more than {max_bytes}", str(path))
        return file.read(max_bytes)


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """The same as text.

    Raises:
        OSError: As above.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_bytes(path, max_bytes=max_bytes).decode()


def read_json(path: Path, missing: Any) -> Any:
    """The content of a file, or what stands for one that is not there.

    Raises:
        UserError: It is damaged.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: can't be read ({why})") from error


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, a zip archive with checksums; None for nothing."""
    try:
        if path.exists() and not path.is_file():
            return "is no regular file"
        with zipfile.ZipFile(path) as archive:
            # PyTorch compresses nothing: what claims to be larger than its file would fill the memory.
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                return "holds more than it has bytes"
            corrupt = archive.testzip()
    except Exception as error:  # whatever zipfile stumbles over in a damaged file
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{corrupt} is corrupt" if corrupt else None


def refuse_links(*directories: Path) -> None:
    """Make sure that what is written to directories lands in them, and that files are what Leyden writes as files.

    Raises:
        UserError: Something there is a link, a pipe or a device; or a folder where a file belongs.
    """
    for directory in directories:
        if directory.exists() and not directory.is_dir():
            raise UserError(f"{directory}: is a file; it must be a folder, or not be there")
        for entry in list(os.scandir(directory)) if directory.is_dir() else []:
            try:
                kind = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:  # another process has just finished writing it
                continue
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise UserError(
                    f"{entry.path}: is a link, or no file; Leyden's directories hold files and folders only, since what "
                    "is written to them must not change others"
                )
            is_ours = entry.name.endswith((".json", ".ckpt", ".csv", ".png", ".yaml", ".journal", ".tmp"))
            if stat.S_ISDIR(kind) and (is_ours or "tfevents" in entry.name):
                raise UserError(f"{entry.path}: is a folder with the name of a file; move it elsewhere")


NAME = "fingerprint.csv"
LENGTH = 32  # digits of a hash


class Fingerprint(NamedTuple):
    """Hashes of a run at a step, in hexadecimal digits.

    Args:
        weights: Of all parameters and buffers.
        optimizer: Of the state of each optimizer.
        random: Of the random numbers of Python, NumPy and PyTorch in the first process.
    """

    weights: str
    optimizer: str
    random: str


def read_fingerprints(directory: Path) -> dict[int, Fingerprint]:
    """Those of a run directory, by optimizer step; what is no whole line is left out, as of a process that was killed.

    Raises:
        OSError: The file can't be read.
    """
    path = directory / NAME
    found = {}
    for row in (line.split(",") for line in _text(path).splitlines()):
        if len(row) == 4 and row[0].isascii() and row[0].isdecimal() and all(map(_is_hash, row[1:])):
            found[int(row[0])] = Fingerprint(*row[1:])
    return found


def _text(path: Path) -> str:
    return read_bytes(path).decode(errors="replace") if path.exists() else ""


def write_fingerprints(directory: Path, found: Mapping[int, Fingerprint]) -> None:
    """Write these, and no others, in the order of their steps."""
    header = ",".join(["step", *Fingerprint._fields])
    write_whole(directory / NAME, "\n".join([header, *(_line(step, found[step]) for step in sorted(found)), ""]))


def append_fingerprint(directory: Path, step: int, found: Fingerprint) -> None:
    """Write one behind those that are there."""
    with (directory / NAME).open("a", encoding="utf-8") as file:
        file.write(_line(step, found) + "\n")


def _line(step: int, found: Fingerprint) -> str:
    return ",".join([str(step), *found])


def first_difference(a: Mapping[int, Fingerprint], b: Mapping[int, Fingerprint]) -> tuple[int, list[str]] | None:
    """The first step that both have and at which they differ, with what differs; None for none.

    Example:
        >>> a, b = Fingerprint("aa", "bb", "cc"), Fingerprint("aa", "bb", "dd")
        >>> first_difference({1: a, 2: a, 3: a}, {1: a, 2: b, 4: b})
        (2, ['random'])
    """
    for step in sorted({*a} & {*b}):
        if a[step] != b[step]:
            return step, [name for name in Fingerprint._fields if getattr(a[step], name) != getattr(b[step], name)]
    return None


def _is_hash(text: str) -> bool:
    return len(text) == LENGTH and {*text} <= {*"0123456789abcdef"}

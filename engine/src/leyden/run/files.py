"""Files of a run: atomic writes, safe reads of untrusted files, and the run's fingerprints."""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from leyden.config.errors import UserError
from leyden.exact.files import replacing

MAX_BYTES = 64 * 2**20  # per file; a config is a thousand times smaller


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Replace a CSV file with these rows, the first of which is its header."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    write_whole(path, text.getvalue())


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of a file, in hexadecimal digits."""
    sha256 = hashlib.sha256()
    while block := file.read(2**20):
        sha256.update(block)
    return sha256.hexdigest()


@contextlib.contextmanager
def writing(key: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` while writing a file into a `UserError` that names the setting `key`.

    Raises:
        UserError: The file can't be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{key}={path}: can't be written ({error.strerror})") from error


def read_bytes(
    path: Path | str, *, max_bytes: int = MAX_BYTES, first_bytes: int | None = None, last_bytes: int | None = None
) -> bytes:
    """Return the content of a regular file, or its first or last bytes; other files, such as pipes, could block.

    Raises:
        OSError: The file is not regular, has more than `max_bytes`, or can't be read.
    """
    # Windows has no O_NONBLOCK, but no pipes in folders either.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb", buffering=-1 if first_bytes is None else 0) as file:  # noqa: PTH123 - Path.open takes no descriptor
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", str(path))
        num = status.st_size
        if last_bytes is not None:
            file.seek(max(0, num - last_bytes))
        elif num > max_bytes:
            raise OSError(errno.EFBIG, f"has {num} bytes, more than {max_bytes}", str(path))
        most = max_bytes if first_bytes is None else first_bytes
        return file.read(min(num, most))  # Python makes room for all that is asked for


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Return the content of a regular UTF-8 file.

    Raises:
        OSError: The file is not regular, has more than `max_bytes`, or can't be read.
        UnicodeDecodeError: The content is not UTF-8.
    """
    return read_bytes(path, max_bytes=max_bytes).decode()


def read_json(path: Path, missing: Any) -> Any:
    """Return the parsed content of a JSON file, or `missing` if there is no such file.

    Raises:
        UserError: The file can't be read or parsed.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        return missing
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: can't be read ({why})") from error


def damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint file, which is a zip archive with checksums; None if it is intact."""
    try:
        if path.exists() and not path.is_file():
            return "is not a regular file"
        with zipfile.ZipFile(path) as archive:
            # PyTorch does not compress; an entry that claims to be larger than the file is a zip bomb.
            if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:
                return "claims to hold more bytes than it has"
            # A checkpoint holds archives: of one that is cut off, Python would find the last of these.
            if min(info.header_offset for info in archive.infolist()) > 0:
                return "is cut off"
            corrupt = archive.testzip()
    except Exception as error:  # zipfile raises various types for a damaged file
        return getattr(error, "strerror", None) or str(error) or type(error).__name__
    return f"{corrupt} is corrupt" if corrupt else None


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also those in folders that links lead to; a link that leads nowhere is no file.

    Raises:
        OSError: A folder can't be read.
        UserError: A link leads to a folder that it is in.
    """
    pending = [(folder, {folder.resolve()})]
    while pending:
        place, above = pending.pop()
        with os.scandir(place) as entries:  # asks nothing more about files, of which there can be millions
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = place / entry.name
                if entry.is_dir():
                    if (real := path.resolve()) in above:
                        raise UserError(f"{path}: is a link to a folder that it is in")
                    pending.append((path, above | {real}))
                elif entry.is_file():
                    yield path


def refuse_links(*directories: Path) -> None:
    """Check that directories contain no links, so that writes stay inside, and no folders in place of files.

    Raises:
        UserError: An entry is a link, a pipe or a device, or a folder with the name of a file.
    """
    for directory in directories:
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(FileNotFoundError):  # or another process has just removed it
            if not stat.S_ISDIR(directory.stat().st_mode):
                raise UserError(f"{directory}: is a file; it must be a folder, or not exist")
            entries = list(os.scandir(directory))
        for entry in entries:
            try:
                kind = entry.stat(follow_symlinks=False).st_mode
            except FileNotFoundError:  # a temporary file that another process just renamed
                continue
            if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
                raise UserError(
                    f"{entry.path}: is a link or a special file; Leyden's directories may hold only files and folders, "
                    "so that writes to them change no other files"
                )
            is_ours = entry.name.endswith((".json", ".ckpt", ".csv", ".png", ".pdf", ".yaml", ".journal", ".tmp"))
            if stat.S_ISDIR(kind) and (is_ours or "tfevents" in entry.name):
                raise UserError(f"{entry.path}: is a folder with the name of a file; move it elsewhere")


FINGERPRINTS_FILE = "fingerprint.csv"
HASH_LENGTH = 32  # hexadecimal digits


class Fingerprint(NamedTuple):
    """Hashes of a run's state after an optimizer step, in hexadecimal digits.

    Args:
        weights: Hash of all parameters and buffers.
        optimizer: Hash of the optimizers' states.
        random: Hash of the random states of Python, NumPy and PyTorch on rank 0.
    """

    weights: str
    optimizer: str
    random: str


def read_fingerprints(directory: Path) -> dict[int, Fingerprint]:
    """Return a run directory's fingerprints by optimizer step; incomplete lines are skipped.

    Raises:
        OSError: The file can't be read.
    """
    path = directory / FINGERPRINTS_FILE
    text = read_bytes(path).decode(errors="replace") if path.exists() else ""
    rows = [line.split(",") for line in text.splitlines()]
    whole = [row for row in rows if len(row) == 4 and {*map(len, row[1:])} == {HASH_LENGTH}]
    return {int(step): Fingerprint(*hashes) for step, *hashes in whole if step.isdecimal() and len(step) < 19}


def write_fingerprints(directory: Path, found: Mapping[int, Fingerprint]) -> None:
    """Replace the file of fingerprints, sorted by step."""
    rows = [(step, *found[step]) for step in sorted(found)]
    write_csv(directory / FINGERPRINTS_FILE, [("step", *Fingerprint._fields), *rows])


def append_fingerprint(directory: Path, step: int, found: Fingerprint) -> None:
    """Append a fingerprint to the file."""
    with (directory / FINGERPRINTS_FILE).open("a", encoding="utf-8") as file:
        file.write(",".join([str(step), *found]) + "\n")


def first_difference(a: Mapping[int, Fingerprint], b: Mapping[int, Fingerprint]) -> tuple[int, list[str]] | None:
    """Return the first common step with different fingerprints, and the fields that differ; None if there is none.

    Example:
        >>> a, b = Fingerprint("aa", "bb", "cc"), Fingerprint("aa", "bb", "dd")
        >>> first_difference({1: a, 2: a, 3: a}, {1: a, 2: b, 4: b})
        (2, ['random'])
    """
    for step in sorted({*a} & {*b}):
        if a[step] != b[step]:
            return step, [name for name in Fingerprint._fields if getattr(a[step], name) != getattr(b[step], name)]
    return None

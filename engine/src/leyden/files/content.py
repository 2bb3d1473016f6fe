"""User-provided files: reading, text decoding and identification by SHA-256."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

ZIP = b"PK\x03\x04"
AS_UTF_8 = "save it as UTF-8 (in Excel: CSV UTF-8)"
# Limits up to which a folder is identified by its files' contents, and not by names and sizes alone.
MAX_FILES, MAX_BYTES = 1000, 2**25


def read_file(root: Path, file: str) -> bytes:
    """Return the content of a file in a folder.

    Raises:
        OSError: There is no such file, or it can't be read.
        ValueError: The file is outside the folder.
    """
    path = root / file
    # Not Path.resolve, which raises RuntimeError for a link to itself.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ValueError(f"file={file}: must be the name of a file in root={root}")
    if not path.is_file():
        problem = f"{file} is not a regular file" if os.path.lexists(path) else f"there is no {file}"
        # Not FileNotFoundError, which starts a download: a user's own file is never downloaded.
        raise OSError(f"root={root}: {problem}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path}: can't be read ({error.strerror})") from error


def decode_text(path: Path, content: bytes) -> str:
    """Return the text of a file in UTF-8, without its byte order mark.

    Args:
        path: The file, for messages.
        content: Content of the file.

    Raises:
        ValueError: The file has another encoding, or is not text.
    """
    if content.startswith(ZIP):
        raise ValueError(f"{path}: is a zip archive, such as .xlsx or .docx, not text; {AS_UTF_8}")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; {AS_UTF_8}"
        ) from None
    if "\0" in text:
        raise ValueError(
            f"{path}: holds NUL characters, such as a binary file or UTF-16; {AS_UTF_8}"
        )
    return text


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_folder(folder: Path, names: Sequence[bytes]) -> str:
    """Return the SHA-256 of a folder's file names and sizes, and of the contents if the files are few and small.

    Args:
        folder: The folder.
        names: Relative file names, in a fixed order.

    Raises:
        ValueError: A file can't be read.
    """
    place = os.fsencode(folder)
    try:
        # pathlib takes eight times as long, and there can be a million files.
        sizes = [os.stat(os.path.join(place, name)).st_size for name in names]  # noqa: PTH116, PTH118
        sha256 = hashlib.sha256(b"".join(b"%d %b\0" % pair for pair in zip(sizes, names, strict=True)))
        if len(names) > MAX_FILES or sum(sizes) > MAX_BYTES:
            return f"{sha256.hexdigest()} (names and sizes)"
        for name in names:
            sha256.update(Path(folder, os.fsdecode(name)).read_bytes())
    except OSError as error:
        raise ValueError(f"{os.fsdecode(error.filename)}: can't be read ({error.strerror})") from error
    return sha256.hexdigest()

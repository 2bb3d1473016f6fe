"""Files that users bring: read whole, decoded, and identified by their SHA-256."""

import codecs
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# A mark at the beginning of a text names its encoding; that of UTF-32 begins as that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ZIP = b"PK\x03\x04"
AS_UTF_8 = "save it as UTF-8 (in Excel: CSV UTF-8)"
# Up to so much, a folder is identified by the contents of its files, not by their names and sizes alone.
MAX_FILES, MAX_BYTES = 1000, 2**25


def read_file(root: Path, file: str) -> bytes:
    """Return the content of a file in a folder.

    Raises:
        OSError: There is no such file, or it can't be read.
        ValueError: It lies elsewhere.
    """
    path = root / file
    # Not Path.resolve, which raises RuntimeError for a link to itself.
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise ValueError(f"file={file}: must be the name of a file in root={root}")
    if not path.is_file():
        problem = f"{file} is no regular file" if os.path.lexists(path) else f"there is no {file}"
        raise OSError(f"root={root}: {problem}")  # no FileNotFoundError: a file of one's own is never fetched
    try:
        return path.read_bytes()
    except OSError as error:
        raise OSError(f"{path}: can't be read ({error.strerror})") from error


def decode_text(path: Path, content: bytes) -> str:
    """Return the text of a file: UTF-8, or what a mark at its beginning names; the mark is no part of the text.

    Args:
        path: The file, for messages.
        content: Its content.

    Raises:
        ValueError: It is in another encoding, or no text.
    """
    if content.startswith(ZIP):
        raise ValueError(f"{path}: is a zip archive, as .xlsx and .docx are, and no text; {AS_UTF_8}")
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8-sig")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise ValueError(
                f"{path}: is cut or damaged: its mark says {encoding.upper()}, its bytes are not"
            ) from None
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: byte 0x{content[error.start]:02x} is no UTF-8; {AS_UTF_8}"
        ) from None
    if "\0" in text:
        raise ValueError(f"{path}: holds NUL characters, as binary files and UTF-16 without a mark do; {AS_UTF_8}")
    return text


def digest_of(content: bytes) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_tensor(values: Tensor) -> str:
    """Return the SHA-256 of a tensor's type, shape and values, in hexadecimal digits.

    Of overlapping windows the memory that they share is hashed, and the strides.
    """
    described = f"{values.dtype} {tuple(values.shape)}"
    if values.untyped_storage().nbytes() < values.numel() * values.element_size():
        described += f" {values.stride()} {values.storage_offset()}"
        values = torch.empty(0, dtype=values.dtype).set_(values.untyped_storage())
    sha256 = hashlib.sha256(described.encode())
    sha256.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def digest_of_folder(folder: Path, names: Sequence[bytes]) -> str:
    """Return the SHA-256 of files by their names and sizes, and where they are few and small by their contents.

    Args:
        folder: The folder.
        names: Relative names of the files, in a fixed order.

    Raises:
        ValueError: A file can't be read.
    """
    place = os.fsencode(folder)
    try:
        # Not by pathlib, which takes eight times as long: there can be a million files.
        sizes = [os.stat(os.path.join(place, name)).st_size for name in names]  # noqa: PTH116, PTH118
        sha256 = hashlib.sha256(b"".join(b"%d %b\0" % pair for pair in zip(sizes, names, strict=True)))
        if len(names) > MAX_FILES or sum(sizes) > MAX_BYTES:
            return f"{sha256.hexdigest()} (names and sizes)"
        for name in names:
            sha256.update(Path(folder, os.fsdecode(name)).read_bytes())
    except OSError as error:
        raise ValueError(f"{os.fsdecode(error.filename)}: can't be read ({error.strerror})") from error
    return sha256.hexdigest()


def digest_of_content(content: Any) -> str:
    """Return the SHA-256 of tensors and plain values in dictionaries and lists: of every bit, with types and shapes.

    Example:
        >>> digest_of_content({"a": torch.zeros(2)}) == digest_of_content({"a": -torch.zeros(2)})
        False
    """
    sha = hashlib.sha256()
    _feed(sha, content)
    return sha.hexdigest()


def _feed(sha: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        whole = content.detach().cpu().contiguous()
        sha.update(f"{whole.dtype}{tuple(whole.shape)}".encode())
        sha.update(whole.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(content, dict):
        sha.update(f"dict{len(content)}".encode())
        for key, value in content.items():
            _feed(sha, key)
            _feed(sha, value)
    elif isinstance(content, list | tuple):
        sha.update(f"list{len(content)}".encode())
        for value in content:
            _feed(sha, value)
    else:
        sha.update(f"{type(content).__name__} {content!r} ".encode())

"""Files of a run: atomic writes, bounded reads, and the run's fingerprints.

`exact/files.py` opens them.
"""

import collections
import contextlib
import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from leyden.base.errors import UserError
from leyden.base.terminal import one_line, reason_of
from leyden.config.values import MAX_DEPTH, leaves
from leyden.exact.files import (
    FORMATS,
    FormatError,
    opened,
    read_bounded,
    replacing,
    take_format,
)
from leyden.run import lock


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def csv_lines(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of a CSV file for programs."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def csv_rows(lines: Iterable[str]) -> Iterator[list[str]]:
    """Yield the cells of each line, which is parsed by itself: damage costs its own line alone."""
    for line in lines:
        try:
            yield next(csv.reader([line]), [])
        except csv.Error:  # a field of more than 131,072 characters
            yield []


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Replace a CSV file with these rows, the first of which is its header."""
    write_whole(path, csv_lines(rows))


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of the rest of a file, in hexadecimal digits."""
    sha256 = hashlib.sha256()  # `hashlib.file_digest` needs Python 3.11
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


MAX_TABLE_BYTES = 2**30  # of curves and fingerprints


def read_end(path: Path, num_bytes: int | None) -> str:
    """Return the text at the end of a file, with damaged bytes replaced; all of it for None.

    Raises:
        OSError: The file can't be read.
    """
    if num_bytes is None:
        return read_bounded(path, MAX_TABLE_BYTES).decode(errors="replace")
    with opened(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - num_bytes))
        content: bytes = file.read(num_bytes)
    return content.decode(errors="replace")


MAX_JSON_BYTES = 2**26
MAX_VALUES = 2**20  # in a JSON file


TEXT_IN_JSON = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"')


def num_values(text: str) -> int:
    """Return about how many values a JSON text has, without parsing it.

    Brackets in its texts don't count.
    """
    num = sum(map(text.count, "[{,"))
    if num <= MAX_VALUES:
        return num
    bare = TEXT_IN_JSON.sub("", text)
    return sum(map(bare.count, "[{,"))


def parse_json(text: str) -> Any:
    """Return the content of an untrusted JSON file, not nested too deep to be followed.

    Raises:
        ValueError: It is not JSON, or has too many values.
        RecursionError: It is nested too deeply.
    """
    if len(text) > MAX_VALUES and num_values(text) > MAX_VALUES:
        raise ValueError(f"has more than {MAX_VALUES:,} values")
    content = json.loads(text)
    if text.count("[") + text.count("{") > MAX_DEPTH:  # then it may be
        collections.deque(leaves(content), maxlen=0)
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file in the format of today."""
    dated = {"format": FORMATS[path.name], **content}
    write_whole(path, json.dumps(dated) + "\n")


def read_json(path: Path, missing: Any) -> Any:
    """Return the parsed content of a JSON file, or `missing` if there is no such file.

    Raises:
        UserError: The file can't be read or parsed, or is in another format.
    """
    try:
        content = parse_json(read_bounded(path, MAX_JSON_BYTES).decode())
        if path.name in FORMATS and isinstance(content, dict):
            take_format(path.name, content)
        return content
    except FileNotFoundError:
        return missing
    except FormatError as error:
        raise UserError(f"{path}: {error}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: can't be read ({reason_of(error)})") from error


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, also those in folders that links lead to.

    A link that leads nowhere is no file.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            if path.is_file():
                yield path


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
    text = ""
    if path.exists():
        text = read_end(path, None)
    found = {}
    for row in csv_rows(text.splitlines()):
        step, *hashes = row or [""]
        is_whole = [*map(len, hashes)] == [HASH_LENGTH] * len(Fingerprint._fields)
        if is_whole and step.isdecimal() and len(step) < 19:
            found[int(step)] = Fingerprint(*hashes)
    return found


def write_fingerprints(directory: Path, found: Mapping[int, Fingerprint]) -> None:
    """Replace the file of fingerprints, sorted by step."""
    rows = [(step, *found[step]) for step in sorted(found)]
    write_csv(directory / FINGERPRINTS_FILE, [("step", *Fingerprint._fields), *rows])


def append_fingerprint(directory: Path, step: int, found: Fingerprint) -> None:
    """Append a fingerprint to the file."""
    line = ",".join([str(step), *found]) + "\n"
    with opened(directory / FINGERPRINTS_FILE, "ab") as file:
        file.write(line.encode())


def first_difference(
    a: Mapping[int, Fingerprint], b: Mapping[int, Fingerprint]
) -> tuple[int, list[str]] | None:
    """Return the first common step with different fingerprints, and the fields that differ.

    None if there is none.

    Example:
        >>> a, b = Fingerprint("aa", "bb", "cc"), Fingerprint("aa", "bb", "dd")
        >>> first_difference({1: a, 2: a, 3: a}, {1: a, 2: b, 4: b})
        (2, ['random'])
    """
    for step in sorted({*a} & {*b}):
        if a[step] != b[step]:
            pairs = zip(Fingerprint._fields, a[step], b[step], strict=True)
            return step, [name for name, one, other in pairs if one != other]
    return None


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file without its header, whose first field is `time`.

    Empty without a file.

    A damaged row may have fewer fields.

    Raises:
        OSError: The file can't be read.
    """
    try:
        text = read_end(path, None).replace("\0", "\ufffd")
    except FileNotFoundError:
        return []
    rows = csv_rows(text.splitlines())
    return [row for row in rows if row and row[0] != "time"]


@contextlib.contextmanager
def appending(
    path: Path, header: Sequence[str]
) -> Iterator[tuple[list[list[str]], Callable[[Sequence[str]], None]]]:
    """Lock a CSV file, which a killed process leaves whole.

    Yield its rows and a function that appends a row.

    Raises:
        OSError: The file can't be read or written.
    """
    with lock.hold(path.with_suffix(".lock")) as held:
        rows = read_rows(path)

        def append(row: Sequence[str]) -> None:
            held.check()
            write_csv(path, [header, *rows, [*map(one_line, row)]])

        yield rows, append

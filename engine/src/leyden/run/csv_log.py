"""CSV files to which several processes append rows, and which survive a process killed while it writes."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from leyden.config.terminal import one_line
from leyden.run import lock
from leyden.run.files import MAX_BYTES, read_bytes


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a file without its header; a damaged row may have fewer fields. Empty without a file.

    Raises:
        OSError: The file can't be read.
    """
    try:
        return _parsed(read_bytes(path))
    except FileNotFoundError:
        return []


@contextmanager
def appending(
    path: Path, header: Sequence[str]
) -> Iterator[tuple[list[list[str]], Callable[[Sequence[str]], None]]]:
    """Lock a file; yield its rows and a function that appends a row.

    Raises:
        OSError: The file can't be read or written.
    """
    with lock.hold(path.with_suffix(".lock")) as held:
        content = path.read_bytes() if path.exists() else b""

        def append(row: Sequence[str]) -> None:
            head = _line(header)
            missing = head[len(content) :] if head.startswith(content) else _missing_line_end(content)
            held.check()
            with path.open("ab") as file:
                file.write(missing + _line(row))
                file.flush()
                os.fsync(file.fileno())

        yield _parsed(content), append


def _line(fields: Sequence[str]) -> bytes:
    """Return a line: UTF-8 without control characters."""
    csv.writer(written := io.StringIO(newline="")).writerow(map(one_line, fields))
    return written.getvalue().encode()


def _missing_line_end(content: bytes) -> bytes:
    """Return the bytes that complete a last line cut off by a killed process; empty if it is complete."""
    if content.count(b'"') % 2:
        return b'"\r\n'
    return b"" if content.endswith(b"\n") else b"\r\n"


def _parsed(content: bytes) -> list[list[str]]:
    """Return the rows, without the header, whose first field is `time`."""
    rows = csv.reader(io.StringIO(content.decode(errors="replace"), newline=""))
    old_limit = csv.field_size_limit(MAX_BYTES)  # a damaged line can look like one long field
    try:
        return [row for row in rows if row and row[0] != "time"]
    finally:
        csv.field_size_limit(old_limit)

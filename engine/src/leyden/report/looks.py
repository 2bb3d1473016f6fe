"""The number of looks at a comparison: how often it was made, each time with other runs."""

import contextlib
import hashlib
from collections.abc import Sequence
from pathlib import Path

from leyden.config.terminal import one_line, warn
from leyden.report.records import Record
from leyden.run.csv_log import appending, read_rows
from leyden.run.provenance import now

LOOKS_FILE = "looks.csv"
HEADER = ("time", "comparison", "look", "runs", "values")


def count_look(folder: Path, comparison: str, records: Sequence[Record]) -> int:
    """Return the number of this look at a comparison, and record it in a folder.

    The same values as before are the same look. If the look can't be recorded, a warning says so. Looks at a copy of the
    folder, or at a folder above it, are other looks.

    Args:
        folder: Folder of the compared runs.
        comparison: Text that names the comparison.
        records: The compared runs that have values.
    """
    found = sorted((record.run.directory.name, repr(record.values)) for record in records)
    digest = hashlib.sha256(repr(found).encode()).hexdigest()[:16]
    path, comparison = folder / LOOKS_FILE, one_line(comparison)
    try:
        with appending(path, HEADER) as (rows, append):
            look = _number(rows, comparison, digest)
            if look > len(_digests(rows, comparison)):
                append([now(), comparison, str(look), str(len(found)), digest])
            return look
    except OSError as error:
        warn(f"{path} can't be written ({error.strerror}): a later look will not know of this one")
    with contextlib.suppress(OSError):
        return _number(read_rows(path), comparison, digest)
    return 1


def _digests(rows: Sequence[Sequence[str]], comparison: str) -> list[str]:
    return [row[4] for row in rows if len(row) == len(HEADER) and row[1] == comparison]


def _number(rows: Sequence[Sequence[str]], comparison: str, digest: str) -> int:
    """Return the number of a look: that of the recorded look at the same values, or the next one."""
    earlier = _digests(rows, comparison)
    return (earlier.index(digest) if digest in earlier else len(earlier)) + 1

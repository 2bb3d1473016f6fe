"""What a run was at its steps, as hashes in `fingerprint.csv`: by them two runs are compared bit for bit."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from leyden.run.files import read_bytes, write_whole

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

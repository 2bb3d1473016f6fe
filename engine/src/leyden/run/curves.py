"""The curves of a run, in `metrics.csv`."""

import contextlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from leyden.exact.files import opened
from leyden.run.files import csv_rows, read_end, write_csv

HEADER = ["step", "metric", "value"]


def read_points(path: Path, *, last_bytes: int | None = None) -> list[tuple[int, str, float]]:
    """Return the rows of `metrics.csv`: step, metric and value, in the order of logging.

    The header, incomplete and damaged lines are skipped. An unreadable file has no rows.

    Args:
        path: Path of the file.
        last_bytes: Read at most this many bytes, from the end of the file; None to read all.
    """
    found: list[tuple[int, str, float]] = []
    try:
        text = read_end(path, last_bytes)
    except OSError:
        return found
    # A line without its line feed is incomplete, and its number may be cut: not `read_rows`.
    whole = text.split("\n")[:-1]
    for row in csv_rows(whole):
        with contextlib.suppress(ValueError):
            step, metric, value = row
            if "\ufffd" not in metric:
                found.append((int(step), metric, float(value)))
    return found


def has_header(path: Path) -> bool:
    """Return whether a file of curves is there, and begins as one."""
    try:
        with opened(path) as file:
            begin: bytes = file.read(2**10)
        return begin.startswith(",".join(HEADER).encode())
    except OSError:
        return False


def write_points(path: Path, points: Iterable[tuple[int, str, float]]) -> None:
    """Replace `metrics.csv` with these rows."""
    write_csv(path, [HEADER, *points])


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return for each metric its points (step, value) in `metrics.csv`."""
    curves = defaultdict(list)
    for step, metric, value in read_points(path):
        curves[metric].append((step, value))
    return dict(curves)

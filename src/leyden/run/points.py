"""The points of a run's curves, as `metrics.csv` keeps them."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from leyden.run.files import read_bytes, write_whole

HEADER = ["step", "metric", "value"]
MAX_BYTES = 2**28  # some million points


def rows(path: Path, *, last_bytes: int | None = None) -> Iterator[list[str]]:
    """The lines of the table that are whole, as texts: step, metric, value.

    Whatever else is there is left out: the header, a line that a killed run has not finished, damaged ones. Each
    line is read for itself, so that none of them spoils the next. A file that can't be read has none.
    """
    try:
        text = read_bytes(path, max_bytes=MAX_BYTES, last_bytes=last_bytes).decode(errors="replace")
    except OSError:
        return
    for line in text.split("\n")[:-1]:  # behind the last line feed is what was not finished
        try:
            step, metric, value = next(csv.reader([line]))
            int(step), float(value)
        except (ValueError, StopIteration, csv.Error):
            continue
        if "\ufffd" not in metric:
            yield [step, metric, value]


def write_rows(path: Path, kept: Sequence[Sequence[str]]) -> None:
    """Write the table anew, of these lines."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *kept])
    write_whole(path, text.getvalue())


def points(path: Path, *, last_bytes: int | None = None) -> list[tuple[int, str, float]]:
    """The same as numbers: step, metric, value, in the order in which they were logged.

    Args:
        path: The file.
        last_bytes: Reads no more than the end of it; None reads all.
    """
    return [(int(step), metric, float(value)) for step, metric, value in rows(path, last_bytes=last_bytes)]

"""The console, with control characters escaped, and tables: rows of dictionaries as its lines, CSV or JSON.

A column is a key of the rows. A key that a row lacks is an empty cell, and None is `null`.
"""

import csv
import io
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from leyden.config.terminal import one_line, printable, without_escapes

WIDE = 10_000  # characters per line in a pipe or file


class Terminal(Console):
    """A console that escapes unsafe characters and applies neither highlighting nor markup.

    Lines are not wrapped if the output is a pipe or a file.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=True, **kwargs)
        if not self.is_terminal:
            self.width = WIDE

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Return a string as rich text, with unsafe characters escaped; rich calls this for strings and cells."""
        return super().render_str(printable(text), **kwargs)


Row = Mapping[str, Any]
GAP = 2  # spaces between columns
MIN_WIDTH = 8  # of a column that is narrowed to fit a terminal


def print_table(rows: Sequence[Row], columns: Sequence[str] | None = None, **options: Any) -> None:
    """Print a table; long cells lose their middle on a terminal, so that each row is one line, but not in a pipe or file.

    Args:
        rows: The rows.
        columns: The columns in order; None for all keys of the rows.
        options: `names` and `header`, as in `table_lines`.
    """
    width = shutil.get_terminal_size().columns if sys.stdout and sys.stdout.isatty() else None
    print("\n".join(table_lines(rows, columns, width=width, **options)))


def table_lines(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    *,
    names: Mapping[str, str] | None = None,
    header: bool = True,
    width: int | None = None,
) -> list[str]:
    """Return a table's lines without control characters; rich's tables take seconds for thousands of rows.

    Args:
        rows: The rows.
        columns: The columns in order; None for all keys of the rows.
        names: Names of the columns that are not shown by their keys.
        header: Whether the first line has the names.
        width: Number of characters that a line may have; None for any.

    Example:
        >>> table_lines([{"lr": 0.1, "n": 3}, {"lr": None, "n": 12}, {"lr": "high"}])
        ['lr     n', '0.1    3', 'null  12', 'high']
    """
    columns = _keys(rows) if columns is None else columns
    texts = [[cell_text(row[key]) if key in row else "" for row in rows] for key in columns]
    are_whole = ["".join(column).replace(",", "").isdecimal() for column in texts]
    if header:
        texts = [
            [one_line((names or {}).get(key, key)), *column]
            for key, column in zip(columns, texts, strict=True)
        ]
    if width is not None:
        limit = _limit([max(map(_width, column), default=0) for column in texts], width)
        texts = [
            [text if _width(text) <= limit else _shorten(text, limit) for text in column]
            for column in texts
        ]
    padded = [_padded(column, right=right) for column, right in zip(texts, are_whole, strict=True)]
    return [(" " * GAP).join(cells).rstrip() for cells in zip(*padded, strict=True)]


def _keys(rows: Iterable[Row]) -> list[str]:
    return [*dict.fromkeys(key for row in rows for key in row)]


def cell_text(value: object) -> str:
    """Return a value as one line of text, fractions with four significant digits."""
    if value is None:
        return "null"
    return f"{value:.4g}" if isinstance(value, float) else one_line(value)


def _width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    return len(text) if text.isascii() else cell_len(text)


def _limit(widths: Sequence[int], width: int) -> int:
    """Return the width to which the widest columns are narrowed, so that all fit into a line if that is possible."""
    room = width - GAP * (len(widths) - 1)
    limits = range(max(MIN_WIDTH, room), MIN_WIDTH, -1)
    return next(
        (limit for limit in limits if sum(min(limit, each) for each in widths) <= room), MIN_WIDTH
    )


def _shorten(text: str, width: int) -> str:
    """Return a text without its middle; most of what is left is its end, which tells paths apart."""
    begin = (width - 1) // 4
    return f"{set_cell_size(text, begin)}…{set_cell_size(text[::-1], width - 1 - begin)[::-1]}"


def _padded(column: Sequence[str], *, right: bool) -> list[str]:
    """Return the cells of a column with spaces, after their texts or, of whole numbers, before."""
    widths = [*map(_width, column)]
    width = max(widths, default=0)
    spaces = [" " * (width - own) for own in widths]
    return [
        space + cell if right else cell + space for cell, space in zip(column, spaces, strict=True)
    ]


def short_names(keys: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return for each key its last part, or the key itself if others have the same last part, or it is taken.

    Example:
        >>> short_names(["optimizer.lr", "model.depth", "encoder.depth", "data.n"], taken=["n"])
        {'optimizer.lr': 'lr', 'model.depth': 'model.depth', 'encoder.depth': 'encoder.depth', 'data.n': 'data.n'}
    """
    ends = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter([*ends.values(), *taken])
    return {key: end if counts[end] == 1 else key for key, end in ends.items()}


def csv_text(
    rows: Sequence[Row], columns: Sequence[str] | None = None, *, header: bool = True
) -> str:
    r"""Return a CSV file for people: no cell is an escape sequence of a terminal.

    Bytes of file names that are not UTF-8 stay surrogates, for `encode(errors="surrogateescape")`.

    Example:
        >>> csv_text([{"a": "x", "b": -0.5, "c": "y"}, {"a": [1, 2], "c": None}])
        'a,b,c\r\nx,-0.5,y\r\n"[1, 2]",,null\r\n'
    """
    columns = _keys(rows) if columns is None else columns
    table = [[_csv_cell(row[key]) if key in row else "" for key in columns] for row in rows]
    written = io.StringIO(newline="")
    csv.writer(written).writerows([[*map(_csv_cell, columns)]] * header + table)
    return written.getvalue()


def _csv_cell(value: object) -> object:
    if isinstance(value, int | float):
        return value
    return "null" if value is None else without_escapes(str(value))


def print_csv(rows: Sequence[Row], columns: Sequence[str] | None = None) -> None:
    """Print a CSV file, with bytes of file names that are not UTF-8 escaped."""
    print(printable(csv_text(rows, columns).replace("\r\n", "\n")), end="")


def json_text(content: Any) -> str:
    """Return a nested value as JSON, in ASCII, with null in place of NaN and infinities.

    Example:
        >>> json_text([float("nan"), 0.1]).split()
        ['[', 'null,', '0.1', ']']
    """
    return json.dumps(_finite(content), indent=2)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

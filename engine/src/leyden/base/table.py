"""Tables: rows of dictionaries as lines of a terminal, as CSV or JSON.

Control characters are escaped.

A column is a key of the rows. A key that a row lacks is an empty cell, and None is `null`.
"""

import csv
import io
import json
import math
import shutil
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.cells import cell_len, set_cell_size

from leyden.base.terminal import one_line, printable, without_escapes

TableRow = Mapping[str, Any]
TableRows = Sequence[TableRow]
Columns = Sequence[str] | None
COLUMN_GAP = "  "  # between columns
MIN_WIDTH = 8  # of a column that is narrowed to fit a terminal


def print_table(rows: TableRows, columns: Columns = None, **options: Any) -> None:
    """Print a table.

    Long cells lose their middle on a terminal, so that each row is one line, but not in a pipe or
    file.

    Args:
        rows: The rows.
        columns: The columns in order; None for all keys of the rows.
        options: `names` and `header`, as in `table_lines`.
    """
    width = None
    if sys.stdout and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
    lines = table_lines(rows, columns, width=width, **options)
    print("\n".join(lines))


def table_lines(
    rows: TableRows,
    columns: Columns = None,
    *,
    names: Mapping[str, str] | None = None,
    header: bool = True,
    width: int | None = None,
) -> list[str]:
    """Return a table's lines without control characters.

    Rich's tables take seconds for thousands of rows.

    `aligned_lines` of `verdict.reports` aligns texts that are formatted, without a terminal or
    rich.

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
    if columns is None:
        columns = _keys(rows)
    names = names or {}
    table = []
    are_whole = []
    for key in columns:
        column = [cell_text(row.get(key, "")) for row in rows]
        text = "".join(column)
        digits = text.replace(",", "")
        are_whole.append(digits.isdecimal())
        if header:
            name = names.get(key, key)
            column.insert(0, one_line(name))
        table.append(column)
    if width is not None:
        widths = [_widest(column) for column in table]
        limit = _limit(widths, width)
        for column in table:
            if _widest(column) > limit:
                column[:] = [_shorten(cell, limit) for cell in column]
    padded = []
    for column, right in zip(table, are_whole, strict=True):
        padded.append(_padded(column, right=right))
    lines = []
    for cells in zip(*padded, strict=True):
        line = COLUMN_GAP.join(cells)
        lines.append(line.rstrip())
    return lines


def _keys(rows: TableRows) -> list[str]:
    keys: dict[str, None] = {}
    for row in rows:
        keys |= dict.fromkeys(row)
    return list(keys)


def cell_text(value: object) -> str:
    """Return a value as one line of text, fractions with four significant digits."""
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.4g}"
    return one_line(value)


def _width(text: str) -> int:
    """Return the number of columns that a text takes in a terminal."""
    if text.isascii():
        return len(text)
    return cell_len(text)


def _widths(column: Sequence[str]) -> list[int]:
    if "".join(column).isascii():
        return [*map(len, column)]
    return [*map(_width, column)]


def _widest(column: Sequence[str]) -> int:
    return max(_widths(column), default=0)


def _limit(widths: Sequence[int], width: int) -> int:
    """Return the width to which the widest columns are narrowed.

    All columns fit into a line if that is possible.
    """
    gaps = len(COLUMN_GAP) * (len(widths) - 1)
    room = width - gaps
    limit = room
    while limit > MIN_WIDTH:
        narrowed = [min(limit, each) for each in widths]
        if sum(narrowed) <= room:
            break
        limit -= 1
    return max(limit, MIN_WIDTH)


def _shorten(text: str, limit: int) -> str:
    """Return a text that is too long without its middle.

    Most of what is left is its end, which tells paths apart.
    """
    if _width(text) <= limit:
        return text
    room = limit - 1
    begin = room // 4
    end = room - begin
    start = set_cell_size(text, begin)
    backwards = set_cell_size(text[::-1], end)
    tail = backwards[::-1]
    return f"{start}…{tail}"


def _padded(column: Sequence[str], *, right: bool) -> list[str]:
    """Return the cells of a column with spaces, after their texts or, of whole numbers, before."""
    widths = _widths(column)
    widest = max(widths, default=0)
    padded = []
    for cell, width in zip(column, widths, strict=True):
        space = " " * (widest - width)
        padded.append(space + cell if right else cell + space)
    return padded


def short_names(keys: Collection[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Return for each key its last part, or the key itself where that part is not the only one.

    Example:
        >>> keys = ["optimizer.lr", "model.depth", "encoder.depth", "data.n"]
        >>> [*short_names(keys, taken=["n"]).values()]
        ['lr', 'model.depth', 'encoder.depth', 'data.n']
    """
    ends = {}
    for key in keys:
        ends[key] = key.rpartition(".")[2]
    counts = Counter(ends.values())
    counts.update(taken)
    found = {}
    for key, end in ends.items():
        found[key] = end if counts[end] == 1 else key
    return found


def csv_text(rows: TableRows, columns: Columns = None) -> str:
    r"""Return a CSV file for people: no cell is an escape sequence of a terminal.

    Bytes of file names that are not UTF-8 stay surrogates, for `encode(errors="surrogateescape")`.

    Example:
        >>> csv_text([{"a": "x", "b": -0.5, "c": "y"}, {"a": [1, 2], "c": None}])
        'a,b,c\r\nx,-0.5,y\r\n"[1, 2]",,null\r\n'
    """
    if columns is None:
        columns = _keys(rows)
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow(map(_csv_cell, columns))
    for row in rows:
        cells = [_csv_cell(row.get(key, "")) for key in columns]
        writer.writerow(cells)
    return written.getvalue()


def _csv_cell(value: object) -> object:
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return value
    return without_escapes(str(value))


def print_csv(rows: TableRows, columns: Columns = None) -> None:
    """Print a CSV file, with bytes of file names that are not UTF-8 escaped."""
    text = csv_text(rows, columns)
    lines = text.replace("\r\n", "\n")
    print(printable(lines), end="")


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
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

"""Named columns of a file: CSV, Parquet or NPZ. Shape: N rows."""

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leyden.config.terminal import warn
from leyden.data.files import ZIP, decode, read_file
from leyden.run.process import is_main_process

SUFFIXES = (".csv", ".parquet", ".npz")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_columns(root: Path, file: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, each of numbers or of texts, shape (N,).

    Raises:
        OSError: There is no such file.
        ValueError: It is no table, is damaged, or lies elsewhere.
    """
    return columns_of(root / file, content_of(root, file))


def content_of(root: Path, file: str) -> bytes:
    """Return the content of a table's file.

    Raises:
        OSError: There is no such file.
        ValueError: It has another suffix, or lies elsewhere.
    """
    if Path(file).suffix not in SUFFIXES:
        raise ValueError(f"file={file}: must be the name of a {', '.join(SUFFIXES)} file in root={root}")
    return read_file(root, file)


def columns_of(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, each of numbers or of texts, shape (N,).

    Args:
        path: The file, whose suffix tells the format.
        content: Its content.

    Raises:
        ValueError: It is no table, or damaged.
    """
    read = {".csv": _csv, ".npz": _npz, ".parquet": _parquet}[path.suffix]
    columns = read(path, content)
    names = [name for name, _ in columns]
    if len({*names}) < len(names):
        raise ValueError(f"{path}: has two columns of one name")
    for name, values in columns:
        if values.ndim != 1:
            raise ValueError(f"{path}: {name} has shape {values.shape}; must be a column, shape (N,)")
    lengths = {len(values) for _, values in columns}
    if len(lengths) > 1:
        raise ValueError(f"{path}: must have columns of one length")
    if not lengths or 0 in lengths:
        raise ValueError(f"{path}: has no row; must have named columns, and a row per sample")
    return dict(columns)


def _csv(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    text = decode(path, content)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        for row in lines:
            if not names:
                names = row
                if len(names) == 1 and (found := {*SEPARATORS} & {*names[0]}):
                    raise ValueError(
                        f"{path}: is separated by {SEPARATORS[min(found)]}; must be by commas, with decimal points: save it anew, "
                        "as by pandas.read_csv(FILE, sep=None, engine='python', decimal=',').to_csv(FILE, index=False)"
                    )
            elif row:
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: has {len(row)} values for {len(names)} columns"
                    )
                rows.append(row)
    except csv.Error as error:  # a field without an end, or something behind its end
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if rows and not text.endswith(("\n", "\r")) and is_main_process():
        warn(f"{path}: has no line end after its last row; if the file was cut, the last value is wrong")
    return [(name, np.array([row[n] for row in rows], dtype=object)) for n, name in enumerate(names)]


def _npz(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    if not content.startswith((ZIP, np.lib.format.MAGIC_PREFIX)):
        raise ValueError(f"{path}: is no .npz file; must be arrays by name, as numpy.savez writes them")
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        columns = None if isinstance(arrays, np.ndarray) else [(name, arrays[name]) for name in arrays.files]
    except Exception as error:  # whatever zipfile and NumPy stumble over
        raise ValueError(
            f"{path}: can't be read ({_first_line(error)}); must be numbers or texts as numpy.savez writes them"
        ) from error
    if columns is None:
        raise ValueError(f"{path}: is one array (.npy); must be arrays by name, as numpy.savez writes them")
    if strange := [name for name, values in columns if not isinstance(values, np.ndarray)]:
        raise ValueError(f"{path}: {strange[0]} in it is no array; must be arrays as numpy.savez writes them")
    return columns


def _parquet(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: pyarrow is not installed; pip install -e '.[parquet]' installs it") from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(content), page_checksum_verification=True)
        return [(name, column.to_numpy()) for name, column in zip(table.column_names, table.columns, strict=True)]
    except Exception as error:  # whatever pyarrow stumbles over
        raise ValueError(f"{path}: can't be read ({_first_line(error)}); must be a whole Parquet file") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__

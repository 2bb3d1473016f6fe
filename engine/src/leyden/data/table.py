"""Tables: named columns of a CSV, Parquet or NPZ file.

Shapes: N rows, F input columns, T target columns.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from leyden.config.terminal import warn
from leyden.files.content import ZIP, decode_text, digest_of, read_file
from leyden.run.process import is_main_process

SUFFIXES = (".csv", ".parquet", ".npz")
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_columns(root: Path, file: str) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, each of numbers or of strings, shape (N,).

    Raises:
        OSError: There is no such file.
        ValueError: The file is not a table, is damaged, or is outside `root`.
    """
    return columns_of(root / file, content_of(root, file))


def content_of(root: Path, file: str) -> bytes:
    """Return the content of a table's file.

    Raises:
        OSError: There is no such file.
        ValueError: The file has an unknown suffix, or is outside `root`.
    """
    if Path(file).suffix not in SUFFIXES:
        raise ValueError(f"file={file}: must be the name of a {', '.join(SUFFIXES)} file in root={root}")
    return read_file(root, file)


def columns_of(path: Path, content: bytes) -> dict[str, NDArray[Any]]:
    """Return the columns of a table by name, each of numbers or of strings, shape (N,).

    Args:
        path: The file; its suffix determines the format.
        content: Content of the file.

    Raises:
        ValueError: The content is not a table, or is damaged.
    """
    read = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet}[path.suffix]
    columns = read(path, content)
    names = [name for name, _ in columns]
    if len({*names}) < len(names):
        raise ValueError(f"{path}: has two columns with the same name")
    for name, values in columns:
        if values.ndim != 1:
            raise ValueError(f"{path}: {name} has shape {values.shape}; must be a column, shape (N,)")
    lengths = {len(values) for _, values in columns}
    if len(lengths) > 1:
        raise ValueError(f"{path}: must have columns of equal length")
    if not lengths or 0 in lengths:
        raise ValueError(f"{path}: has no row; must have named columns, and a row per sample")
    return dict(columns)


def _read_csv(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    text = decode_text(path, content)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        for row in lines:
            if not names:
                names = row
                if len(names) == 1 and (found := {*SEPARATORS} & {*names[0]}):
                    raise ValueError(
                        f"{path}: is separated by {SEPARATORS[min(found)]}; must be separated by commas, with decimal points: "
                        "convert it, such as by pandas.read_csv(FILE, sep=None, engine='python', decimal=',').to_csv(FILE, index=False)"
                    )
            elif row:
                if len(row) != len(names):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: has {len(row)} values for {len(names)} columns"
                    )
                rows.append(row)
    except csv.Error as error:  # an unterminated quote, or text after a closing quote
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if rows and not text.endswith(("\n", "\r")) and is_main_process():
        warn(f"{path}: has no line end after its last row; if the file is truncated, the last value is wrong")
    return [(name, np.array([row[n] for row in rows], dtype=object)) for n, name in enumerate(names)]


def _read_npz(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    if not content.startswith((ZIP, np.lib.format.MAGIC_PREFIX)):
        raise ValueError(f"{path}: is not an .npz file; must be arrays by name, as numpy.savez writes them")
    try:
        arrays = np.load(io.BytesIO(content), allow_pickle=False)
        columns = None if isinstance(arrays, np.ndarray) else [(name, arrays[name]) for name in arrays.files]
    except Exception as error:  # zipfile and NumPy raise many types
        raise ValueError(
            f"{path}: can't be read ({_first_line(error)}); must be numbers or texts as numpy.savez writes them"
        ) from error
    if columns is None:
        raise ValueError(f"{path}: is one array (.npy); must be arrays by name, as numpy.savez writes them")
    if strange := [name for name, values in columns if not isinstance(values, np.ndarray)]:
        raise ValueError(
            f"{path}: its entry {strange[0]} is not an array; all must be arrays, as numpy.savez writes them"
        )
    return columns


def _read_parquet(path: Path, content: bytes) -> list[tuple[str, NDArray[Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: pyarrow is not installed; pip install 'leyden[parquet]' installs it") from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(content), page_checksum_verification=True)
        return [(name, column.to_numpy()) for name, column in zip(table.column_names, table.columns, strict=True)]
    except Exception as error:  # pyarrow raises many types
        raise ValueError(f"{path}: can't be read ({_first_line(error)}); must be a whole Parquet file") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__


INDICES = ("", "__index_level_0__")  # pandas' names for its row index, in CSV and in Parquet
# Integers in canonical form: no plus sign, no leading zeros.
CANONICAL_INTEGER = re.compile("0|-?[1-9][0-9]{0,99}")


class Table(Dataset[None]):
    """Table rows as a dataset, with tensors `data` and `targets`.

    `data` has shape (N, F), float32. `targets` are numbers, (N,) or (N, T), float32, or classes, (N,), int64.

    Args:
        root: Folder of the files.
        train: Whether to read the training set.
        download: Ignored; a user's own file is never downloaded.
        file: File name in `root`: .csv with a header line, .parquet, or .npz with one array per column.
        test_file: File name of the test set; None: the test set is cut from `file`.
        test_size: Fraction of the rows in `file` that is the test set, always the same rows, in (0, 1).
        inputs: Names of the input columns; None: all that are not targets.
        targets: Name of the target column, or a list of names.
        classes: Whether the target is a class: a string, an integer or a boolean. In a CSV each cell is a string,
            so `01` and `1` are different classes. Classes are sorted as integers if all of them are, otherwise as
            strings.

    Raises:
        OSError: There is no such file.
        ValueError: A column does not exist or is not numeric, or a row lacks a value.
    """

    def __init__(
        self,
        root: str,
        *,
        train: bool,
        download: bool = False,
        file: str,
        test_file: str | None,
        test_size: float,
        inputs: Sequence[str] | None,
        targets: str | Sequence[str],
        classes: bool,
    ) -> None:
        if not isinstance(test_size, float) or not 0 < test_size < 1:
            raise ValueError(f"test_size={test_size}: must be a part in (0, 1)")
        names = [targets] if isinstance(targets, str) else list(targets)
        if not names or (classes and len(names) > 1):
            raise ValueError(f"targets={targets}: must be a column, or several columns of numbers")
        place = Path(root)
        content = content_of(place, file)
        first = columns_of(place / file, content)
        self.digests = {file: digest_of(content)}
        if inputs is None:
            inputs = [name for name in first if name not in names]
            if index := [name for name in inputs if name in INDICES]:
                raise ValueError(
                    f"{place / file}: column {index[0]!r} is pandas' index; save without it, or select columns by inputs"
                )
        inputs = list(inputs)
        if not inputs:
            raise ValueError(f"{place / file}: has no column but the targets")
        for name in (*inputs, *names):
            if name not in first:
                raise ValueError(f"{place / file}: has no column {name}; it has {', '.join(first)}")
        other = file if train or test_file is None else test_file
        here, columns = place / other, first if other == file else read_columns(place, other)
        rows = np.arange(len(columns[names[0]]))
        if test_file is None:
            order = np.random.default_rng(0).permutation(rows)
            num_test = max(1, round(test_size * len(order)))
            if num_test >= len(order):
                raise ValueError(
                    f"{place / file}: test_size={test_size} of {len(order)} rows leaves nothing to train on"
                )
            rows = np.sort(order[num_test:] if train else order[:num_test])
        numbers = np.stack([numbers_of(here, name, columns[name]) for name in inputs], axis=1)
        self.data = torch.from_numpy(numbers[rows])
        self.facts = {"column_names": inputs}
        if classes:
            self.classes = sorted_classes({*_class_names(place / file, names[0], first[names[0]])})
            number_of = {name: number for number, name in enumerate(self.classes)}
            values = _class_names(here, names[0], columns[names[0]])
            if strange := sorted({*values} - {*number_of}):
                raise ValueError(f"{here}: {names[0]} is {strange[0]}, which {file} does not have")
            self.targets = torch.tensor([number_of[values[row]] for row in rows.tolist()])
        else:
            numbers = np.stack([numbers_of(here, name, columns[name]) for name in names], axis=1)[rows]
            self.target_names = names
            self.targets = torch.from_numpy(numbers[:, 0] if len(names) == 1 else numbers)


def numbers_of(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return a column as float32; strings are parsed as decimal numbers.

    Raises:
        ValueError: A row does not contain a finite number.
    """
    numbers = _parse_numbers(path, name, values) if values.dtype.kind in "OU" else values
    if numbers.dtype.kind not in "iufb":
        raise ValueError(f"{path}: column {name} is {values.dtype}, not numbers; select columns by inputs")
    with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
        found: NDArray[np.float32] = numbers.astype(np.float32)
    if strange := np.flatnonzero(~np.isfinite(found)).tolist():
        raise ValueError(
            f"{path}: column {name} is {values[strange[0]]} in row {strange[0] + 1}; must be a number, of float32"
        )
    return found


def _parse_numbers(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the numbers in a column of strings."""
    cells = values.tolist()
    try:
        return _numbers_from_strings(cells)
    except ValueError:
        begin, end = 0, len(cells)  # binary search for the first invalid cell
        while end - begin > 1:
            middle = (begin + end) // 2
            try:
                _numbers_from_strings(cells[begin:middle])
                begin = middle
            except ValueError:
                end = middle
    wrong = cells[begin]
    hint = "; decimals are written with a point" if isinstance(wrong, str) and "," in wrong else ""
    raise ValueError(
        f"{path}: column {name} is {str(wrong)!r} in row {begin + 1}, not a number{hint}; select columns by inputs"
    )


def _numbers_from_strings(cells: list[Any]) -> NDArray[np.float64]:
    """Return parsed numbers; unlike `float`, NumPy's text reader accepts ASCII digits only, and no underscores."""
    if not all(isinstance(cell, str) and cell for cell in cells):
        raise ValueError("an empty cell, which the reader would skip")
    numbers = np.loadtxt(cells, dtype=np.float64, comments=None, delimiter="\x1f", ndmin=1)
    if numbers.shape != (len(cells),):
        raise ValueError("a cell with a delimiter")
    return numbers


def _class_names(path: Path, name: str, values: NDArray[Any]) -> list[str]:
    """Return the class name of each row.

    Raises:
        ValueError: A row has no class.
    """
    names, cells = [], values.tolist() if values.dtype.kind in "iufbOU" else list(values)
    for row, value in enumerate(cells, start=1):
        is_whole = isinstance(value, float) and value.is_integer()
        if not (isinstance(value, str | int) or is_whole) or value == "":
            raise ValueError(
                f"{path}: column {name} is {value!r} in row {row}; must be a class: a text, a whole number, true or false"
            )
        names.append(str(int(value)) if is_whole else str(value))
    return names


def sorted_classes(names: set[str]) -> list[str]:
    """Return sorted class names: as integers if all are integers in canonical form, otherwise as strings."""
    return sorted(names, key=int if all(map(CANONICAL_INTEGER.fullmatch, names)) else None)

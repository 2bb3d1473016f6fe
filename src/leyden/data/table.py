"""Tables: named columns of a file. Shapes: N rows, F columns that are inputs, T that are targets."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

SUFFIXES = (".csv", ".parquet", ".npz")


class Table(Dataset[None]):
    """Rows of a table: `data`, (N, F) float32, and `targets`, numbers, (N,) or (N, T) float32, or classes, (N,) int64.

    Args:
        root: Folder of the files.
        train: Whether it is the training set.
        download: Not used: files of one's own are there.
        file: Name in that folder: .csv with a line of names, .parquet, or .npz with one array per column.
        test_file: The same of the test set; None: it is cut from `file`.
        test_size: Part of the rows of `file` that is cut off as test set, always the same, in (0, 1).
        inputs: Names of columns; None: all that are no targets.
        targets: Name of the column that is predicted, or a list of those.
        classes: Whether the target is a class, a text or a whole number, and no number.

    Raises:
        OSError: There is no such file.
        ValueError: A column is not there, or holds what is no number; a row lacks a value.
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
            raise ValueError(f"targets={targets}: must be a name, or several where they are no classes")
        first = read_columns(Path(root), file)
        inputs = [name for name in first if name not in names] if inputs is None else list(inputs)
        if not inputs:
            raise ValueError(f"{file}: has no column but the targets")
        for name in (*inputs, *names):
            if name not in first:
                raise ValueError(f"{file}: has no column {name}; it has {', '.join(first)}")
        here = file if train or test_file is None else test_file
        columns = first if here == file else read_columns(Path(root), here)
        rows = np.arange(len(columns[names[0]]))
        if test_file is None:
            order = np.random.default_rng(0).permutation(rows)
            num_test = max(1, round(test_size * len(order)))
            rows = np.sort(order[num_test:] if train else order[:num_test])
        numbers = np.stack([numbers_of(here, name, columns[name]) for name in inputs], axis=1)
        self.data = torch.from_numpy(numbers[rows])
        self.facts = {"column_names": inputs}
        if classes:
            _check_classes(file, names[0], first[names[0]])
            _check_classes(here, names[0], columns[names[0]])
            known = np.unique(first[names[0]])
            values = columns[names[0]][rows]
            if strange := sorted(map(str, {*values.tolist()} - {*known.tolist()})):
                raise ValueError(f"{test_file}: {names[0]} is {strange[0]}, which {file} does not have")
            self.classes = [str(name) for name in known]
            self.targets = torch.from_numpy(np.searchsorted(known, values))
        else:
            numbers = np.stack([numbers_of(here, name, columns[name]) for name in names], axis=1)[rows]
            self.target_names = names
            self.targets = torch.from_numpy(numbers[:, 0] if len(names) == 1 else numbers)


def read_columns(root: Path, file: str) -> dict[str, NDArray[Any]]:
    """The columns of a table by name, each of numbers or of texts, shape (N,).

    Raises:
        OSError: There is no such file.
        ValueError: It is none of these, or lies elsewhere.
    """
    path = root / file
    if path.suffix not in SUFFIXES or not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"file={file}: must be the name of a {', '.join(SUFFIXES)} file in root={root}")
    if not path.is_file():
        raise FileNotFoundError(f"root={root}: there is no {file}")
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            columns: Mapping[str, Any] = dict(arrays)
    elif path.suffix == ".parquet":
        columns = _parquet(path)
    else:
        columns = _csv(path)
    if not all(len(values) for values in columns.values()):
        raise ValueError(f"{path}: has no row")
    if len({values.shape for values in columns.values()}) != 1 or any(v.ndim != 1 for v in columns.values()):
        raise ValueError(f"{path}: must have columns of one length")
    return dict(columns)


def _csv(path: Path) -> dict[str, NDArray[Any]]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        try:
            names, *rows = [row for row in lines if row] or [[]]
        except csv.Error as error:  # a field without an end; to Python 3.10 a NUL, too
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if len({*names}) < len(names):
        raise ValueError(f"{path}: has two columns of one name")
    if not names or not rows:
        raise ValueError(f"{path}: has no row; must have a line of names, and one per sample")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ValueError(f"{path}, line {number}: has {len(row)} values for {len(names)} columns")
    return {name: _typed(np.array(column)) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _typed(texts: NDArray[Any]) -> NDArray[Any]:
    for kind in (np.int64, np.float64):
        try:
            return texts.astype(kind)
        except (ValueError, OverflowError):
            continue
    return texts


def _parquet(path: Path) -> dict[str, NDArray[Any]]:
    try:
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: pyarrow is not installed; pip install -e '.[parquet]' installs it") from error
    table = parquet.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def numbers_of(file: str, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """A column as float32.

    Raises:
        ValueError: A row of it holds no finite number.
    """
    if values.dtype.kind not in "iufb":
        found = ((row, value) for row, value in enumerate(values, start=1) if not _is_number(value))
        row, wrong = next(found, (1, values[0]))
        raise ValueError(
            f"{file}: column {name} is {str(wrong)!r} in row {row}, no number; inputs names those to take"
        )
    numbers = values.astype(np.float32)
    if strange := np.flatnonzero(~np.isfinite(numbers)).tolist():
        raise ValueError(f"{file}: column {name} is {values[strange[0]]} in row {strange[0] + 1}; must be a number")
    return numbers


def _check_classes(file: str, name: str, values: NDArray[Any]) -> None:
    """Make sure that each row has a class.

    Raises:
        ValueError: One has none.
    """
    for row, value in enumerate(values.tolist(), start=1):
        if value is None or value == "" or value != value:
            raise ValueError(f"{file}: column {name} is {value!r} in row {row}; must be a class")


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True

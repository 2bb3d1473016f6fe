"""Tables: named columns of a CSV or Parquet file.

Shapes: N rows, F input columns, T target columns.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from leyden.config.terminal import one_line, warn
from leyden.files.fetch import decode_text, digest_of, read_file
from leyden.run.process import is_main_process

SUFFIXES = (".csv", ".parquet")
INDICES = ("", "__index_level_0__")  # pandas' names for its row index, in CSV and in Parquet
# ASCII digits without underscores, unlike `float`; integers of class names are in canonical form.
NUMBER = re.compile(r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *", re.ASCII)
MAX_CATEGORIES = 1000  # of a column; a column of names or of numbers has more
CANONICAL_INTEGER = re.compile("0|-?[1-9][0-9]{0,99}")


def read_columns(root: Path, file: str) -> tuple[dict[str, NDArray[Any]], str]:
    """Return the columns of a table by name, each of numbers or of strings, shape (N,), and the file's SHA-256.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not a table, is damaged, or is outside `root`.
    """
    path = root / file
    if path.suffix not in SUFFIXES:
        raise ValueError(f"file={file}: must be the name of a {' or '.join(SUFFIXES)} file in root={root}")
    content = read_file(root, file)
    names, columns = (_read_csv if path.suffix == ".csv" else _read_parquet)(path, content)
    if len({*names}) < len(names):
        raise ValueError(f"{path}: has two columns with the same name")
    if not columns or not len(columns[0]):
        raise ValueError(f"{path}: has no row; must have named columns, and a row per sample")
    return dict(zip(names, columns, strict=True)), digest_of(content)


def _read_csv(path: Path, content: bytes) -> tuple[list[str], list[NDArray[Any]]]:
    text = decode_text(path, content)
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    names: list[str] = []
    rows: list[list[str]] = []
    try:
        for row in lines:
            if not names:
                names = row
                if len(names) == 1 and (found := {*";\t|"} & {*names[0]}):
                    raise ValueError(
                        f"{path}: is separated by {min(found)!r}; must be separated by commas, with decimal points: "
                        "convert it, such as by pandas.read_csv(FILE, sep=None, engine='python', decimal=',').to_csv(FILE, index=False)"
                    )
            elif row and len(row) != len(names):
                raise ValueError(f"{path}, line {lines.line_num}: has {len(row)} values for {len(names)} columns")
            elif row:
                rows.append(row)
    except csv.Error as error:  # an unterminated quote, or text after a closing quote
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if rows and not text.endswith(("\n", "\r")) and is_main_process():
        warn(f"{path}: has no line end after its last row; if the file is truncated, the last value is wrong")
    return names, [np.array(column, dtype=object) for column in zip(*rows, strict=True)]


def _read_parquet(path: Path, content: bytes) -> tuple[list[str], list[NDArray[Any]]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise ValueError(f"{path}: pyarrow is not installed; pip install 'leyden[parquet]' installs it") from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(content), page_checksum_verification=True)
        return table.column_names, [column.to_numpy() for column in table.columns]
    except Exception as error:  # pyarrow raises many types
        why = str(error).partition("\n")[0].strip().rstrip(".") or type(error).__name__
        raise ValueError(f"{path}: can't be read ({why}); must be a whole Parquet file") from error


class Table(Dataset[None]):
    """Table rows as a dataset, with tensors `data` and `targets`.

    `data` has shape (N, F), float32: the columns of numbers, then a column of 0 and 1 for each category of each of
    `categories`. `targets` are numbers, (N,) or (N, T), float32, or classes, (N,), int64.

    Args:
        root: Folder of the files.
        train: Whether to read the training set.
        download: Ignored; a user's own file is never downloaded.
        file: File name in `root`: .csv with a header line, or .parquet.
        test_file: File name of the test set; None: the test set is cut from `file`.
        test_size: Fraction of the rows in `file` that is the test set, always the same rows, in (0, 1).
        inputs: Names of the input columns; None: all that are not targets.
        categories: Names of input columns whose values are categories, as classes are. The training set, validation
            included, determines them; a row of another category has 0 in all columns, and a line warns.
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
        categories: str | Sequence[str] | None = None,
    ) -> None:
        if not isinstance(test_size, float) or not 0 < test_size < 1:
            raise ValueError(f"test_size={test_size}: must be a part in (0, 1)")
        names = [targets] if isinstance(targets, str) else list(targets)
        if not names or (classes and len(names) > 1):
            raise ValueError(f"targets={targets}: must be a column, or several columns of numbers")
        path = Path(root, file)
        columns, digest = read_columns(Path(root), file)
        self.digests = {file: digest}
        if inputs is None:
            inputs = [name for name in columns if name not in names]
            if index := [name for name in inputs if name in INDICES]:
                raise ValueError(
                    f"{path}: column {index[0]!r} is pandas' index; save without it, or select columns by inputs"
                )
        inputs, chosen = list(inputs), [categories] if isinstance(categories, str) else list(categories or ())
        if not inputs:
            raise ValueError(f"{path}: has no column but the targets")
        if twice := sorted({name for name in inputs if name in names or inputs.count(name) > 1}):
            raise ValueError(f"inputs={inputs}: {twice[0]} is the target, or stands twice")
        _require(path, columns, [*inputs, *chosen, *names])
        if other := sorted({*chosen} - {*inputs}):
            raise ValueError(f"categories={other}: must be among the inputs, {', '.join(inputs)}")
        if classes:
            self.classes = sorted_classes({*_class_names(path, names[0], columns[names[0]])})
        rows: Any = slice(None)
        in_training = _rows(path, len(columns[names[0]]), test_size, train=True) if test_file is None else rows
        self.categories = {name: _categories(path, name, columns[name], in_training) for name in chosen}
        self.num_one_hot = sum(map(len, self.categories.values()))
        if test_file is None:
            rows = in_training if train else _rows(path, len(columns[names[0]]), test_size, train=False)
        elif not train:
            path = Path(root, test_file)
            columns, _ = read_columns(Path(root), test_file)
            _require(path, columns, [*inputs, *names])
        whole = values_of(path, columns, inputs, self.categories)
        of_rows = {
            name: np.asarray(column, object if name in chosen else None)[rows] for name, column in whole.items()
        }
        self.data = to_inputs(path, of_rows, self.categories)
        self.facts = {"column_names": inputs, **({"categories": self.categories} if chosen else {})}
        if classes:
            number_of = {name: number for number, name in enumerate(self.classes)}
            values = _class_names(path, names[0], columns[names[0]])
            if strange := sorted({*values} - {*number_of}):
                raise ValueError(f"{path}: {names[0]} is {strange[0]}, which {file} does not have")
            self.targets = torch.tensor([number_of[value] for value in values])[rows]
        else:
            self.target_names = names
            numbers_NT = _numbers(path, columns, names)[rows]
            self.targets = numbers_NT[:, 0] if len(names) == 1 else numbers_NT


def _require(path: Path, columns: dict[str, NDArray[Any]], names: Sequence[str]) -> None:
    for name in names:
        if name not in columns:
            raise ValueError(f"{path}: has no column {name}; it has {', '.join(columns)}")


def _rows(path: Path, num_rows: int, test_size: float, *, train: bool) -> NDArray[np.int64]:
    """Return the rows of the training or the test set, which follow from their number alone."""
    order = np.random.default_rng(0).permutation(num_rows)
    num_test = max(1, round(test_size * num_rows))
    if num_test >= num_rows:
        raise ValueError(f"{path}: test_size={test_size} of {num_rows} rows leaves nothing to train on")
    return np.sort(order[num_test:] if train else order[:num_test])


Categories = Mapping[str, Sequence[str]]  # by column


def _categories(path: Path, name: str, values: NDArray[Any], rows: Any) -> list[str]:
    """Return the sorted categories of a column, in these rows.

    Raises:
        ValueError: There are so many that the column must be something else, or a row has none.
    """
    found = sorted_classes({*np.array(_class_names(path, name, values), dtype=object)[rows]})
    if len(found) > MAX_CATEGORIES:
        raise ValueError(
            f"{path}: column {name} has {len(found):,} categories; must have {MAX_CATEGORIES:,} or fewer"
        )
    return found


def values_of(
    path: Path, columns: dict[str, NDArray[Any]], names: Sequence[str], categories: Categories
) -> dict[str, list[Any]]:
    """Return the values of input columns: numbers, or texts of those that are categories.

    Raises:
        ValueError: A row lacks a value.
    """
    readers: dict[str, Any] = dict.fromkeys(categories, _class_names)
    return {name: readers.get(name, numbers_of)(path, name, columns[name]) for name in names}


def to_inputs(path: Path, values: Mapping[str, Any], categories: Categories) -> Tensor:
    """Return the inputs of rows, shape (N, F): numbers, then categories as columns of 0 and 1; a line warns of unknown ones."""
    numbers = [torch.as_tensor(column)[:, None] for name, column in values.items() if name not in categories]
    return torch.cat(
        [*numbers, *(_one_hot(path, name, values[name], known) for name, known in categories.items())], 1
    )


def _one_hot(path: Path, name: str, values: Iterable[str], known: Sequence[str]) -> Tensor:
    number_of = {category: number for number, category in enumerate(known)}
    strange = [value for value in values if value not in number_of]
    if strange and is_main_process():
        warn(
            f"{path}: column {name} has categories that training does not have, such as {one_line(repr(strange[0]))} "
            f"(rows: {len(strange):,}); their columns of 0 and 1 are all 0"
        )
    numbers = torch.tensor([number_of.get(value, len(known)) for value in values])
    return one_hot(numbers, len(known) + 1)[:, :-1].float()


def _numbers(path: Path, columns: dict[str, NDArray[Any]], names: Sequence[str]) -> Tensor:
    return torch.from_numpy(np.stack([numbers_of(path, name, columns[name]) for name in names], axis=1))


def numbers_of(path: Path, name: str, values: NDArray[Any]) -> NDArray[np.float32]:
    """Return a column as float32; strings are parsed as decimal numbers.

    Raises:
        ValueError: A row does not contain a finite number.
    """
    numbers = values
    if values.dtype.kind == "O":
        for row, cell in enumerate(values.tolist(), start=1):
            if not (isinstance(cell, str) and NUMBER.fullmatch(cell)):
                hint = "; decimals are written with a point" if isinstance(cell, str) and "," in cell else ""
                raise ValueError(
                    f"{path}: column {name} is {str(cell)!r} in row {row}, not a number{hint}; select columns by inputs, "
                    f"or name it in categories"
                )
        numbers = values.astype(np.float64)
    if numbers.dtype.kind not in "iufb":
        raise ValueError(f"{path}: column {name} is {values.dtype}, not numbers; select columns by inputs")
    with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
        found: NDArray[np.float32] = numbers.astype(np.float32)
    if strange := np.flatnonzero(~np.isfinite(found)).tolist():
        raise ValueError(
            f"{path}: column {name} is {values[strange[0]]} in row {strange[0] + 1}; must be a number, of float32"
        )
    return found


def _class_names(path: Path, name: str, values: NDArray[Any]) -> list[str]:
    """Return the class or category of each row.

    Raises:
        ValueError: A row has none.
    """
    names, cells = [], values.tolist() if values.dtype.kind in "iufbO" else list(values)
    for row, value in enumerate(cells, start=1):
        is_whole = isinstance(value, float) and value.is_integer()
        if not (isinstance(value, str | int) or is_whole) or value == "":
            raise ValueError(
                f"{path}: column {name} is {one_line(repr(value))} in row {row}; must be a class or category: a text, a whole number, true or false"
            )
        names.append(str(int(value)) if is_whole else str(value))
    return names


def sorted_classes(names: set[str]) -> list[str]:
    """Return sorted class names: as integers if all are integers in canonical form, otherwise as strings."""
    return sorted(names, key=int if all(map(CANONICAL_INTEGER.fullmatch, names)) else None)

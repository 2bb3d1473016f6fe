"""Tables: named columns of a CSV file.

Shapes: N rows, F input columns, T target columns.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot
from torch.utils.data import Dataset

from leyden.config.terminal import one_line, some_of, warn
from leyden.data.neighbours import ordered_by
from leyden.data.splits import first_groups, group_numbers
from leyden.data.transforms import check_integers
from leyden.files import decode_text, digest_of, read_file
from leyden.run.process import is_main_process

# ASCII digits without underscores, unlike `float`; integers of class names are in canonical form.
NUMBER = re.compile(r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *", re.ASCII)
CANONICAL_INTEGER = re.compile("0|-?[1-9][0-9]{0,99}")
Columns = dict[str, list[str]]  # the cells of each column
Categories = Mapping[str, Sequence[str]]  # by column


def read_columns(path: Path) -> tuple[Columns, str]:
    """Return the cells of a CSV file by column, and the file's SHA-256.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not a table with a header and a row.
    """
    content = read_file(path)
    lines = csv.reader(io.StringIO(decode_text(path, content), newline=""), strict=True)
    rows: list[list[str]] = []
    try:
        for row in filter(None, lines):
            if rows and len(row) != len(rows[0]):
                raise ValueError(
                    f"{path}, line {lines.line_num}: has {len(row)} values for {len(rows[0])} columns"
                )
            rows.append(row)
    except csv.Error as error:  # an unterminated quote, or text after a closing quote
        raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
    if len(rows) < 2 or len({*rows[0]}) < len(rows[0]):
        raise ValueError(
            f"{path}: must have columns of different names, separated by commas, and a row per sample"
        )
    return {name: list(cells) for name, *cells in zip(*rows, strict=True)}, digest_of(content)


class Table(Dataset[None]):
    """Table rows as a dataset, with tensors `data` and `targets`.

    `data` has shape (N, F), float32: the columns of numbers, then a column of 0 and 1 for each category of each of
    `categories`. `targets` are numbers, (N,) or (N, T), float32, or classes, (N,), int64.

    Args:
        root: Folder of the files.
        train: Whether to read the training set.
        download: Ignored; a user's own file is never downloaded.
        file: File name in `root`: .csv with a header line.
        test_file: File name of the test set; None: the test set is cut from `file`.
        test_size: Fraction of the rows in `file` that is the test set, always the same rows, in (0, 1).
        inputs: Names of the input columns; None: all that are neither targets nor the group.
        split: Where the test set, and then the validation split, are cut from `file`: `random`: anywhere; `order`: at
            its end. None: `random`, and a line asks if the rows look ordered.
        gap: With `order`, the number of rows left out before each of the two, as many as share something with the next.
        group: Name of a column, as of patients: rows of one value are never in several splits. It is no input.
        categories: Names of input columns whose values are categories, as classes are. The training set, validation
            included, determines them; a row of another category has 0 in all columns, and a line warns.
        targets: Name of the target column, or a list of names.
        classes: Whether the target is a class. Each cell is a text, so `01` and `1` are different classes. Classes
            are sorted as integers if all of them are, otherwise as texts.

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
        split: str | None = None,
        gap: int = 0,
        group: str | None = None,
    ) -> None:
        names = [targets] if isinstance(targets, str) else list(targets)
        if not names or (classes and len(names) > 1):
            raise ValueError(f"targets={targets}: must be a column, or several columns of numbers")
        check_split(split, gap, group)
        path = Path(root, file)
        columns, digest = read_columns(path)
        self.digests = {file: digest}
        if inputs is None:
            inputs = [name for name in columns if name not in (*names, group)]
        inputs = list(inputs)
        chosen = [categories] if isinstance(categories, str) else list(categories or ())
        if "" in inputs:
            raise ValueError(
                f"{path}: column '' is pandas' index; save without it, or select columns by inputs"
            )
        if not inputs or {*inputs} & {*names} or {*chosen} - {*inputs}:
            raise ValueError(
                f"inputs={inputs}: must be at least one, without targets={names}, and with categories={chosen}"
            )
        used = [*inputs, *names] if group is None else [*inputs, *names, group]
        require_columns(path, columns, used)
        groups = None if group is None else _texts(path, group, columns[group])
        in_training = rows = np.arange(len(columns[names[0]]))
        if test_file is None:
            in_training, in_test = cut_test_set(path, len(rows), test_size, split, gap, groups)
            rows = in_training if train else in_test
        if split == "order":
            self.overlap = gap
        self.random_split = split == "random"
        others = [name for name in columns if name not in names]
        column = ordered_by(columns, others)
        if column:
            self.looks = f"{file}: rows look ordered by {one_line(column)}"
        self.categories = {
            name: sorted_classes({*_texts(path, name, columns[name])[in_training]})
            for name in chosen
        }
        self.facts = {"column_names": inputs, **({"categories": self.categories} if chosen else {})}
        if classes:
            self.classes = sorted_classes({*_texts(path, names[0], columns[names[0]])})
        if test_file is not None and not train:
            path = Path(root, test_file)
            columns, _ = read_columns(path)
            require_columns(path, columns, used)
            rows = np.arange(len(columns[names[0]]))
            if group is not None:
                _check_other_groups(path, group, groups, columns[group])
                groups = _texts(path, group, columns[group])
        if groups is not None:
            self.groups = groups[rows].tolist()
        values = values_of(path, columns, inputs, self.categories)
        self.data = to_inputs(
            path, {name: column[rows] for name, column in values.items()}, self.categories
        )
        if not classes:
            self.target_names = names
            numbers_NT = np.stack([_numbers(path, name, columns[name]) for name in names], axis=1)[
                rows
            ]
            self.targets = torch.from_numpy(numbers_NT[:, 0] if len(names) == 1 else numbers_NT)
            return
        number_of = {name: number for number, name in enumerate(self.classes)}
        texts_N = _texts(path, names[0], columns[names[0]])[rows]
        if strange := sorted({*texts_N} - {*number_of}):
            raise ValueError(f"{path}: {names[0]} is {strange[0]}, which {file} does not have")
        self.targets = torch.tensor([number_of[text] for text in texts_N])


def check_split(split: str | None, gap: int, group: str | None) -> None:
    """Check that the keys of a split have an effect together.

    Raises:
        ValueError: A value is wrong, or has no effect.
    """
    check_integers(gap=(gap, 0))
    if split not in (None, "random", "order"):
        raise ValueError(
            f"split={split}: must be random or order; group=COLUMN keeps rows of one value together"
        )
    if gap and split != "order":
        raise ValueError(f"gap={gap}: leaves out rows between the parts of split=order only")
    if group is not None and split == "order":
        raise ValueError(
            f"group={group}: whole groups are drawn at random; remove split=order, or group"
        )


def cut_test_set(
    path: Path,
    num_rows: int,
    test_size: float,
    split: str | None,
    gap: int,
    groups: NDArray[Any] | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows of the training set and those of the test set, always the same ones.

    Raises:
        ValueError: Nothing is left to train on.
    """
    num_test = max(1, round(test_size * num_rows))
    random = np.random.default_rng(0)
    if groups is not None:
        numbers_N = group_numbers(groups.tolist(), num_rows)
        order = random.permutation(int(numbers_N.max()) + 1)
        is_test = first_groups(numbers_N, torch.from_numpy(order), num_test).numpy()
        in_training = np.flatnonzero(~is_test)
        in_test = np.flatnonzero(is_test)
    elif split == "order":
        begin = num_rows - num_test
        in_training = np.arange(max(0, begin - gap))
        in_test = np.arange(begin, num_rows)
    else:
        order = random.permutation(num_rows)
        in_training = np.sort(order[num_test:])
        in_test = np.sort(order[:num_test])
    if not len(in_training):
        raise ValueError(
            f"{path}: test_size={test_size} of {num_rows} rows leaves nothing to train on"
        )
    return in_training, in_test


def _check_other_groups(path: Path, group: str, there: Any, here: Sequence[str]) -> None:
    """Check that a file of test rows has other groups than the training set.

    Raises:
        ValueError: It shares one.
    """
    both = sorted({*there} & {*here})
    if both:
        raise ValueError(f"{path}: {group} has values of the training set: {some_of(both)}")


def require_columns(path: Path, columns: Columns, names: Sequence[str]) -> None:
    """Check that a table has these columns.

    Raises:
        ValueError: It lacks one.
    """
    if missing := [name for name in names if name not in columns]:
        raise ValueError(f"{path}: has no column {missing[0]}; it has {', '.join(columns)}")


def values_of(
    path: Path, columns: Columns, names: Sequence[str], categories: Categories
) -> dict[str, NDArray[Any]]:
    """Return the values of input columns, shape (N,): numbers, float32, or texts of those that are categories.

    Raises:
        ValueError: A row lacks a value.
    """
    return {
        name: (_texts if name in categories else _numbers)(path, name, columns[name])
        for name in names
    }


def to_inputs(path: Path, values: Mapping[str, NDArray[Any]], categories: Categories) -> Tensor:
    """Return the inputs of rows, shape (N, F): numbers, then categories as columns of 0 and 1; a line warns of unknown ones."""
    parts = [
        torch.from_numpy(column)[:, None]
        for name, column in values.items()
        if name not in categories
    ]
    for name, known in categories.items():
        number_of = {category: number for number, category in enumerate(known)}
        strange = [text for text in values[name] if text not in number_of]
        if strange and is_main_process():
            warn(
                f"{path}: column {name} has categories that training does not have, such as {one_line(repr(strange[0]))} "
                f"(rows: {len(strange):,}); their columns of 0 and 1 are all 0"
            )
        numbers_N = torch.tensor([number_of.get(text, len(known)) for text in values[name]])
        parts.append(one_hot(numbers_N, len(known) + 1)[:, :-1].float())
    return torch.cat(parts, 1)


def _numbers(path: Path, name: str, cells: list[str]) -> NDArray[Any]:
    """Return a column as float32.

    Raises:
        ValueError: A cell is not a finite decimal number.
    """
    with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
        numbers_N = np.array([float(c) if NUMBER.fullmatch(c) else np.nan for c in cells]).astype(
            np.float32
        )
    if strange := np.flatnonzero(~np.isfinite(numbers_N)).tolist():
        cell = cells[strange[0]]
        raise ValueError(
            f"{path}: column {name} is {cell!r} in row {strange[0] + 1}, not a number of float32; select columns by "
            "inputs, or name it in categories"
        )
    return numbers_N


def _texts(path: Path, name: str, cells: list[str]) -> NDArray[Any]:
    """Return the class or category of each row.

    Raises:
        ValueError: A row has none.
    """
    if "" in cells:
        raise ValueError(
            f"{path}: column {name} is '' in row {cells.index('') + 1}; must be a class or category"
        )
    return np.array(cells, dtype=object)


def sorted_classes(names: set[str]) -> list[str]:
    """Return sorted class names: as integers if all are integers in canonical form, otherwise as strings."""
    return sorted(names, key=int if all(map(CANONICAL_INTEGER.fullmatch, names)) else None)

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

from leyden.base.terminal import one_line, warn
from leyden.data.neighbours import ordered_by
from leyden.data.splits import check_groups_apart, first_groups, group_numbers
from leyden.data.transforms import check_integers, number_by_name
from leyden.files import decode_text, digest_of, read_file
from leyden.run.process import is_main_process

# ASCII digits without underscores, unlike `float`; integers of class names are in canonical form.
NUMBER = re.compile(r" *[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? *", re.ASCII)
CANONICAL_INTEGER = re.compile("0|-?[1-9][0-9]{0,99}")
Categories = Mapping[str, Sequence[str]]  # by column


class Cells:
    """The cells of a CSV file, by column.

    Args:
        path: The file.

    Raises:
        OSError: There is no such file.
        ValueError: The file is not a table with a header and a row.
    """

    def __init__(self, path: Path) -> None:
        content = read_file(path)
        text = decode_text(path, content)
        lines = csv.reader(io.StringIO(text, newline=""), strict=True)
        header: list[str] = []
        rows: list[list[str]] = []
        try:
            for row in filter(None, lines):
                header = header or row
                if len(row) != len(header):
                    raise ValueError(
                        f"{path}, line {lines.line_num}: has {len(row)} values for {len(header)} "
                        "columns"
                    )
                rows.append(row)
        except csv.Error as error:  # an unterminated quote, or text after a closing quote
            raise ValueError(f"{path}, line {lines.line_num}: {error}") from None
        if len(rows) < 2 or len({*header}) < len(header):
            raise ValueError(
                f"{path}: must have columns of different names, separated by commas, and a row "
                "per sample"
            )
        self.path = path
        self.digest = digest_of(content)
        self.num_rows = len(rows) - 1
        self.columns: dict[str, list[str]] = {}
        for name, *cells in zip(*rows, strict=True):
            self.columns[name] = cells

    def require(self, names: Sequence[str]) -> None:
        """Check that the file has these columns.

        Raises:
            ValueError: It lacks one.
        """
        for name in names:
            if name not in self.columns:
                known = ", ".join(self.columns)
                raise ValueError(f"{self.path}: has no column {name}; it has {known}")

    def numbers(self, name: str) -> NDArray[np.float32]:
        """Return a column as float32.

        Raises:
            ValueError: A cell is not a finite decimal number.
        """
        cells = self.columns[name]
        numbers = [float(cell) if NUMBER.fullmatch(cell) else np.nan for cell in cells]
        with np.errstate(over="ignore"):  # overflow gives infinity, which is refused below
            numbers_N = np.array(numbers).astype(np.float32)
        strange = np.flatnonzero(~np.isfinite(numbers_N))
        if len(strange):
            row = int(strange[0])
            raise ValueError(
                f"{self.path}: column {name} is {cells[row]!r} in row {row + 1}, not a number of "
                "float32; "
                "select columns by inputs, or name it in categories"
            )
        return numbers_N

    def texts(self, name: str) -> NDArray[Any]:
        """Return the class or category of each row.

        Raises:
            ValueError: A row has none.
        """
        cells = self.columns[name]
        if "" in cells:
            raise ValueError(
                f"{self.path}: column {name} is '' in row {cells.index('') + 1}; must be a class "
                "or category"
            )
        return np.array(cells, dtype=object)

    def inputs(self, names: Sequence[str], categories: Categories, rows: Any) -> Tensor:
        """Return the inputs of rows, shape (N, F): numbers, then categories as columns of 0 and 1.

        A line warns of unknown categories.

        Args:
            names: Names of the columns.
            categories: The known categories of columns that are not numbers.
            rows: Indices of the rows.
        """
        parts = []
        for name in names:
            if name not in categories:
                numbers_N = torch.from_numpy(self.numbers(name)[rows])
                parts.append(numbers_N[:, None])
        for name, known in categories.items():
            number = number_by_name(known)
            num = len(known)
            texts = self.texts(name)[rows]
            numbers_N = torch.tensor([number.get(text, num) for text in texts])
            columns_NK = one_hot(numbers_N, num + 1)[:, :-1]
            parts.append(columns_NK.float())
            strange = [text for text in texts if text not in number]
            if strange and is_main_process():
                example = one_line(repr(strange[0]))
                warn(
                    f"{self.path}: column {name} has categories that training does not have, "
                    f"such as {example} "
                    f"(rows: {len(strange):,}); their columns of 0 and 1 are all 0"
                )
        return torch.cat(parts, 1)


class Table(Dataset[None]):
    """Table rows as a dataset, with tensors `data` and `targets`.

    `data` has shape (N, F), float32: the columns of numbers, then a column of 0 and 1 for each
    category of each of `categories`. `targets` are numbers, (N,) or (N, T), float32, or classes,
    (N,), int64.

    Args:
        root: Folder of the files.
        train: Whether to read the training set.
        download: Ignored; a user's own file is never downloaded.
        file: File name in `root`: .csv with a header line.
        test_file: File name of the test set; None: the test set is cut from `file`.
        test_size: Fraction of the rows in `file` that is the test set, always the same rows, in (0,
            1).
        inputs: Names of the input columns; None: all that are neither targets nor the group.
        split: Where the test set, and then the validation split, are cut from `file`: `random`:
            anywhere; `order`: at its end. None: `random`, and a line asks if the rows look ordered.
        gap: With `order`, the number of rows left out before each of the two, as many as share
            something with the next.
        group: Name of a column, as of patients: rows of one value are never in several splits. It
            is no input.
        categories: Names of input columns whose values are categories, as classes are. The training
            set, validation included, determines them; a row of another category has 0 in all
            columns, and a line warns.
        targets: Name of the target column, or a list of names.
        classes: Whether the target is a class. Each cell is a text, so `01` and `1` are different
            classes. Classes are sorted as integers if all of them are, otherwise as texts.

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
        names = as_list(targets)
        chosen = as_list(categories)
        if not names or (classes and len(names) > 1):
            raise ValueError(f"targets={targets}: must be a column, or several columns of numbers")
        check_split(split, gap, group)
        # Read the file, and check that it has the columns.
        cells = Cells(Path(root, file))
        others = [name for name in cells.columns if name not in names]
        if inputs is None:
            inputs = [name for name in others if name != group]
        inputs = [*inputs]
        _check_inputs(cells.path, inputs, names, chosen)
        used = [*inputs, *names, *as_list(group)]
        cells.require(used)
        # Choose the rows.
        groups = None
        if group is not None:
            groups = cells.texts(group)
        in_training = rows = np.arange(cells.num_rows)
        if test_file is None:
            in_training, in_test = cut_test_set(cells, test_size, split, gap, groups)
            rows = in_test
            if train:
                rows = in_training
        # Note what the file and its training rows say of the data.
        self.digests = {file: cells.digest}
        self.random_split = split == "random"
        if split == "order":
            self.overlap = gap
        column = ordered_by(cells.columns, others)
        if column:
            self.looks = f"{file}: rows look ordered by {one_line(column)}"
        self.facts: dict[str, Any] = {"column_names": inputs}
        self.categories = _categories_in(cells, chosen, in_training)
        if chosen:
            self.facts["categories"] = self.categories
        if classes:
            self.classes = sorted_classes({*cells.texts(names[0])})
        # Take the rows, of the test set perhaps from a file of its own.
        if test_file is not None and not train:
            cells = _test_cells(Path(root, test_file), used, group, groups)
            rows = np.arange(cells.num_rows)
        if group is not None:
            self.groups = cells.texts(group)[rows].tolist()
        self.data = cells.inputs(inputs, self.categories, rows)
        if classes:
            self.targets = self._class_numbers(cells, names[0], rows, file)
        else:
            self.target_names = names
            self.targets = _target_numbers(cells, names, rows)

    def _class_numbers(self, cells: Cells, name: str, rows: Any, file: str) -> Tensor:
        number = number_by_name(self.classes)
        texts_N = cells.texts(name)[rows]
        strange = sorted({*texts_N} - {*number})
        if strange:
            raise ValueError(f"{cells.path}: {name} is {strange[0]}, which {file} does not have")
        return torch.tensor([number[text] for text in texts_N])


def _categories_in(cells: Cells, names: Sequence[str], rows: Any) -> dict[str, list[str]]:
    """Return the categories that rows have, sorted, by column."""
    found = {}
    for name in names:
        texts = cells.texts(name)[rows]
        found[name] = sorted_classes({*texts})
    return found


def _test_cells(
    path: Path, used: Sequence[str], group: str | None, groups: NDArray[Any] | None
) -> Cells:
    """Return the cells of a test set's own file; no group of the training set may be in it."""
    cells = Cells(path)
    cells.require(used)
    if group is not None and groups is not None:
        check_groups_apart(f"{path}: {group}", groups, cells.columns[group])
    return cells


def _target_numbers(cells: Cells, names: Sequence[str], rows: Any) -> Tensor:
    """Return the targets of rows, shape (N,), or (N, T) for several columns."""
    columns = [torch.from_numpy(cells.numbers(name)[rows]) for name in names]
    if len(names) == 1:
        return columns[0]
    return torch.stack(columns, 1)


def as_list(names: str | Sequence[str] | None) -> list[str]:
    """Return names of columns, of which one may be given as such."""
    if isinstance(names, str):
        return [names]
    return list(names or ())


def _check_inputs(
    path: Path,
    inputs: Sequence[str],
    targets: Sequence[str],
    categories: Sequence[str],
) -> None:
    """Check that there are inputs, that no target is one, and that categories are some of them."""
    if "" in inputs:
        raise ValueError(
            f"{path}: column '' is pandas' index; save without it, or select columns by inputs"
        )
    has_target = not {*inputs}.isdisjoint(targets)
    if not inputs or has_target or not {*inputs}.issuperset(categories):
        raise ValueError(
            f"inputs={inputs}: must be at least one, without targets={targets}, and with "
            f"categories={categories}"
        )


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
    cells: Cells,
    test_size: float,
    split: str | None,
    gap: int,
    groups: NDArray[Any] | None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows of the training set and those of the test set, always the same ones.

    Raises:
        ValueError: Nothing is left to train on.
    """
    num_rows = cells.num_rows
    num_test = max(1, round(test_size * num_rows))
    random = np.random.default_rng(0)
    is_test = np.zeros(num_rows, dtype=bool)
    if groups is not None:
        numbers_N = group_numbers(groups.tolist(), num_rows)
        order = random.permutation(int(numbers_N.max()) + 1)
        is_test = first_groups(numbers_N, torch.from_numpy(order), num_test).numpy()
    elif split == "order":
        is_test[-num_test:] = True
    else:
        order = random.permutation(num_rows)
        is_test[order[:num_test]] = True
    (in_test,) = is_test.nonzero()
    (in_training,) = (~is_test).nonzero()
    in_training = in_training[: max(0, len(in_training) - gap)]
    if not len(in_training):
        raise ValueError(
            f"{cells.path}: test_size={test_size} of {num_rows} rows leaves nothing to train on"
        )
    return in_training, in_test


def sorted_classes(names: set[str]) -> list[str]:
    """Return sorted class names: as integers if all are in canonical form, else as texts."""
    if all(map(CANONICAL_INTEGER.fullmatch, names)):
        return sorted(names, key=int)
    return sorted(names)

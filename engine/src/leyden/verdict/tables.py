"""Tables of runs: how they are read, and which columns and rows make a setting."""

import csv
import fnmatch
import io
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.verdict.groups import Group
from leyden.verdict.numbers import is_finite, number_of, printable_value, value_text

MAX_NAMED_COLUMNS = 5  # columns in an error message
NOT_FINISHED = {"crashed", "failed", "killed", "preempted", "running", "error", "cancelled"}
DATA_NAMES = {"data", "dataset", "data_set", "benchmark"}  # columns whose values can't be mixed
DataRow = dict[str, Any]
DataRows = Iterable[Mapping[str, Any]]
Condition = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


class TableError(ValueError):
    """A table can't be read, or can't be compared as asked."""

    def __init__(self, text: str) -> None:
        super().__init__(printable_value(text))


def read(path: str | Path) -> list[DataRow]:
    """Read a table, CSV with a header. Numbers become numbers; an empty cell is None.

    Cells may be separated by commas, semicolons or tabs. A column without a name, such as an
    index, is left out.

    Raises:
        TableError: The file can't be read as a table.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        delimiter = max(",;\t", key=header.count)
        content = io.StringIO(text, newline="")  # cells may have line breaks
        lines = csv.DictReader(content, delimiter=delimiter, skipinitialspace=True)
        found = [*lines]
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise TableError(f"{path}: can't be read as a table ({why})") from error
    if any(None in row for row in found):
        raise TableError(f"{path}: a row has more cells than the header")
    names = [name for name in lines.fieldnames or () if name]
    for name in names:
        if names.count(name) > 1:
            raise TableError(f"{path}: two columns are named {name}")
    table = []
    for row in found:
        if all(row[name] == name for name in names):
            raise TableError(f"{path}: the header stands in it again, as a row")
        table.append({name: number_of(row[name]) for name in names})
    return table


@dataclass(frozen=True)
class RunTable:
    """The runs of a table, by setting.

    Args:
        rows: The rows.
        metric: Column of the metric.
        sets: The settings on each data set, by its name; one alone without a name.
    """

    rows: Sequence[DataRow]
    metric: str
    sets: Mapping[Hashable, Sequence[Group]]

    @classmethod
    def of(
        cls, rows: DataRows, metric: str, seed: str | None, ignore: Sequence[str], over: str = ""
    ) -> "RunTable":
        """Return a table, with arguments as `verdict.rank` has them."""
        named = [name for name in (seed, over) if name]
        table = records(rows, metric, named)
        columns = setting_columns(table, [metric, *named], ignore)
        by_set: dict[Hashable, list[DataRow]] = {}
        for row in table:
            of_row: Hashable = value_text(row.get(over)) if over else ""
            by_set.setdefault(of_row, []).append(row)
        sets: dict[Hashable, list[Group]] = {}
        for set_name, of_set in by_set.items():
            sets[set_name] = settings_of(of_set, columns, metric, seed)
        return cls(table, metric, sets)

    def side(self, settings: Sequence[Group], condition: Condition, name: str) -> list[Group]:
        """Return the settings that meet a condition.

        Args:
            settings: Those of a data set.
            condition: Values by column, those that do not vary among them; or a function of a row.
            name: The side, as in errors.

        Raises:
            TableError: There is none, or a column of the condition does not exist.
        """
        alike = {}
        for column, value in self.rows[0].items():
            if len({value_text(row.get(column)) for row in self.rows}) == 1:
                alike[column] = value
        found = []
        for setting in settings:
            row = {**alike, **setting.choices}
            if callable(condition):
                is_met = condition(row)
            else:
                _check_columns(condition, row, name)
                is_met = row_key(row, [*condition]) == row_key(condition, [*condition])
            if is_met:
                found.append(setting)
        if not found:
            shown = "…" if callable(condition) else str(condition)
            raise TableError(f"{name}={shown}: no row matches this")
        return found

    def one(self, settings: Sequence[Group], condition: Condition, name: str, why: str) -> Group:
        """Return the one setting that meets a condition.

        Raises:
            TableError: There is none, or several.
        """
        found = self.side(settings, condition, name)
        if len(found) > 1:
            raise TableError(f"{name}: {why}, not {found[0].name} and {found[1].name}")
        return found[0]


def records(rows: Any, metric: str, columns: Sequence[str]) -> list[DataRow]:
    """Return a table's rows as dictionaries, after checking that they have the columns.

    Args:
        rows: Dictionaries, or a data frame of pandas or Polars.
        metric: Column of the metric.
        columns: Other columns that are needed.

    Raises:
        TableError: It is no table, or a column is missing.
    """
    is_lazy = hasattr(rows, "collect") and not hasattr(rows, "iter_rows")
    if is_lazy:
        raise TableError("a lazy frame has no rows yet: call collect() on it")
    if hasattr(rows, "to_dicts"):  # of Polars
        rows = rows.to_dicts()
    elif hasattr(rows, "iterrows"):  # of pandas
        rows = rows.to_dict("records")
    table = []
    for row in rows:
        if not hasattr(row, "keys") or not row:
            raise TableError(
                "a table is a list of dictionaries, or a data frame; verdict.read reads a file"
            )
        # Not all kinds of rows iterate over their keys.
        table.append({str(name): row[name] for name in row.keys()})  # noqa: SIM118
    if not table:
        raise TableError("the table has no rows")
    if metric in columns or len({*columns}) < len(columns):
        why = "the metric, the seed and the data set must be different columns"
        raise TableError(f"{metric}: {why}")
    names = column_names(table)
    for column in [metric, *columns]:
        if column not in names:
            raise TableError(f"no column is named {column}; there are {', '.join(names)}")
    return table


def setting_columns(
    table: Sequence[DataRow],
    others: Iterable[str | None],
    ignore: Sequence[str],
    *,
    is_repeated: bool = True,
) -> list[str]:
    """Return the columns that vary and are settings: not these others, and none that is ignored.

    Raises:
        TableError: Settings are expected to have several rows, and each row is one of its own; or a
            column says how runs ended.
    """
    ignored = [ignore] if isinstance(ignore, str) else [*ignore]
    ignored += [name for name in others if name]
    columns = []
    unique = []  # columns of which each row has its own value
    for name in column_names(table):
        values = {value_text(row.get(name)) for row in table}
        if len(values) < 2 or _is_ignored(name, ignored):
            continue
        _check_setting(table, name)
        columns.append(name)
        if len(values) == len(table):
            unique.append(name)
    if is_repeated and len(table) > 1:
        settings = {row_key(row, columns) for row in table}
        if len(settings) == len(table):
            named = ", ".join((unique or columns)[:MAX_NAMED_COLUMNS])
            why = "each row is a setting of its own"
            raise TableError(f"{why}; ignore= names columns that are none: {named}")
    return columns


def _is_ignored(name: str, ignored: Sequence[str]) -> bool:
    return name in ignored or any(fnmatch.fnmatchcase(name, str(each)) for each in ignored)


def _check_setting(table: Sequence[DataRow], name: str) -> None:
    """Raise a `TableError` if a column says how runs ended, such as `State` of Weights & Biases."""
    words = {str(row.get(name)).lower() for row in table}
    if words & NOT_FINISHED and name.lower() in ("state", "status", "_state"):
        why = "says how runs ended, and is no setting: leave out those that did not finish"
        raise TableError(
            f"{name}: {why}, or empty their cells of the metric, and say ignore={name}"
        )


def settings_of(
    table: Sequence[DataRow], columns: Sequence[str], metric: str, seed: str | None
) -> list[Group]:
    """Return the settings of a table's rows; a gap is a run without a value.

    Raises:
        TableError: A row has no seed, or a value that is no number.
    """
    runs: dict[tuple[str, ...], list[tuple[Any, float | None]]] = {}
    choices: dict[tuple[str, ...], DataRow] = {}
    for number, row in enumerate(table):
        key = row_key(row, columns)
        value = metric_value(row.get(metric), metric)
        name: Any = value_text(row.get(seed)) if seed else number
        if name == "null":
            why = "a row has none, so its pairs are unknown"
            raise TableError(f"{seed}: {why}; seed= ignore={seed} is for runs without seeds")
        if key not in runs:
            choices[key] = {column: row.get(column) for column in columns}
            runs[key] = []
        runs[key].append((name, value))
    return [Group.of(choices[key], of_setting) for key, of_setting in runs.items()]


def metric_value(value: Any, metric: str) -> float | None:
    """Return the value of a metric; None for a gap: an empty cell, a word, or an infinite loss.

    Raises:
        TableError: It is no number, and no gap either, such as 0,98 or 98 %.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        text = str(value)
        if any(character.isdigit() for character in text):
            raise TableError(f"{metric}: {text[:20]} is no number, such as 0.98") from None
        return None
    return number if is_finite(number) else None


def _check_columns(condition: Mapping[str, Any], row: DataRow, name: str) -> None:
    for column in condition:
        if column not in row:
            raise TableError(f"{name}: {column} is no setting; there are {', '.join(row)}")


def data_columns(settings: Iterable[Group]) -> list[str]:
    """Return the columns that name data sets, of those that vary between settings."""
    names = dict.fromkeys(name for setting in settings for name in setting.choices)
    return [name for name in names if name.rpartition(".")[2].lower() in DATA_NAMES]


def mixed_remarks(settings: Iterable[Group]) -> list[str]:
    """Return a remark on each column of data sets that settings are compared across."""
    why = "these rows mix several"
    remarks = []
    for name in data_columns(settings):
        remarks.append(f"Say over={name} where {name} names the data set: {why}.")
    return remarks


def check_look(look: int, looks: int) -> None:
    """Raise a `TableError` if this is no number of a look, or of planned looks."""
    if type(look) is not int or look < 1:
        raise TableError(f"look={look}: must be a positive whole number")
    if type(looks) is not int or looks < 0:
        raise TableError(f"looks={looks}: must be a whole number, 0 or more")


def check_mode(mode: str, *, is_needed: bool = True) -> None:
    """Raise a `TableError` if this is no direction; empty is one where none is needed."""
    if is_needed and not mode:
        raise TableError("mode= is missing: min or max, the better direction")
    if mode not in ("", "min", "max"):
        raise TableError(f"mode={mode}: must be min or max")


def column_names(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of a table's columns."""
    return [*dict.fromkeys(name for row in table for name in row)]


def row_key(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Return a row's values of some columns as texts."""
    return tuple(value_text(row.get(column)) for column in columns)


def order_of(setting: Group, mode: str) -> tuple[bool, float]:
    """Return a sort key: best mean first; settings without values last."""
    return not setting.values, -setting.mean if mode == "max" else setting.mean

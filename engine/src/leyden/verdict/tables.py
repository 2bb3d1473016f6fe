"""Verdicts on any table of numbers: rows of a CSV file, dictionaries or a data frame, each row a run."""

import csv
import fnmatch
import io
import math
import numbers
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.verdict import ranking
from leyden.verdict.difference import Verdict, decide, look_level, why_undecided
from leyden.verdict.groups import MIN_VALUES, Group, samples_of
from leyden.verdict.numbers import is_finite, measured_text, metric_digits

MAX_NAMED = 4  # columns in an error message
REPEATED = "Runs that repeat another one count once in n, with their mean."
Rows = Iterable[Mapping[str, Any]]
Condition = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


class TableError(ValueError):
    """A table can't be read, or can't be compared as asked."""

    def __init__(self, text: str) -> None:
        super().__init__(_printable(text))


def _printable(text: str) -> str:
    """Return a text of a table as one line without control characters."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def read(path: str | Path) -> list[dict[str, Any]]:
    """Read a table, CSV with a header. Numbers become numbers; an empty cell is None.

    Cells may be separated by commas, semicolons or tabs. A column without a name, such as an index, is left out.

    Raises:
        TableError: The file can't be read as a table.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        file = io.StringIO(text, newline="")  # cells may have line breaks
        lines = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
        found = [*lines]
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        raise TableError(f"{path}: can't be read as a table ({error})") from error
    if any(None in row for row in found):
        raise TableError(f"{path}: a row has more cells than the header")
    names = [name for name in lines.fieldnames or () if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TableError(f"{path}: two columns are named {twice}")
    return [{key: _number(value) for key, value in row.items() if key} for row in found]


def _number(text: str | None) -> Any:
    """Return a cell as a number if it is one; None if it is empty. Texts such as 007 and 1_2 are names."""
    if text and ("_" in text or (text.lstrip("-")[:1] == "0" and text.lstrip("-")[1:2].isdecimal())):
        return text
    try:
        return int(text) if text and text.lstrip("-").isdecimal() else float(text or "")
    except ValueError:
        return text or None


@dataclass(frozen=True)
class Setting:
    """Runs of a table that differ only in their seed.

    Args:
        choices: Its value of each column that varies between settings.
        group: The values of its runs, by seed.
        lost: Number of its runs without a value.
        is_repeated: Whether several of its rows have the same seed.
    """

    choices: dict[str, Any]
    group: Group
    lost: int
    is_repeated: bool = False

    @property
    def name(self) -> str:
        """Its choices as text."""
        return " ".join(f"{key}={_text(value)}" for key, value in self.choices.items()) or "all"

    @property
    def mean(self) -> float:
        """Mean of its values; not a number without any."""
        return statistics.fmean(self.group.values.values()) if self.group.values else math.nan

    @property
    def measured(self) -> str:
        """Mean and standard deviation as text."""
        return measured_text([*self.group.values.values()])

    @property
    def count(self) -> str:
        """Number of its values as text, and of how many runs."""
        num = len(self.group.values)
        return f"{num} of {num + self.lost}" if self.lost else f"{num}"


@dataclass(frozen=True)
class TableRanking:
    """Settings of a table, best first, and which of them can't be told apart from the best; `str` gives the text.

    Args:
        metric: Name of the metric.
        settings: The settings, best mean first.
        ranking: The verdict on them.
    """

    metric: str
    settings: list[Setting]
    ranking: ranking.Ranking

    def __str__(self) -> str:
        """Return a table and the verdict."""
        rows = [("row", "setting", self.metric, "n")]
        for number, setting in enumerate(self.settings):
            is_marked = self.ranking.like_best[number] and number != self.ranking.first
            mark = f" {ranking.MARK}" * bool(is_marked)
            rows.append((str(number + 1), setting.name, setting.measured + mark, setting.count))
        return "\n".join([*_lines(rows), *self.ranking.remarks])


@dataclass(frozen=True)
class TablesRanking:
    """Settings ranked on each of several data sets and over all of them; `str` gives the text.

    Args:
        each: The ranking on each data set.
        overall: The ranking over them.
    """

    each: dict[Any, TableRanking]
    overall: ranking.RankingOverSets

    def __str__(self) -> str:
        """Return a table per data set, and the mean ranks."""
        parts = [f"{_printable(name)}\n{found}" for name, found in self.each.items()]
        rows = [("setting", "mean rank"), *((str(name), each) for name, each in self.overall.shown.items())]
        return "\n\n".join([*parts, "\n".join([*_lines(rows), *self.overall.remarks])])


@dataclass(frozen=True)
class TableComparison:
    """Two settings of a table and the verdict on them; `str` gives the text.

    Args:
        metric: Name of the metric.
        sides: The settings that are compared.
        found: The verdict.
        remarks: What it assumes and how many settings were to choose from.
        paired_by: What pairs the runs.
    """

    metric: str
    sides: tuple[Setting, Setting]
    found: Verdict
    remarks: list[str]
    paired_by: str = "seed"

    @property
    def lines(self) -> list[str]:
        """The verdict and its basis in words."""
        found = self.found
        finished = ", by the runs that finished" * bool(found.better and any(side.lost for side in self.sides))
        lines = [f"Verdict: {found.in_words('A', 'B')}{finished}"]
        if found.interval and found.difference is not None:
            low, high = found.interval
            in_digits = metric_digits(found.difference, high - found.difference)
            how = f"{found.num_pairs} pairs by {self.paired_by}" if found.num_pairs else "not paired"
            span = f"{in_digits(low)} to {in_digits(high)}"
            lines.append(
                f"A - B: {in_digits(found.difference)}, {100 * (1 - found.level):.4g} % interval {span} ({how})"
            )
        return [*lines, *self.remarks]

    def __str__(self) -> str:
        """Return both settings, the verdict and what it assumes."""
        rows = [("", "setting", self.metric, "n")]
        for name, side in zip("AB", self.sides, strict=True):
            rows.append((name, side.name, side.measured, side.count))
        return "\n".join([*_lines(rows), *self.lines])


def rank(
    rows: Rows,
    metric: str,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    look: int = 1,
) -> TableRanking | TablesRanking:
    """Rank the settings of a table: which can't be told apart from the best.

    Args:
        rows: The table, a row per run; or a data frame with `to_dict`.
        metric: Column of the metric.
        mode: `min` or `max`, the better direction.
        seed: Column that pairs the runs of different settings; None if there is none.
        ignore: Columns that are no settings, such as other metrics and times; patterns like `time*` are allowed.
        over: Column of the data set: settings are ranked on each, and over all by their mean ranks; empty for one.
        look: Number of this look at the same settings, if runs were added since; it widens the verdict.

    Raises:
        TableError: A column is missing, or each row is a setting of its own.

    Example:
        >>> rows = [{"lr": lr, "seed": seed, "acc": acc + seed / 1000} for lr, acc in ((0.1, 0.9), (0.2, 0.8)) for seed in range(3)]
        >>> print(str(rank(rows, "acc", mode="max")).splitlines()[3])
        With 95 % confidence the best setting is row 1.
    """
    _check(look, mode, "min", "max")
    table = _records(rows, metric, [*filter(None, [seed, over])])
    settings = _settings(table, metric, seed, ignore, over)
    if not over:
        return _rank_one(settings[""], metric, mode, look)
    each = {name: _rank_one(of_set, metric, mode, look) for name, of_set in settings.items()}
    means = {
        name: {setting.name: setting.mean for setting in found.settings if setting.group.values}
        for name, found in each.items()
    }
    return TablesRanking(each, ranking.rank_over_sets(means, mode))


def _rank_one(settings: Sequence[Setting], metric: str, mode: str, look: int) -> TableRanking:
    """Rank the settings of one data set."""
    settings = sorted(settings, key=lambda setting: _order(setting, mode))
    lost = sum(setting.lost for setting in settings)
    found = ranking.rank([setting.group for setting in settings], mode, look=look, lost=lost)
    found.remarks.extend([REPEATED] * any(setting.is_repeated for setting in settings))
    return TableRanking(metric, settings, found)


def _order(setting: Setting, mode: str) -> tuple[bool, float]:
    """Return a sort key: best mean first; settings without values last."""
    return not setting.group.values, -setting.mean if mode == "max" else setting.mean


def compare(
    rows: Rows,
    metric: str,
    a: Condition,
    b: Condition,
    *,
    mode: str = "",
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    margin: float = 0.0,
    planned: bool = False,
    look: int = 1,
) -> TableComparison:
    """Compare two settings of a table; a side with several settings is represented by its best one.

    Args:
        rows: The table, a row per run; or a data frame with `to_dict`.
        metric: Column of the metric.
        a: Values by column that the rows of the first side have, or a function of a row.
        b: The same for the second side.
        mode: `min` or `max`, the better direction; empty if it is unknown.
        seed: Column that pairs the runs of both sides; None if there is none.
        ignore: Columns that are no settings, such as other metrics and times; patterns like `time*` are allowed.
        margin: Largest difference that does not matter, to be called the same (two one-sided tests); 0 for none.
        planned: Whether the two sides were named before the results were seen. Otherwise they count as chosen among
            all pairs of the table's settings, and the interval is as much wider.
        look: Number of this look at the two, if runs were added since; it widens the interval.

    Raises:
        TableError: A column is missing, a side has no rows, or the sides share a setting.
    """
    _check(look, mode, "min", "max", "")
    if not math.isfinite(margin) or margin < 0:
        raise TableError(f"margin={margin}: must be a positive number")
    table = _records(rows, metric, [seed] if seed else [])
    settings = _settings(table, metric, seed, ignore)[""]
    both = [_side(settings, table, condition, name) for name, condition in (("a", a), ("b", b))]
    if shared := next((each for each in both[0] if each in both[1]), None):
        raise TableError(f"a and b share the setting {shared.name}")
    return compare_settings(settings, both, metric, mode, margin=margin, planned=planned, look=look)


def compare_settings(
    settings: Sequence[Setting],
    sides: Sequence[Sequence[Setting]],
    metric: str,
    mode: str,
    *,
    margin: float = 0.0,
    planned: bool = False,
    look: int = 1,
    paired_by: str = "seed",
) -> TableComparison:
    """Compare the best of some settings with the best of others, of those that have enough runs.

    Args:
        settings: All settings, which the two may be chosen from, and which lend each other their spread.
        sides: Those of each side.
        metric: As in `compare`.
        mode: As in `compare`.
        margin: As in `compare`.
        planned: As in `compare`.
        look: As in `compare`.
        paired_by: What pairs the runs, in words.
    """
    a, b = (
        min(side, key=lambda each: (len(each.group.values) < MIN_VALUES, *_order(each, mode or "max")))
        for side in sides
    )
    # Bonferroni correction, since this pair was selected among so many.
    num_chosen = max(len(sides[0]) * len(sides[1]), 1 if planned else ranking.num_pairs(len(settings)))
    level, next_level = (look_level(each) / num_chosen for each in (look, look + 1))
    remarks = [REPEATED] * (a.is_repeated or b.is_repeated)
    if a.lost or b.lost:
        remarks.append(f"Finished runs only: {a.lost} of A and {b.lost} of B have no value.")
    if max(map(len, sides)) > 1:
        remarks.append("The best setting was chosen by these values, so they are biased in its favor.")
    if why := why_undecided([a.group, b.group]):
        found = Verdict((len(a.group.values), len(b.group.values)), why=why, mode=mode)
        return TableComparison(metric, (a, b), found, remarks, paired_by)
    others = [each.group for each in settings if each is not a and each is not b]
    samples = samples_of([a.group, b.group, *(group for group in others if not why_undecided([group]))])
    found = decide(samples, 0, 1, mode, level, next_level, margin)
    if found.interval and not found.better and not found.is_same:
        remarks.append(found.power_in_words("seeds"))
    if planned:
        remarks.append("planned=true: right only if the two were named before any result was seen.")
    elif len(settings) > 2:
        remarks.append(f"Widened, since the two may be chosen among {len(settings)} settings; planned=true if not.")
    remarks += ranking.shape_remarks(samples, "seeds", min(len(a.group.values), len(b.group.values)))
    return TableComparison(metric, (a, b), found, remarks, paired_by)


def _check(look: int, mode: str, *allowed: str) -> None:
    if mode not in allowed:
        raise TableError(f"mode={mode}: must be min or max")
    if type(look) is not int or look < 1:
        raise TableError(f"look={look}: must be a positive whole number")


def _records(rows: Rows, metric: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table's rows as dictionaries, after checking that they have the columns."""
    if hasattr(rows, "to_dicts"):  # a data frame of polars, whose `to_dict` is another one
        rows = rows.to_dicts()
    elif hasattr(rows, "to_dict"):
        rows = rows.to_dict("records")
    table = [dict(row) if hasattr(row, "keys") else {} for row in rows]
    if not all(table):
        raise TableError(
            "a table is a list of dictionaries, one per run, or a data frame; verdict.read reads a file"
        )
    if not table:
        raise TableError("the table has no rows")
    if len({metric, *columns}) <= len(columns):
        raise TableError(f"{metric}: the metric, the seed and the data set must be different columns")
    for column in [metric, *columns]:
        if not any(column in row for row in table):
            known = ", ".join(dict.fromkeys(str(key) for row in table for key in row))
            raise TableError(f"no column is named {column}; there are {known}")
    return table


def _settings(
    table: Sequence[dict[str, Any]], metric: str, seed: str | None, ignore: Sequence[str], over: str = ""
) -> dict[str, list[Setting]]:
    """Return the settings of a table, by data set if it has several."""
    columns = _columns(table, [metric, *filter(None, [seed, over])], ignore)
    sets: dict[str, dict[tuple[str, ...], list[dict[str, Any]]]] = {}
    for row in table:
        of_set = sets.setdefault(_text(row.get(over)) if over else "", {})
        of_set.setdefault(tuple(_text(row.get(column)) for column in columns), []).append(row)
    if len({setting for of_set in sets.values() for setting in of_set}) == len(table) > 1:
        unique = [str(column) for column in columns if len({_text(row.get(column)) for row in table}) == len(table)]
        more = ", ".join(unique[:MAX_NAMED]) or ", ".join(map(str, columns[:MAX_NAMED]))
        raise TableError(f"each row is a setting of its own; ignore= names columns that are none: {more}")
    return {
        name: [_setting(rows, columns, metric, seed) for rows in of_set.values()] for name, of_set in sets.items()
    }


def _columns(table: Sequence[dict[str, Any]], others: Sequence[str], ignore: Sequence[str]) -> list[str]:
    """Return the columns that vary and are settings: none of these others, and none that `ignore` names."""
    no_settings = [*others, *([ignore] if isinstance(ignore, str) else ignore)]
    return [
        column
        for column in dict.fromkeys(key for row in table for key in row)
        if not any(fnmatch.fnmatchcase(str(column), pattern) or column == pattern for pattern in no_settings)
        and len({_text(row.get(column)) for row in table}) > 1
    ]


def front(rows: Rows, metrics: Mapping[str, str], *, ignore: Sequence[str] = ("seed",)) -> list[dict[str, Any]]:
    """Return the settings that no other one beats in one metric and equals in the others: the Pareto front of their means.

    The means are taken as they are; whether two settings differ by more than chance, `compare` says.

    Args:
        rows: The table, a row per run; or a data frame with `to_dict`.
        metrics: `min` or `max`, the better direction, of each metric.
        ignore: Columns that are no settings, such as the seed; patterns like `time*` are allowed.

    Returns:
        The choices of each, the number of its runs as `n`, and the means, the best by the first metric first.

    Raises:
        TableError: A column is missing, or no row has a value of each metric.

    Example:
        >>> rows = [{"width": 8, "acc": 0.9, "s": 1}, {"width": 64, "acc": 0.95, "s": 3}, {"width": 32, "acc": 0.9, "s": 2}]
        >>> [each["width"] for each in front(rows, {"acc": "max", "s": "min"})]
        [64, 8]
    """
    for mode in metrics.values():
        _check(1, mode, "min", "max")
    if not metrics:
        raise TableError("metrics: at least one must be given")
    first, *others = metrics
    table = _records(rows, first, others)
    columns = _columns(table, [*metrics], ignore)
    settings: dict[tuple[str, ...], list[dict[str, float]]] = {}
    choices: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in table:
        values = {name: value for name in metrics if (value := _value(row.get(name), name)) is not None}
        if len(values) == len(metrics):
            key = tuple(_text(row.get(column)) for column in columns)
            choices.setdefault(key, {column: row.get(column) for column in columns})
            settings.setdefault(key, []).append(values)
    if not settings:
        raise TableError(f"no row has a value of {' and '.join(metrics)}")
    means = [{name: statistics.fmean(row[name] for row in of) for name in metrics} for of in settings.values()]
    gains = [[each[name] * (1 if mode == "max" else -1) for name, mode in metrics.items()] for each in means]
    found = [
        choices[key] | {"n": len(settings[key])} | mean
        for key, mean, gain in zip(settings, means, gains, strict=True)
        if not any(other != gain and all(x >= y for x, y in zip(other, gain, strict=True)) for other in gains)
    ]
    return sorted(found, key=lambda each: each[first], reverse=metrics[first] == "max")


def _setting(rows: Sequence[dict[str, Any]], columns: Sequence[str], metric: str, seed: str | None) -> Setting:
    """Return rows that differ only in the seed as a setting; rows of the same seed count once, with their mean."""
    values: dict[Hashable, list[float]] = {}
    for number, row in enumerate(rows):
        key = (_text(row.get(seed)),) if seed else (id(rows), number)
        value = _value(row.get(metric), metric)
        if value is not None:
            values.setdefault(key, []).append(value)
    seeds = {_text(row.get(seed)) for row in rows} if seed else range(len(rows))
    choices = {column: rows[0].get(column) for column in columns}
    group = Group({key: statistics.fmean(of) for key, of in values.items()})
    return Setting(choices, group, len(seeds) - len(values), len(seeds) < len(rows))


def _value(value: Any, metric: str) -> float | None:
    """Return the value of a metric; None for a gap, such as an empty cell, a word, or an infinite loss.

    Raises:
        TableError: It is no number, and no gap either, such as 0,98 or 98 %.
    """
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        if any(map(str.isdigit, str(value))):
            raise TableError(f"{metric}: {str(value)[:20]} is no number, such as 0.98") from None
        return None
    return number if is_finite(number) else None


def _text(value: Any) -> str:
    """Return a value as text, by which rows are grouped; 1 and 1.0 are equal, and so are gaps."""
    if hasattr(value, "tolist") and not isinstance(value, numbers.Number):  # of NumPy or PyTorch
        value = value.tolist()
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        value = _number(str(value))
    if not isinstance(value, float):
        return str(value)
    return "None" if math.isnan(value) else f"{value:.0f}" if value.is_integer() else repr(value)


def _side(
    settings: Sequence[Setting], table: Sequence[dict[str, Any]], condition: Condition, name: str
) -> list[Setting]:
    """Return the settings that meet a condition.

    Raises:
        TableError: There is none, or a column of the condition does not vary.
    """
    alike = {key: value for key, value in table[0].items() if len({_text(row.get(key)) for row in table}) == 1}
    given = [(setting, {**alike, **setting.choices}) for setting in settings]
    wanted = {} if callable(condition) else {column: _text(value) for column, value in condition.items()}
    if wrong := next((column for column in wanted if column not in given[0][1]), None):
        raise TableError(f"{name}: {wrong} is no setting; there are {', '.join(map(str, given[0][1]))}")
    found = [
        setting
        for setting, row in given
        if (condition(row) if callable(condition) else all(_text(row[key]) == text for key, text in wanted.items()))
    ]
    if not found:
        raise TableError(f"{name}={condition if not callable(condition) else '…'}: no row matches this")
    return found


def _lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    rows = [[*map(_printable, cells)] for cells in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]

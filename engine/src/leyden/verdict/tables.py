"""Verdicts on any table of numbers: rows of a CSV file, dictionaries or a data frame of pandas, each row a run."""

import csv
import fnmatch
import io
import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leyden.verdict import ranking
from leyden.verdict.groups import MIN_VALUES, Group, Verdict, decide, look_level, samples_of
from leyden.verdict.numbers import is_finite, metric_digits, number_of, printable, table_lines, value_text

MAX_NAMED = 4  # columns in an error message
Rows = Iterable[Mapping[str, Any]]
Condition = Mapping[str, Any] | Callable[[Mapping[str, Any]], bool]


class TableError(ValueError):
    """A table can't be read, or can't be compared as asked."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


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
        # Cells may have line breaks.
        lines = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
        found = [*lines]
    except (OSError, UnicodeError, ValueError, csv.Error) as error:
        raise TableError(f"{path}: can't be read as a table ({error})") from error
    if any(None in row for row in found):
        raise TableError(f"{path}: a row has more cells than the header")
    names = [name for name in lines.fieldnames or () if name]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise TableError(f"{path}: two columns are named {twice}")
    return [{key: number_of(value) for key, value in row.items() if key} for row in found]


@dataclass(frozen=True)
class TableComparison:
    """Two settings of a table and the verdict on them; `str` gives the text.

    Args:
        sides: The settings that are compared.
        found: The verdict.
        remarks: What it assumes and how many settings were to choose from.
        metric: Name of the metric.
    """

    sides: tuple[Group, Group]
    found: Verdict
    remarks: list[str]
    metric: str = ""

    @property
    def lines(self) -> list[str]:
        """The verdict and its basis in words."""
        found = self.found
        finished = ", by the runs that finished" * bool(found.better and any(side.lost for side in self.sides))
        lines = [f"Verdict: {found.in_words('A', 'B')}{finished}"]
        if found.interval and found.difference is not None:
            low, high = found.interval
            in_digits = metric_digits(found.difference, high - found.difference)
            how = f"{found.num_pairs} pairs" if found.num_pairs else "not paired"
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
        return "\n".join([*table_lines(rows), *self.lines])


def rank(
    rows: Rows,
    metric: str,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    look: int = 1,
) -> ranking.Ranking | ranking.RankingOverSets:
    """Rank the settings of a table: which can't be told apart from the best.

    Args:
        rows: The table, a row per run; or pandas' data frame.
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
    columns = _columns(table, [metric, seed, over], ignore)
    each: dict[Hashable, ranking.Ranking] = {}
    for name in dict.fromkeys(value_text(row.get(over)) for row in table) if over else [""]:
        of_set = [row for row in table if not over or value_text(row.get(over)) == name]
        settings = sorted(_settings(of_set, columns, metric, seed), key=lambda one: _order(one, mode))
        each[name] = replace(ranking.rank(settings, mode, look), metric=metric)
    if not over:
        return each[""]
    means = {name: {one.name: one.mean for one in found.settings if one.values} for name, found in each.items()}
    return replace(ranking.rank_over_sets(means, mode), each=each)


def _order(setting: Group, mode: str) -> tuple[bool, float]:
    """Return a sort key: best mean first; settings without values last."""
    return not setting.values, -setting.mean if mode == "max" else setting.mean


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
        rows: The table, a row per run; or pandas' data frame.
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
    if not 0 <= margin < math.inf:
        raise TableError(f"margin={margin}: must be a positive number")
    table = _records(rows, metric, [seed] if seed else [])
    settings = _settings(table, _columns(table, [metric, seed], ignore), metric, seed)
    both = [_side(settings, table, condition, name) for name, condition in (("a", a), ("b", b))]
    if shared := next((each for each in both[0] if each in both[1]), None):
        raise TableError(f"a and b share the setting {shared.name}")
    return replace(compare_settings(settings, both, mode, margin, planned, look), metric=metric)


def compare_settings(
    settings: Sequence[Group], sides: Sequence[Sequence[Group]], mode: str, margin: float, planned: bool, look: int
) -> TableComparison:
    """Compare the best of some settings with the best of others, of those that have enough runs.

    Args:
        settings: All settings, which the two may be chosen from, and which lend each other their spread.
        sides: Those of each side.
        mode: As in `compare`.
        margin: As in `compare`.
        planned: As in `compare`.
        look: As in `compare`.
    """
    a, b = (
        min(side, key=lambda one: (len(one.values) < MIN_VALUES, *_order(one, mode or "max"))) for side in sides
    )
    # Bonferroni correction, since this pair was selected among so many.
    num_pairs = 1 if planned else math.comb(len(settings), 2)
    num_chosen = max(len(sides[0]) * len(sides[1]), num_pairs)
    level, next_level = (look_level(each) / num_chosen for each in (look, look + 1))
    remarks = [ranking.REPEATED] * (a.is_repeated or b.is_repeated)
    if a.lost or b.lost:
        remarks.append(f"Finished runs only: {a.lost} of A and {b.lost} of B have no value.")
    if max(map(len, sides)) > 1:
        remarks.append("The best setting was chosen by these values, so they are biased in its favor.")
    nums = len(a.values), len(b.values)
    if min(nums) < MIN_VALUES:
        return TableComparison((a, b), Verdict(nums), remarks)
    remarks += [f"{name}: {ranking.EQUAL}" for name, one in (("A", a), ("B", b)) if not one.deviation]
    others = [one for one in settings if one is not a and one is not b and len(one.values) >= MIN_VALUES]
    samples = samples_of([a, b, *others])
    found = decide(samples, 0, 1, mode, level, next_level, margin)
    if found.interval and not found.better and not found.is_same:
        remarks.append(found.power_in_words())
    if planned:
        remarks.append("planned=true: right only if the two were named before any result was seen.")
    elif len(settings) > 2:
        remarks.append(f"Widened, since the two may be chosen among {len(settings)} settings; planned=true if not.")
    remarks += samples.shape_remarks(min(nums))
    return TableComparison((a, b), found, remarks)


def _check(look: int, mode: str, *allowed: str) -> None:
    if mode not in allowed:
        raise TableError(f"mode={mode}: must be min or max")
    if type(look) is not int or look < 1:
        raise TableError(f"look={look}: must be a positive whole number")


def _records(rows: Any, metric: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table's rows as dictionaries, after checking that they have the columns."""
    if hasattr(rows, "iterrows"):
        rows = rows.to_dict("records")
    table = [dict(row) if hasattr(row, "keys") else {} for row in rows]
    if not all(table):
        raise TableError("a table is a list of dictionaries, or pandas' data frame; verdict.read reads a file")
    if not table:
        raise TableError("the table has no rows")
    if len({metric, *columns}) <= len(columns):
        raise TableError(f"{metric}: the metric, the seed and the data set must be different columns")
    for column in [metric, *columns]:
        if not any(column in row for row in table):
            raise TableError(f"no column is named {column}; there are {', '.join(map(str, _names(table)))}")
    return table


def _settings(rows: Sequence[dict[str, Any]], columns: Sequence[str], metric: str, seed: str | None) -> list[Group]:
    """Return the settings of rows, by the columns that are settings; a gap is a run without a value."""
    runs: dict[tuple[str, ...], list[tuple[Any, float | None]]] = {}
    choices: dict[tuple[str, ...], dict[str, Any]] = {}
    for number, row in enumerate(rows):
        key = _key(row, columns)
        choices.setdefault(key, {column: row.get(column) for column in columns})
        run = (value_text(row.get(seed)) if seed else number, _value(row.get(metric), metric))
        runs.setdefault(key, []).append(run)
    return [Group.of(choices[key], of_setting) for key, of_setting in runs.items()]


def _columns(
    table: Sequence[dict[str, Any]], others: Iterable[str | None], ignore: Sequence[str], is_repeated: bool = True
) -> list[str]:
    """Return the columns that vary and are settings: none of these others, and none that `ignore` names.

    Raises:
        TableError: Several rows of a setting are expected, and each row is one of its own.
    """
    no_settings = [*filter(None, others), *([ignore] if isinstance(ignore, str) else ignore)]
    nums = {column: len({value_text(row.get(column)) for row in table}) for column in _names(table)}
    columns = [
        column
        for column, num in nums.items()
        if num > 1 and not any(fnmatch.fnmatchcase(str(column), each) or column == each for each in no_settings)
    ]
    if is_repeated and len({_key(row, columns) for row in table}) == len(table) > 1:
        unique = [column for column in columns if nums[column] == len(table)] or columns
        more = ", ".join(map(str, unique[:MAX_NAMED]))
        raise TableError(f"each row is a setting of its own; ignore= names columns that are none: {more}")
    return columns


def _names(table: Sequence[dict[str, Any]]) -> dict[str, None]:
    return dict.fromkeys(key for row in table for key in row)


def _key(row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    return tuple(value_text(row.get(column)) for column in columns)


def front(rows: Rows, metrics: Mapping[str, str], *, ignore: Sequence[str] = ("seed",)) -> list[dict[str, Any]]:
    """Return the settings that no other one beats in one metric and equals in the others: the Pareto front of their means.

    The means are taken as they are; whether two settings differ by more than chance, `compare` says.

    Args:
        rows: The table, a row per run; or pandas' data frame.
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
    columns = _columns(table, metrics, ignore, is_repeated=False)
    settings: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in table:
        values = {name: _value(row.get(name), name) for name in metrics}
        if None not in values.values():
            settings.setdefault(_key(row, columns), []).append(row | values)
    if not settings:
        raise TableError(f"no row has a value of {' and '.join(metrics)}")
    found = [
        {column: runs[0].get(column) for column in columns}
        | {"n": len(runs), **{name: statistics.fmean(run[name] for run in runs) for name in metrics}}
        for runs in settings.values()
    ]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        gains = [float(one[name] - other[name]) * {"max": 1, "min": -1}[mode] for name, mode in metrics.items()]
        return min(gains) >= 0 < max(gains)

    found = [each for each in found if not any(beats(other, each) for other in found)]
    return sorted(found, key=lambda each: each[first], reverse=metrics[first] == "max")


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


def _side(
    settings: Sequence[Group], table: Sequence[dict[str, Any]], condition: Condition, name: str
) -> list[Group]:
    """Return the settings that meet a condition.

    Raises:
        TableError: There is none, or a column of the condition does not vary.
    """
    alike = {key: value for key, value in table[0].items() if len({value_text(row.get(key)) for row in table}) == 1}
    rows = [{**alike, **setting.choices} for setting in settings]
    if callable(condition):
        are_met, shown = [*map(condition, rows)], "…"
    else:
        if wrong := next((column for column in condition if column not in rows[0]), None):
            raise TableError(f"{name}: {wrong} is no setting; there are {', '.join(map(str, rows[0]))}")
        are_met, shown = [_key(row, [*condition]) == _key(condition, [*condition]) for row in rows], str(condition)
    if not any(are_met):
        raise TableError(f"{name}={shown}: no row matches this")
    return [setting for setting, is_met in zip(settings, are_met, strict=True) if is_met]

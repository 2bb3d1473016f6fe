"""Verdicts on settings, and on any table of them: rows of a CSV file, dictionaries or a data frame, each row a run.

Which settings can't be told apart from the best, on one data set and over several; which of two is better; and which
are the front of several metrics.
"""

import csv
import fnmatch
import io
import math
import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from leyden.verdict.groups import (
    LEVEL,
    MIN_VALUES,
    Group,
    Samples,
    Verdict,
    decide,
    expected_maximum,
    look_level,
    range_quantile,
    samples_of,
)
from leyden.verdict.numbers import is_finite, metric_digits, number_of, printable, table_lines, value_text

MAX_NAMED = 5  # rows in a sentence, columns in an error message
MARK = "≈"
MIN_SETS, MIN_SETS_OF_TWO = 5, 6  # data sets over which more than two settings, and two, are ranked
EQUAL = "all values are equal; does the seed take effect?"
REPEATED = "Runs that repeat another one count once in n, with their mean."
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
class Ranking:
    """The settings of a table, best first, and which of them can't be told apart from the best one; `str` gives the text.

    Args:
        settings: The settings, best mean first.
        like_best: For each row whether it may be the best; None if that can't be told, as with too few runs.
        remarks: The findings in words.
        first: Index of the best row that has enough runs; -1 if none has.
        verdicts: The comparison of the best row with each other tested one, by index.
        samples: The values of the tested rows, the first one and those with a verdict; None if there are fewer than two.
        metric: Name of the metric.
    """

    settings: Sequence[Group]
    like_best: list[bool | None]
    remarks: list[str]
    first: int = -1
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    samples: Samples | None = None
    metric: str = ""

    def __str__(self) -> str:
        """Return a table and the verdict."""
        rows = [("row", "setting", self.metric, "n")]
        for number, setting in enumerate(self.settings):
            mark = f" {MARK}" * bool(self.like_best[number] and number != self.first)
            rows.append((str(number + 1), setting.name, setting.measured + mark, setting.count))
        return "\n".join([*table_lines(rows), *self.remarks])


def rank_settings(
    settings: Sequence[Group], mode: str, look: int = 1, excluded: Collection[str] = (), number: int | None = None
) -> Ranking:
    """Find the settings that can't be told apart from the best one.

    These are multiple comparisons with the best (Hsu, Multiple comparisons, 1996), with variances that may differ: each
    other row is tested one-sided at the level 5 % / (rows - 1), so the row that is truly best is the first or may be
    the best with a probability of at least 95 %.

    Args:
        settings: The rows, best mean first; their values are finite.
        mode: `min` or `max`, the better direction.
        look: Number of this look at the table, as in `look_level`.
        excluded: Names of settings that an earlier look has excluded; they are not tested again.
        number: Number of the first row in a table that has others, too, for the remarks; None if it has none.
    """
    enough = [len(setting.values) >= MIN_VALUES for setting in settings]
    gone = [setting.name in excluded for setting in settings]
    tested = [place for place in range(len(settings)) if enough[place] and not gone[place]]
    like_best: list[bool | None] = [False if is_gone else None for is_gone in gone]
    repeated = [REPEATED] * any(setting.is_repeated for setting in settings)
    if len(settings) < 2 or not tested or (len(tested) < 2 and not any(gone)):
        few = [f"n too small to tell which row is best: that takes {MIN_VALUES} runs per row."] * (
            len(settings) > 1
        )
        return Ranking(settings, like_best, few + repeated, tested[0] if tested else -1)
    first, *others = tested
    like_best[first] = True
    samples, verdicts = None, {}
    if others:
        samples = samples_of([settings[place] for place in tested])
        level, next_level = (2 * look_level(each) / len(others) for each in (look, look + 1))
        verdicts = {
            place: decide(samples, 0, among_tested, mode, level, next_level)
            for among_tested, place in enumerate(others, start=1)
        }
        last = min((place for place, found in verdicts.items() if found.better == "a"), default=len(settings))
        for place, found in verdicts.items():  # rows below the first that is excluded may be too wide to tell
            like_best[place] = (
                False if found.better == "a" else None if place > last or not found.interval else True
            )
    ranking = Ranking(settings, like_best, [], first, verdicts, samples)
    ranking.remarks.extend([*_claims(ranking, number), *repeated, *(samples.shape_remarks() if samples else [])])
    return ranking


def _claims(ranking: Ranking, number: int | None) -> list[str]:
    """Return the claim about the best row, and what qualifies it: lost runs, rows too wide or too small, power and bias.

    If some runs of the tested rows have no value, the claim is limited to those that have.
    """
    settings, samples, tested = ranking.settings, ranking.samples, [ranking.first, *ranking.verdicts]
    names = [place + (number or 1) for place in range(len(settings))]
    few = [name for name, setting in zip(names, settings, strict=True) if len(setting.values) < MIN_VALUES]
    unclear = [names[place] for place in ranking.verdicts if ranking.like_best[place] is None]
    lost = sum(settings[place].lost for place in tested)
    best = f"row {names[ranking.first]}"
    if any(ranking.like_best[place] for place in ranking.verdicts):
        best += f" or one marked {MARK}"
    if unclear:
        best += f", or {_name_rows(unclear).lower()}"
    of = f" of rows {names[0]} to {names[-1]}" * (number is not None) + f" of those with {MIN_VALUES} runs" * bool(
        few
    )
    by = ", by the runs that finished," * bool(lost)
    remarks = [f"With {100 * (1 - LEVEL):g} % confidence the best setting{of}{by} is {best}."]
    if lost:
        remarks.append(f"Runs without a value, which are not counted: {lost}.")
    if unclear:
        remarks.append(
            f"{_name_rows(unclear)}: no spread, or too wide a one, to be excluded; more runs would tell."
        )
    if few:
        remarks.append(f"{_name_rows(few)}: fewer than {MIN_VALUES} runs with a value, not compared.")
    if equal := [names[n] for n in tested if not settings[n].deviation]:
        remarks.append(f"{_name_rows(equal)}: {EQUAL}")
    kept = [place for place, row in enumerate(tested) if ranking.like_best[row] is not False]
    if samples and len(kept) > 1:
        usual = next(iter(ranking.verdicts.values()))
        if samples.typical:
            pair = Samples(
                (samples.typical, samples.typical), samples.num_pairs, most_freedom=samples.typical.freedom
            )
            usual = decide(pair, 0, 1, usual.mode, usual.level, usual.next_level)
        if usual.error:
            remarks.append(usual.power_in_words("Four of five rows worse by {} are excluded"))
        if bias := optimism(samples, kept):
            best = f"Row {names[ranking.first]} was chosen by its values"
            remarks.append(f"{best}: its mean is up to {bias:.2g} too good on average.")
    return remarks


def optimism(samples: Samples, kept: Sequence[int]) -> float:
    """Return by how much the best of some means exceeds its true value on average, at most: if all are equally good.

    Args:
        samples: The samples.
        kept: Indices of those that can't be told apart from the best.
    """
    error = math.sqrt(statistics.fmean(samples.each[number].squared_error() for number in kept))
    return expected_maximum(len(kept)) * error


def _name_rows(names: Sequence[int]) -> str:
    """Return rows in words, such as `Row 3` or `Rows 1, 4`; of many rows the first ones."""
    more = f" and {len(names) - MAX_NAMED} more" * (len(names) > MAX_NAMED)
    return f"Row{'s' * (len(names) > 1)} {', '.join(map(str, names[:MAX_NAMED]))}{more}"


@dataclass(frozen=True)
class RankingOverSets:
    """Settings ranked over several data sets.

    Args:
        mean_ranks: Mean rank of each setting, 1 being the best; best first.
        critical: Difference of two mean ranks from which on they are significantly different; None for too few sets.
        num_sets: Number of data sets on which all settings have a value.
        like_best: Settings that can't be told apart from the best one; empty for too few data sets.
        each: The ranking on each data set, if `verdict.rank` has made them.
    """

    mean_ranks: Mapping[Hashable, float]
    critical: float | None
    num_sets: int
    like_best: tuple[Hashable, ...]
    each: Mapping[Hashable, Ranking] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return a table per data set, and the mean ranks."""
        parts = [f"{printable(name)}\n{found}" for name, found in self.each.items()]
        rows = [("setting", "mean rank"), *((str(name), each) for name, each in self.shown.items())]
        return "\n\n".join([*parts, "\n".join([*table_lines(rows), *self.remarks])])

    @property
    def shown(self) -> dict[Hashable, str]:
        """Mean rank of each setting as text, marked if it can't be told apart from the best one."""
        like = self.like_best[1:]
        return {name: f"{each:.2f}{f' {MARK}' * (name in like)}" for name, each in self.mean_ranks.items()}

    @property
    def remarks(self) -> list[str]:
        """The findings in words."""
        num = len(self.mean_ranks)
        if self.critical is None:
            least = MIN_SETS_OF_TWO if num == 2 else MIN_SETS
            return [f"Too few data sets have all settings, {self.num_sets}: to rank over them takes {least}."]
        return [
            f"Over {self.num_sets} data sets, mean ranks closer than {self.critical:.2f} can't be told apart",
            f"(critical difference of Nemenyi's test at {100 * LEVEL:g} %; Demšar, 2006).",
        ]


def rank_over_sets(means: Mapping[Any, Mapping[Any, float]], mode: str) -> RankingOverSets:
    """Rank settings over several data sets by their mean ranks (Demšar, JMLR 7, 2006).

    Args:
        means: Mean of the metric by data set, and in each by setting. Data sets that lack a setting do not count.
        mode: `min` or `max`, the better direction.

    Example:
        >>> sets = {n: {"a": 0.9 + n / 100, "b": 0.8, "c": 0.7 - n / 100} for n in range(12)}
        >>> found = rank_over_sets(sets, "max")
        >>> found.mean_ranks, round(found.critical, 2), found.like_best
        ({'a': 1.0, 'b': 2.0, 'c': 3.0}, 0.96, ('a',))
    """
    settings = [*dict.fromkeys(setting for values in means.values() for setting in values)]
    whole = [values for values in means.values() if len(values) == len(settings)]
    num, num_sets = len(settings), len(whole)
    ranks: dict[Hashable, list[float]] = {setting: [] for setting in settings}
    for values in whole:
        for setting, value in values.items():
            better = sum((each > value) if mode == "max" else (each < value) for each in values.values())
            equal = sum(each == value for each in values.values())
            ranks[setting].append(better + (equal + 1) / 2)
    mean_ranks = {setting: statistics.fmean(of) for setting, of in ranks.items() if of}
    ordered = dict(sorted(mean_ranks.items(), key=lambda item: item[1]))
    if num < 2 or num_sets < (MIN_SETS_OF_TWO if num == 2 else MIN_SETS):
        return RankingOverSets(ordered or dict.fromkeys(settings, math.nan), None, num_sets, ())
    critical = range_quantile(LEVEL, num) / math.sqrt(2) * math.sqrt(num * (num + 1) / (6 * num_sets))
    best = min(ordered.values())
    like_best = tuple(setting for setting, each in ordered.items() if each - best < critical)
    return RankingOverSets(ordered, critical, num_sets, like_best)


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

    def __str__(self) -> str:
        """Return both settings, the verdict, what it is based on and what it assumes."""
        rows = [("", "setting", self.metric, "n")]
        for name, side in zip("AB", self.sides, strict=True):
            rows.append((name, side.name, side.measured, side.count))
        found = self.found
        finished = ", by the runs that finished" * bool(found.better and any(side.lost for side in self.sides))
        lines = [*table_lines(rows), f"Verdict: {found.in_words('A', 'B')}{finished}"]
        if found.interval and found.difference is not None:
            low, high = found.interval
            in_digits = metric_digits(found.difference, high - found.difference)
            how = f"{found.num_pairs} pairs" if found.num_pairs else "not paired"
            span = f"{in_digits(low)} to {in_digits(high)}"
            lines.append(
                f"A - B: {in_digits(found.difference)}, {100 * (1 - found.level):.4g} % interval {span} ({how})"
            )
        return "\n".join([*lines, *self.remarks])


@dataclass(frozen=True)
class Question:
    """Options of a comparison of two settings, with the names and defaults that `compare` has."""

    mode: str = ""
    margin: float = 0.0
    planned: bool = False
    look: int = 1


def rank(
    rows: Rows,
    metric: str,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    look: int = 1,
) -> Ranking | RankingOverSets:
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
    each: dict[Hashable, Ranking] = {}
    for name in dict.fromkeys(value_text(row.get(over)) for row in table) if over else [""]:
        of_set = [row for row in table if not over or value_text(row.get(over)) == name]
        settings = sorted(_settings(of_set, columns, metric, seed), key=lambda one: _order(one, mode))
        each[name] = replace(rank_settings(settings, mode, look), metric=metric)
    if not over:
        return each[""]
    means = {name: {one.name: one.mean for one in found.settings if one.values} for name, found in each.items()}
    return replace(rank_over_sets(means, mode), each=each)


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
    return replace(compare_settings(settings, both, Question(mode, margin, planned, look)), metric=metric)


def compare_settings(
    settings: Sequence[Group], sides: Sequence[Sequence[Group]], asked: Question
) -> TableComparison:
    """Compare the best of some settings with the best of others, of those that have enough runs.

    Args:
        settings: All settings, which the two may be chosen from, and which lend each other their spread.
        sides: Those of each side.
        asked: The arguments of `compare`.
    """
    order = asked.mode or "max"
    a, b = (min(side, key=lambda one: (len(one.values) < MIN_VALUES, *_order(one, order))) for side in sides)
    # Bonferroni correction, since this pair was selected among so many.
    num_pairs = 1 if asked.planned else math.comb(len(settings), 2)
    num_chosen = max(len(sides[0]) * len(sides[1]), num_pairs)
    level, next_level = (look_level(each) / num_chosen for each in (asked.look, asked.look + 1))
    remarks = [REPEATED] * (a.is_repeated or b.is_repeated)
    if a.lost or b.lost:
        remarks.append(f"Finished runs only: {a.lost} of A and {b.lost} of B have no value.")
    if max(map(len, sides)) > 1:
        remarks.append("The best setting was chosen by these values, so they are biased in its favor.")
    nums = len(a.values), len(b.values)
    if min(nums) < MIN_VALUES:
        return TableComparison((a, b), Verdict(nums), remarks)
    remarks += [f"{name}: {EQUAL}" for name, one in (("A", a), ("B", b)) if not one.deviation]
    others = [one for one in settings if one is not a and one is not b and len(one.values) >= MIN_VALUES]
    samples = samples_of([a, b, *others])
    found = decide(samples, 0, 1, asked.mode, level, next_level, asked.margin)
    if found.interval and not found.better and not found.is_same:
        remarks.append(found.power_in_words())
    if asked.planned:
        remarks.append("planned=true: right only if the two were named before any result was seen.")
    elif len(settings) > 2:
        remarks.append(f"Widened, since the two may be chosen among {len(settings)} settings; planned=true if not.")
    remarks += samples.shape_remarks(min(nums))
    return TableComparison((a, b), found, remarks)


def front(rows: Rows, metrics: Mapping[str, str], *, ignore: Sequence[str] = ("seed",)) -> list[dict[str, Any]]:
    """Return the settings that no other one beats in one metric and equals in the others: the Pareto front of their means.

    The means are taken as they are; whether two settings differ by more than chance, `compare` says.

    Args:
        rows: The table, a row per run; or pandas' data frame. Rows without a value of each metric do not count.
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
    if not metrics:
        raise TableError("metrics: at least one must be given")
    for mode in metrics.values():
        _check(1, mode, "min", "max")
    first, *others = metrics
    table = _records(rows, first, others)
    columns = _columns(table, metrics, ignore, is_repeated=False)
    whole = [row for row in table if all(_value(row.get(name), name) is not None for name in metrics)]
    if not whole:
        raise TableError(f"no row has a value of {' and '.join(metrics)}")
    settings = {name: _settings(whole, columns, name, None) for name in metrics}
    found = [
        {**one.choices, "n": one.choices.get("n", len(one.values))}
        | {name: of_metric[place].mean for name, of_metric in settings.items()}
        for place, one in enumerate(settings[first])
    ]

    def beats(one: dict[str, Any], other: dict[str, Any]) -> bool:
        gains = [float(one[name] - other[name]) * (1 if mode == "max" else -1) for name, mode in metrics.items()]
        return min(gains) >= 0 < max(gains)

    found = [each for each in found if not any(beats(other, each) for other in found)]
    return sorted(found, key=lambda each: each[first], reverse=metrics[first] == "max")


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
        key, value = _key(row, columns), _value(row.get(metric), metric)
        if seed and value_text(row.get(seed)) == "null":
            raise TableError(
                f"{seed}: a row has none, so its pairs are unknown; seed= ignore={seed} is for runs without seeds"
            )
        choices.setdefault(key, {column: row.get(column) for column in columns})
        runs.setdefault(key, []).append((value_text(row.get(seed)) if seed else number, value))
    return [Group.of(choices[key], of_setting) for key, of_setting in runs.items()]


def _columns(
    table: Sequence[dict[str, Any]], others: Iterable[str | None], ignore: Sequence[str], is_repeated: bool = True
) -> list[str]:
    """Return the columns that vary and are settings: none of these others, and none that `ignore` names.

    Raises:
        TableError: Settings are expected to have several rows, and each row is one of its own.
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

"""Ranking of settings: which can't be told apart from the best, on one data set and over several."""

import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.verdict.groups import LEVEL, MIN_VALUES, Group, Samples, Verdict, decide, look_level, samples_of
from leyden.verdict.numbers import printable, table_lines
from leyden.verdict.quantiles import expected_maximum, range_quantile

MARK = "≈"
MAX_NAMED = 5  # rows in a sentence
MIN_SETS, MIN_SETS_OF_TWO = 5, 6  # data sets over which more than two settings, and two, are ranked
EQUAL = "all values are equal; does the seed take effect?"
REPEATED = "Runs that repeat another one count once in n, with their mean."


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


def rank(
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

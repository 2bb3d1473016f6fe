"""Ranking of settings: which can't be told apart from the best, on one data set and over several."""

import math
import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.verdict.difference import LEVEL, Verdict, decide, look_level, not_normal, unseen_failures
from leyden.verdict.groups import MIN_VALUES, Group, Samples, samples_of
from leyden.verdict.numbers import is_finite
from leyden.verdict.quantiles import expected_maximum, range_quantile

MARK = "≈"
MAX_NAMED = 6  # rows in a sentence
MIN_SETS, MIN_SETS_OF_TWO = 5, 6  # data sets over which more than two settings, and two, are ranked


@dataclass(frozen=True)
class Ranking:
    """The settings of a table that can't be told apart from the best one.

    Args:
        like_best: For each row whether it may be the best; None if that can't be told, as with too few runs.
        remarks: The findings in words.
        first: Index of the best row that has enough runs; -1 if none has.
        verdicts: The comparison of the best row with each other tested one, by index.
        samples: The values of the tested rows, in order of `tested`; None if there are fewer than two.
        tested: Indices of the rows that have enough runs, and were not excluded before.
    """

    like_best: list[bool | None]
    remarks: list[str]
    first: int = -1
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    samples: Samples | None = None
    tested: tuple[int, ...] = ()


def rank(
    groups: Sequence[Group],
    mode: str,
    *,
    look: int = 1,
    unit: str = "seeds",
    lost: int = 0,
    excluded: Sequence[int] = (),
    numbers: Sequence[int] = (),
) -> Ranking:
    """Find the settings that can't be told apart from the best one.

    These are multiple comparisons with the best (Hsu, Multiple comparisons, 1996), with variances that may differ: each
    other row is tested one-sided at the level 5 % / (rows - 1), so the row that is truly best is the first or may be
    the best with a probability of at least 95 %.

    Args:
        groups: The finite values of each row, best mean first.
        mode: `min` or `max`, the better direction.
        look: Number of this look at the table, as in `look_level`.
        unit: What the values of a row differ in, such as `seeds`.
        lost: Number of runs that have no value.
        excluded: Indices of rows that an earlier look has excluded; they are not tested again.
        numbers: Numbers of the rows in a table that has others, for the remarks; empty for their places, from 1 on.
    """
    names = numbers or range(1, len(groups) + 1)
    among = f" of rows {names[0]} to {names[-1]}" * bool(numbers)
    enough = [len(group.values) >= MIN_VALUES for group in groups]
    tested = [number for number, is_enough in enumerate(enough) if is_enough and number not in excluded]
    like_best: list[bool | None] = [False if number in excluded else None for number in range(len(groups))]
    if len(groups) < 2 or not tested or (len(tested) < 2 and not excluded):
        few = [f"n too small to tell which row is best: that takes {MIN_VALUES} {unit} per row."]
        return Ranking(like_best, few * (len(groups) > 1), tested[0] if tested else -1)
    first, *others = tested
    like_best[first] = True
    samples, verdicts = None, {}
    if others:
        samples = samples_of([groups[number] for number in tested])
        level, next_level = (2 * look_level(each) / len(others) for each in (look, look + 1))
        verdicts = {
            number: decide(samples, 0, place, mode, level, next_level)
            for place, number in enumerate(others, start=1)
        }
        is_last = False  # rows below the first that is excluded have no mark, though some may be too wide to tell
        for number, found in verdicts.items():
            is_excluded = found.better == "a"
            is_last |= is_excluded
            like_best[number] = False if is_excluded else None if is_last or found.why else True
    ranking = Ranking(like_best, [], first, verdicts, samples, tuple(tested))
    ranking.remarks.append(_claim(ranking, names, lost, among, enough))
    ranking.remarks.extend(_remarks(ranking, names, unit, lost, enough))
    if samples:
        ranking.remarks.extend(shape_remarks(samples, unit))
    return ranking


def _claim(ranking: Ranking, names: Sequence[int], lost: int, among: str, enough: Sequence[bool]) -> str:
    """Return the claim about the best row; if some runs have no value, it is limited to those that have."""
    best = f"row {names[ranking.first]}"
    if any(ranking.like_best[number] for number in ranking.verdicts):
        best += f" or one marked {MARK}"
    if unclear := _unclear(ranking):
        best += f", or {_name_rows([names[number] for number in unclear]).lower()}"
    of = f"{among} of those with {MIN_VALUES} runs" if not all(enough) else among
    by = ", by the runs that finished," * bool(lost)
    return f"With {100 * (1 - LEVEL):g} % confidence the best setting{of}{by} is {best}."


def _unclear(ranking: Ranking) -> list[int]:
    return [number for number in ranking.verdicts if ranking.like_best[number] is None]


def _remarks(ranking: Ranking, names: Sequence[int], unit: str, lost: int, enough: Sequence[bool]) -> list[str]:
    """Return what qualifies the claim: rows too wide or too small, the power, and the bias of the best mean."""
    samples = ranking.samples
    remarks = [
        f"{lost} run{'s have' if lost > 1 else ' has'} no value and {'are' if lost > 1 else 'is'} not counted."
    ] * bool(lost)
    if unclear := [names[number] for number in _unclear(ranking)]:
        remarks.append(
            f"{_name_rows(unclear)}: no spread, or too wide a one, to be excluded; more {unit} would tell."
        )
    if few := [names[number] for number, is_enough in enumerate(enough) if not is_enough]:
        remarks.append(f"{_name_rows(few)}: fewer than {MIN_VALUES} {unit} with a value, not compared.")
    kept = [place for place, number in enumerate(ranking.tested) if ranking.like_best[number] is not False]
    if samples and len(kept) > 1:
        usual = next(iter(ranking.verdicts.values()))
        if samples.typical:
            pair = Samples(
                (samples.typical, samples.typical), samples.num_pairs, most_freedom=samples.typical.freedom
            )
            usual = decide(pair, 0, 1, usual.mode, usual.level, usual.next_level)
        if usual.error:
            remarks.append(usual.power_in_words(unit, "Four of five rows worse by {} are excluded"))
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


def shape_remarks(samples: Samples, unit: str, num: int = 0) -> list[str]:
    """Return what is conspicuous about the values' distribution, and how often rare failures remain unseen.

    Args:
        samples: The values of all rows.
        unit: As in `rank`.
        num: Number of values of each compared row; 0 for the smallest number of all rows.
    """
    shapes = [*dict.fromkeys(sample.shape for sample in samples.each)]
    spreads = samples.typical and (samples.typical.variance, max(sample.variance for sample in samples.each))
    why = not_normal(shapes, tuple(map(math.sqrt, spreads)) if spreads else ())
    remarks = [f"Not normal: {why}.", "Student's t assumes normal values; it may claim too much."] if why else []
    unseen = unseen_failures(num or min(sample.num for sample in samples.each), unit)
    return [*remarks, unseen] if unseen else remarks


def _name_rows(names: Sequence[int]) -> str:
    """Return rows in words, such as `Row 3` or `Rows 1 and 4`; of many rows the first ones."""
    texts = [*map(str, names)]
    if len(texts) > MAX_NAMED:
        texts = [*texts[: MAX_NAMED - 1], f"{len(texts) - MAX_NAMED + 1} more"]
    return f"Row {texts[0]}" if len(texts) == 1 else f"Rows {', '.join(texts[:-1])} and {texts[-1]}"


@dataclass(frozen=True)
class RankingOverSets:
    """Settings ranked over several data sets.

    Args:
        mean_ranks: Mean rank of each setting, 1 being the best; best first.
        critical: Difference of two mean ranks from which on they are significantly different; None for too few sets.
        num_sets: Number of data sets on which all settings have a value.
        like_best: Settings that can't be told apart from the best one; empty for too few data sets.
    """

    mean_ranks: Mapping[Hashable, float]
    critical: float | None
    num_sets: int
    like_best: tuple[Hashable, ...]

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
    whole = [
        values for values in means.values() if len(values) == len(settings) and all(map(is_finite, values.values()))
    ]
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


def num_pairs(num_settings: int) -> int:
    """Return the number of pairs of settings, by which a level is divided if two were chosen by their results (Bonferroni).

    Example:
        >>> num_pairs(20), num_pairs(2)
        (190, 1)
    """
    return num_settings * (num_settings - 1) // 2

"""Which settings can't be told apart from the best one, on one data set and over several."""

import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leyden.verdict.difference import (
    FIRST,
    LEVEL,
    Look,
    Verdict,
    decide_among,
    look_level,
    width,
)
from leyden.verdict.groups import (
    MIN_VALUES,
    Group,
    Samples,
    samples_of_all,
    samples_of_two,
    shape_remarks,
)
from leyden.verdict.quantiles import expected_maximum, range_quantile
from leyden.verdict.reports import Report, TextRow
from leyden.verdict.tables import (
    DataRows,
    RunTable,
    check_look,
    check_mode,
    mixed_remarks,
    order_of,
)

MAX_NAMED = 5  # rows in a sentence
MARK = "≈"
# Of so many equal rows, some one is excluded more often than the level; a certain one is not.
MANY = 6
ABOUT_THE_BEST = "Ask leyden compare before you claim that a certain row is worse."
MIN_SETS = 5  # data sets over which more than two settings are ranked
MIN_SETS_OF_TWO = 6  # and two; with five, no exact test can tell
EQUAL = "all values are equal; does the seed take effect?"
REPEATED = "Runs that repeat another one count once in n, with their mean."


@dataclass(frozen=True)
class Ranking(Report):
    """The settings of a table, best first, and which of them may be the best; `str` gives the text.

    Args:
        settings: The settings, best mean first.
        like_best: For each row whether it may be the best; None if that can't be told, as with too
            few runs.
        remarks: The findings in words.
        first: Index of the best row that has enough runs; -1 if none has.
        verdicts: The comparison of the best row with each other tested one, by index.
        samples: The values of the tested rows, the first one and those with a verdict; None if
            there are fewer than two.
        metric: Name of the metric.
        mode: `min` or `max`, the better direction.
    """

    settings: Sequence[Group]
    like_best: list[bool | None]
    remarks: list[str]
    first: int = -1
    verdicts: Mapping[int, Verdict] = field(default_factory=dict)
    samples: Samples | None = None
    metric: str = ""
    mode: str = ""

    @property
    def tested(self) -> list[int]:
        """Index of each row that is compared with the others."""
        return [self.first, *self.verdicts]

    @property
    def unclear(self) -> list[int]:
        """Index of each row of which it can't be told whether it may be the best."""
        return [place for place in self.verdicts if self.like_best[place] is None]

    def cells(self) -> list[TextRow]:
        """Return the settings, those marked that may be the best, too."""
        cells: list[TextRow] = [("row", "setting", self.metric, "n")]
        for number, setting in enumerate(self.settings):
            measured = setting.measured
            if self.like_best[number] and number != self.first:
                measured += f" {MARK}"
            cells.append((str(number + 1), setting.name, measured, setting.count))
        return cells

    def lines(self) -> list[str]:
        """Return the findings in words."""
        return self.remarks

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per setting, with the interval of its difference from the best one."""
        rows = []
        for number, setting in enumerate(self.settings):
            row = {**setting.choices, **self._measured(number)}
            verdict = self.verdicts.get(number)
            if verdict and verdict.interval:
                low, high = verdict.interval
                best = self.settings[self.first].name
                row |= {"a": setting.name, "b": best, "low": -high, "high": -low}
                row["difference"] = -(verdict.difference or 0.0)
            rows.append(row)
        return rows

    def _measured(self, number: int) -> dict[str, Any]:
        setting = self.settings[number]
        return {
            "objective": setting.mean if setting.values else None,
            "deviation": setting.deviation,
            "n": len(setting.values),
            "lost": setting.lost,
            "like_best": self.like_best[number],
        }

    def contents(self) -> dict[str, Any]:
        """Return the settings and the findings, as `leyden summarize` does of runs."""
        rows = []
        for number, setting in enumerate(self.settings):
            rows.append({"choices": setting.choices, **self._measured(number)})
        objective = {"metric": self.metric, "mode": self.mode}
        return {"objective": objective, "rows": rows, "remarks": self.remarks}

    def compared(self) -> list[Sequence[Group]]:
        """Return the settings."""
        return [self.settings]


def rank_settings(
    settings: Sequence[Group],
    mode: str,
    look: Look = FIRST,
    excluded: Collection[str] = (),
    number: int | None = None,
) -> Ranking:
    """Find the settings that can't be told apart from the best one.

    These are multiple comparisons with the best (Hsu, Multiple comparisons, 1996), with variances
    that may differ: each other row is tested one-sided at the level 5 % / (rows - 1), so the row
    that is truly best is the first or may be the best with a probability of at least 95 %. Of three
    or more rows each pair is tested twice, see `decide_among`.

    Args:
        settings: The rows, best mean first; their values are finite.
        mode: `min` or `max`, the better direction.
        look: The look at the table.
        excluded: Names of settings that an earlier look has excluded; they are not tested again.
        number: Number of the first row in a table that has others, too, for the remarks; None if it
            has none.
    """
    tested = []
    like_best: list[bool | None] = []
    for place, setting in enumerate(settings):
        is_gone = setting.name in excluded
        like_best.append(False if is_gone else None)
        if len(setting.values) >= MIN_VALUES and not is_gone:
            tested.append(place)
    is_alone = len(tested) == 1 and bool(excluded)  # all others were excluded earlier
    if len(settings) < 2 or not tested or (len(tested) < 2 and not is_alone):
        first = tested[0] if tested else -1
        return Ranking(settings, like_best, _too_few(settings), first, mode=mode)
    first = tested[0]
    groups = [settings[place] for place in tested]
    samples = samples_of_all(groups) if len(groups) > 2 else None
    # A one-sided level is half of a two-sided one.
    asked = look.asked(mode, max(len(groups) - 1, 1) / 2)
    verdicts = {}
    for among_tested, place in enumerate(tested[1:], start=1):
        verdicts[place] = decide_among(groups, samples, 0, among_tested, asked)
    like_best[first] = True
    like_best = _marked(like_best, verdicts)
    if len(groups) == 2:
        samples = samples_of_two(groups[0], groups[1])
    ranking = Ranking(settings, like_best, [], first, verdicts, samples, mode=mode)
    ranking.remarks.extend(_remarks(ranking, number))
    return ranking


def _too_few(settings: Sequence[Group]) -> list[str]:
    remarks = []
    if len(settings) > 1:
        takes = f"that takes {MIN_VALUES} runs per row"
        remarks.append(f"n too small to tell which row is best: {takes}.")
    if any(setting.is_repeated for setting in settings):
        remarks.append(REPEATED)
    return remarks


def _marked(like_best: list[bool | None], verdicts: Mapping[int, Verdict]) -> list[bool | None]:
    """Return which rows may be the best; rows below an excluded one may be too wide to tell."""
    found = [*like_best]
    is_below_excluded = False
    for place, verdict in verdicts.items():
        if verdict.better == "a":
            found[place] = False
            is_below_excluded = True
        elif verdict.interval and not is_below_excluded:
            found[place] = True
    return found


def _remarks(ranking: Ranking, number: int | None) -> list[str]:
    """Return all remarks on a ranking."""
    remarks = [_confidence(ranking, number)]
    like = [ranking.like_best[place] for place in ranking.tested]
    if False in like and len(like) >= MANY:
        remarks.append(ABOUT_THE_BEST)
    remarks += _exceptions(ranking, number)
    if like.count(False) < len(like) - 1 and ranking.samples:
        power = _power(ranking.verdicts.values())
        if power:
            remarks += power.power_in_words("A row worse by {} is excluded")
        # A row that is too wide to be excluded says nothing of the others' means.
        kept = [number for number, may_be_best in enumerate(like) if may_be_best]
        bias = optimism(ranking.samples, kept)
        if bias:
            row = _name_rows([ranking.first], number)
            why = f"it was chosen by its mean, which is up to {bias:.2g} too good"
            remarks.append(f"Measure {row} anew: {why}.")
    if any(setting.is_repeated for setting in ranking.settings):
        remarks.append(REPEATED)
    if ranking.samples:
        remarks += shape_remarks(ranking.samples)
    return remarks


def _confidence(ranking: Ranking, number: int | None) -> str:
    """Return the claim about the best row, limited to the runs that have a value."""
    settings = ranking.settings
    of = ""
    if number is not None:
        of += f" of rows {number} to {number + len(settings) - 1}"
    if any(len(setting.values) < MIN_VALUES for setting in settings):
        of += f" of those with {MIN_VALUES} runs"
    if any(settings[place].lost for place in ranking.tested):
        of += ", by the runs that finished,"
    best = _name_rows([ranking.first], number)
    if any(ranking.like_best[place] for place in ranking.verdicts):
        best += f" or one marked {MARK}"
    if ranking.unclear:
        best += f", or {_name_rows(ranking.unclear, number)}"
    return f"With {100 * (1 - LEVEL):g} % confidence the best setting{of} is {best}."


def _exceptions(ranking: Ranking, number: int | None) -> list[str]:
    """Return what limits the claim: lost runs, rows too wide or too small, rows without spread."""
    settings = ranking.settings
    remarks = []
    lost = sum(settings[place].lost for place in ranking.tested)
    if lost:
        remarks.append(f"Runs without a value, which are not counted: {lost}.")
    if ranking.unclear:
        rows = _name_rows(ranking.unclear, number)
        remarks.append(f"Add runs to {rows}: without spread, or too wide to be excluded.")
    few = [place for place, each in enumerate(settings) if len(each.values) < MIN_VALUES]
    if few:
        rows = _name_rows(few, number)
        remarks.append(f"Add runs to {rows}: fewer than {MIN_VALUES} have a value.")
    equal = [place for place in ranking.tested if not settings[place].deviation]
    if equal:
        remarks.append(f"{_name_rows(equal, number).capitalize()}: {EQUAL}")
    return remarks


def _name_rows(places: Sequence[int], number: int | None) -> str:
    """Return rows in words, such as `row 3` or `rows 1, 4`; of many rows the first ones."""
    begin = number or 1
    shown = ", ".join(str(place + begin) for place in places[:MAX_NAMED])
    if len(places) == 1:
        return f"row {shown}"
    if len(places) > MAX_NAMED:
        return f"rows {shown} and {len(places) - MAX_NAMED} more"
    return f"rows {shown}"


def _power(verdicts: Collection[Verdict]) -> Verdict | None:
    """Return the comparison whose interval is of the usual width."""
    known = [verdict for verdict in verdicts if verdict.interval]
    known.sort(key=width)
    return known[len(known) // 2] if known else None


def optimism(samples: Samples, kept: Sequence[int]) -> float:
    """Return by how much the best of some means is too good on average, at most.

    That is so if all are equally good.

    Args:
        samples: The samples.
        kept: Indices of those that can't be told apart from the best.
    """
    squared = []
    for number in kept:
        sample = samples.each[number]
        squared.append(sample.own_variance * (1 / sample.num + sample.overlap))
    return expected_maximum(len(kept)) * math.sqrt(statistics.fmean(squared))


def rank(
    rows: DataRows,
    metric: str,
    *,
    mode: str,
    seed: str | None = "seed",
    ignore: Sequence[str] = (),
    over: str = "",
    look: int = 1,
    looks: int = 0,
) -> "Ranking | RankingOverSets":
    """Rank the settings of a table: which can't be told apart from the best.

    Args:
        rows: The table, a row per run; or a data frame of pandas or Polars.
        metric: Column of the metric.
        mode: `min` or `max`, the better direction.
        seed: Column that pairs the runs of different settings; None if there is none.
        ignore: Columns that are no settings, such as other metrics and times; patterns like `time*`
            are allowed.
        over: Column of the data set: settings are ranked on each, and over all by their mean ranks;
            empty for one.
        look: Number of this look at the same settings, if runs or data sets were added since; it
            widens the verdict.
        looks: Number of looks that were planned before the first one; 0 without a plan.

    Raises:
        TableError: A column is missing, or each row is a setting of its own.

    Example:
        >>> accuracies = {0.1: 0.9, 0.2: 0.8}
        >>> rows = []
        >>> for lr, acc in accuracies.items():
        ...     rows += [{"lr": lr, "seed": seed, "acc": acc + seed / 1000} for seed in range(3)]
        >>> print(str(rank(rows, "acc", mode="max")).splitlines()[3])
        With 95 % confidence the best setting is row 1.
    """
    check_mode(mode)
    check_look(look, looks)
    table = RunTable.of(rows, metric, seed, ignore, over)
    each: dict[Hashable, Ranking] = {}
    sets: dict[Hashable, dict[str, Group]] = {}
    for name, of_set in table.sets.items():
        settings = sorted(of_set, key=lambda setting: order_of(setting, mode))
        found = rank_settings(settings, mode, Look(look, looks))
        remarks = [*mixed_remarks(settings), *found.remarks]
        each[name] = replace(found, metric=metric, remarks=remarks)
        sets[name] = {setting.name: setting for setting in settings}
    if not over:
        return each[""]
    return replace(rank_groups_over_sets(sets, mode, look, looks), each=each)


@dataclass(frozen=True)
class RankingOverSets(Report):
    """Settings ranked over several data sets.

    Args:
        mean_ranks: Mean rank of each setting, 1 being the best; best first. Not a number for one
            that has too few runs on each data set.
        critical: Difference of two mean ranks from which on they are significantly different; None
            for too few sets, and for two settings.
        num_sets: Number of data sets on which all settings have a value.
        like_best: Settings that can't be told apart from the best one; empty for too few data sets.
        each: The ranking on each data set, if `verdict.rank` has made them.
        p_value: Of two settings that of the exact signed-rank test; None for others.
        level: Significance level of this look.
        lost: Number of runs without a value.
    """

    mean_ranks: Mapping[Hashable, float]
    critical: float | None
    num_sets: int
    like_best: tuple[Hashable, ...]
    each: Mapping[Hashable, Ranking] = field(default_factory=dict)
    p_value: float | None = None
    level: float = LEVEL
    lost: int = 0

    def parts(self) -> Mapping[Hashable, Report]:
        """Return the ranking on each data set."""
        return self.each

    def cells(self) -> list[TextRow]:
        """Return the mean rank of each setting."""
        return [("setting", "mean rank"), *((str(name), rank) for name, rank in self.shown.items())]

    def lines(self) -> list[str]:
        """Return the findings in words."""
        return self.remarks

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per setting, with its mean rank."""
        rows = []
        for name, rank in self.mean_ranks.items():
            rows.append({"setting": name, "rank": rank, "like_best": name in self.like_best})
        return rows

    def facts(self) -> dict[str, Any]:
        """Return the mean ranks and the test."""
        return {
            "mean_ranks": {str(name): rank for name, rank in self.mean_ranks.items()},
            "critical": self.critical,
            "num_sets": self.num_sets,
            "p_value": self.p_value,
            "level": self.level,
            "lost": self.lost,
            "remarks": self.remarks,
        }

    @property
    def shown(self) -> dict[Hashable, str]:
        """Mean rank of each setting as text, marked if it may be the best one, too."""
        found: dict[Hashable, str] = {}
        for name, rank in self.mean_ranks.items():
            if math.isnan(rank):
                found[name] = "-"
                continue
            found[name] = f"{rank:.2f}"
            if name in self.like_best[1:]:
                found[name] += f" {MARK}"
        return found

    @property
    def remarks(self) -> list[str]:
        """The findings in words, and what they leave out."""
        remarks = self._test_in_words()
        if self.lost:
            left_out = f"its data set is left out where fewer than {MIN_VALUES} are left"
            remarks.append(f"Runs without a value: {self.lost}. Of a setting that lost runs,")
            remarks.append(f"{left_out}.")
        return remarks

    def _test_in_words(self) -> list[str]:
        """Return the test's result as lines; or how many data sets it takes."""
        num = self.num_sets
        num_ranked = sum(not math.isnan(rank) for rank in self.mean_ranks.values())
        if self.p_value is not None:
            return [
                f"Over {num} data sets, the exact signed-rank test has p = {self.p_value:.2g}",
                f"(Wilcoxon; significant below {self.level:.2g}; Demšar, 2006).",
            ]
        if self.critical is None:
            num_compared = num_ranked if num_ranked > 1 else len(self.mean_ranks)
            least = MIN_SETS_OF_TWO if num_compared == 2 else MIN_SETS
            return [f"Add data sets: {num} have all settings, and a ranking takes {least}."]
        closer = f"mean ranks closer than {self.critical:.2f} can't be told apart"
        remarks = [
            f"Over {num} data sets, {closer}",
            f"(critical difference of Nemenyi's test at {100 * self.level:.2g} %; Demšar, 2006).",
        ]
        if MANY <= num_ranked != len(self.like_best):
            remarks.append(ABOUT_THE_BEST)
        return remarks


def rank_groups_over_sets(
    sets: Mapping[Hashable, Mapping[str, Group]],
    mode: str,
    look: int = 1,
    looks: int = 0,
    num: int = 1,
) -> RankingOverSets:
    """Rank settings over several data sets by the means of their runs.

    A setting that has lost runs on a data set, and of which fewer than three are left, has no mean
    there: those that ended may be the lucky ones.

    Args:
        sets: The runs by data set, and in each by setting.
        mode: As in `rank_over_sets`.
        look: As in `rank_over_sets`.
        looks: As in `rank_over_sets`.
        num: As in `rank_over_sets`.
    """
    means: dict[Hashable, dict[str, float]] = {}
    without_rank: dict[Hashable, float] = {}
    lost = 0
    for name, groups in sets.items():
        means[name] = {}
        for setting, group in groups.items():
            without_rank[setting] = math.nan
            lost += group.lost
            is_whole = not group.lost or len(group.values) >= MIN_VALUES
            if group.values and is_whole:
                means[name][setting] = group.mean
    found = rank_over_sets(means, mode, look, looks, num)
    num_sets = found.num_sets
    if len(found.mean_ranks) < 2:
        num_sets = 0
    for ranked in found.mean_ranks:
        del without_rank[ranked]
    ranks = {**found.mean_ranks, **without_rank}
    return replace(found, mean_ranks=ranks, num_sets=num_sets, lost=lost)


def rank_over_sets(
    means: Mapping[Hashable, Mapping[str, float]],
    mode: str,
    look: int = 1,
    looks: int = 0,
    num: int = 1,
) -> RankingOverSets:
    """Rank settings over several data sets (Demšar, JMLR 7, 2006).

    Two settings are compared by the exact signed-rank test of their differences, more by their mean
    ranks.

    Args:
        means: Mean of the metric by data set, and in each by setting. Data sets that lack a setting
            do not count.
        mode: `min` or `max`, the better direction.
        look: Number of this look, as in `look_level`.
        looks: Number of planned looks, as in `look_level`.
        num: Number of comparisons that these settings were chosen from (Bonferroni).

    Example:
        >>> sets = {n: {"a": 0.9 + n / 100, "b": 0.8, "c": 0.7 - n / 100} for n in range(14)}
        >>> found = rank_over_sets(sets, "max")
        >>> found.mean_ranks, round(found.critical, 2), found.like_best
        ({'a': 1.0, 'b': 2.0, 'c': 3.0}, 0.93, ('a',))
    """
    settings: dict[str, None] = {}
    for values in means.values():
        settings.update(dict.fromkeys(values))
    whole = [values for values in means.values() if len(values) == len(settings)]
    found = RankingOverSets(
        mean_ranks=_mean_ranks([*settings], whole, mode),
        critical=None,
        num_sets=len(whole),
        like_best=(),
        level=look_level(look, looks) / num,
    )
    least = MIN_SETS_OF_TWO if len(settings) == 2 else MIN_SETS
    if len(settings) < 2 or len(whole) < least:
        return found
    if len(settings) == 2:
        first, second = settings
        differences = [values[first] - values[second] for values in whole]
        return _signed_rank_test(found, first, second, differences, mode)
    return _nemenyi_test(found)


def _signed_rank_test(
    ranking: RankingOverSets, first: str, second: str, differences: Sequence[float], mode: str
) -> RankingOverSets:
    """Return a ranking of two settings with Wilcoxon's test (Demšar, section 3.1.3).

    Args:
        ranking: The ranking without a test.
        first: A setting.
        second: The other one.
        differences: By how much the first one's mean is larger, on each data set.
        mode: `min` or `max`, the better direction.
    """
    p_value = signed_rank_p_value(differences)
    like_best = (*ranking.mean_ranks,)
    if p_value <= ranking.level:
        is_first_larger = sum(_signed_ranks(differences)) > 0
        is_first_better = is_first_larger == (mode == "max")
        like_best = (first if is_first_better else second,)
    return replace(ranking, like_best=like_best, p_value=p_value)


def _nemenyi_test(ranking: RankingOverSets) -> RankingOverSets:
    """Return a ranking of three or more settings with Nemenyi's test (Demšar, section 3.2.2)."""
    num = len(ranking.mean_ranks)
    quantile = range_quantile(ranking.level, num) / math.sqrt(2)
    error = math.sqrt(num * (num + 1) / (6 * ranking.num_sets))
    critical = quantile * error
    best = min(ranking.mean_ranks.values())
    near = []
    for setting, mean_rank in ranking.mean_ranks.items():
        if mean_rank - best < critical:
            near.append(setting)
    return replace(ranking, critical=critical, like_best=tuple(near))


def _mean_ranks(
    settings: Sequence[str], sets: Sequence[Mapping[str, float]], mode: str
) -> dict[Hashable, float]:
    """Return the mean rank of each setting, best first; not a number without a data set."""
    ranks: dict[Hashable, float] = {}
    for setting in settings:
        of_setting = []
        for values in sets:
            of_setting.append(_rank_of(values[setting], [*values.values()], mode))
        ranks[setting] = statistics.fmean(of_setting) if of_setting else math.nan
    return dict(sorted(ranks.items(), key=lambda item: item[1]))


def _rank_of(value: float, values: Sequence[float], mode: str) -> float:
    """Return the rank of one of some values, 1 being the best; equal ones share theirs."""
    num_better = sum(each > value if mode == "max" else each < value for each in values)
    num_equal = sum(each == value for each in values)
    return num_better + (num_equal + 1) / 2


def _signed_ranks(differences: Sequence[float]) -> list[int]:
    """Return twice the rank by size of each difference that is not 0, with its sign."""
    sizes = [abs(each) for each in differences if each]
    found = []
    for difference in differences:
        if difference:
            doubled = round(2 * _rank_of(abs(difference), sizes, "min"))
            found.append(doubled if difference > 0 else -doubled)
    return found


def signed_rank_p_value(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, exact also with equal sizes.

    Example:
        >>> signed_rank_p_value([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        0.03125
    """
    ranks = _signed_ranks(differences)
    counts = {0: 1}  # number of choices of signs, by the sum of signed ranks
    for rank in ranks:
        more: dict[int, int] = {}
        for total, count in counts.items():
            for changed in (total + rank, total - rank):
                more[changed] = more.get(changed, 0) + count
        counts = more
    seen = abs(sum(ranks))
    as_far = sum(count for total, count in counts.items() if abs(total) >= seen)
    return float(as_far / 2 ** len(ranks))

"""Which settings can't be told apart from the best one, on one data set and over several."""

import math
import statistics
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from leyden.verdict.difference import LEVEL, Asked, Verdict, decide, decide_among, look_level
from leyden.verdict.groups import (
    MIN_VALUES,
    Group,
    Samples,
    samples_of_all,
    samples_of_two,
    shape_remarks,
)
from leyden.verdict.numbers import aligned_lines, printable_value, value_text
from leyden.verdict.quantiles import expected_maximum, range_quantile
from leyden.verdict.tables import (
    DataRows,
    check_look,
    check_mode,
    order_of,
    records,
    setting_columns,
    settings_of,
)

MAX_NAMED = 5  # rows in a sentence
MARK = "≈"
MIN_SETS = 5  # data sets over which more than two settings are ranked
MIN_SETS_OF_TWO = 6  # and two; with five, no exact test can tell
EQUAL = "all values are equal; does the seed take effect?"
REPEATED = "Runs that repeat another one count once in n, with their mean."


@dataclass(frozen=True)
class Ranking:
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
            measured = setting.measured
            if self.like_best[number] and number != self.first:
                measured += f" {MARK}"
            rows.append((str(number + 1), setting.name, measured, setting.count))
        return "\n".join([*aligned_lines(rows), *self.remarks])


def rank_settings(
    settings: Sequence[Group],
    mode: str,
    look: int = 1,
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
        look: Number of this look at the table, as in `look_level`.
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
        return Ranking(settings, like_best, _too_few(settings), first)
    first = tested[0]
    groups = [settings[place] for place in tested]
    samples = samples_of_all(groups) if len(groups) > 2 else None
    asked = _asked(mode, look, len(groups) - 1)
    verdicts = {}
    for among_tested, place in enumerate(tested[1:], start=1):
        verdicts[place] = decide_among(groups, samples, 0, among_tested, asked)
    like_best[first] = True
    like_best = _marked(like_best, verdicts)
    if len(groups) == 2:
        samples = samples_of_two(groups[0], groups[1])
    ranking = Ranking(settings, like_best, [], first, verdicts, samples)
    ranking.remarks.extend(_remarks(ranking, groups, number))
    return ranking


def _too_few(settings: Sequence[Group]) -> list[str]:
    remarks = []
    if len(settings) > 1:
        remarks.append(
            f"n too small to tell which row is best: that takes {MIN_VALUES} runs per row."
        )
    if any(setting.is_repeated for setting in settings):
        remarks.append(REPEATED)
    return remarks


def _asked(mode: str, look: int, num_others: int) -> Asked:
    """Return what is asked of each other row; a one-sided level is half of a two-sided one."""
    if not num_others:
        return Asked(mode)
    level = 2 * look_level(look) / num_others
    return Asked(mode, level, 2 * look_level(look + 1) / num_others)


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


def _remarks(ranking: Ranking, groups: Sequence[Group], number: int | None) -> list[str]:
    """Return all remarks on a ranking."""
    remarks = [_confidence(ranking, number), *_exceptions(ranking, number)]
    kept = [
        among_tested
        for among_tested, place in enumerate([ranking.first, *ranking.verdicts])
        if ranking.like_best[place] is not False
    ]
    if len(kept) > 1 and ranking.samples:
        power = _power(ranking, groups)
        if power:
            remarks.append(power.power_in_words("Four of five rows worse by {} are excluded"))
        bias = optimism(ranking.samples, kept)
        if bias:
            best = f"Row {_name(ranking.first, number)} was chosen by its values"
            remarks.append(f"{best}: its mean is up to {bias:.2g} too good on average.")
    if any(setting.is_repeated for setting in ranking.settings):
        remarks.append(REPEATED)
    if ranking.samples:
        remarks.extend(shape_remarks(ranking.samples))
    return remarks


def _name(place: int, number: int | None) -> int:
    """Return the number of a row, as it is printed."""
    return place + (number or 1)


def _confidence(ranking: Ranking, number: int | None) -> str:
    """Return the claim about the best row, limited to the runs that have a value."""
    settings = ranking.settings
    tested = [ranking.first, *ranking.verdicts]
    of = ""
    if number is not None:
        of += f" of rows {number} to {_name(len(settings) - 1, number)}"
    if any(len(setting.values) < MIN_VALUES for setting in settings):
        of += f" of those with {MIN_VALUES} runs"
    if any(settings[place].lost for place in tested):
        of += ", by the runs that finished,"
    best = f"row {_name(ranking.first, number)}"
    if any(ranking.like_best[place] for place in ranking.verdicts):
        best += f" or one marked {MARK}"
    unclear = _unclear(ranking)
    if unclear:
        best += f", or {_name_rows(unclear, number).lower()}"
    return f"With {100 * (1 - LEVEL):g} % confidence the best setting{of} is {best}."


def _unclear(ranking: Ranking) -> list[int]:
    """Return the tested rows that are neither excluded nor marked."""
    return [place for place in ranking.verdicts if ranking.like_best[place] is None]


def _exceptions(ranking: Ranking, number: int | None) -> list[str]:
    """Return what limits the claim: lost runs, rows too wide or too small, rows without spread."""
    settings = ranking.settings
    tested = [ranking.first, *ranking.verdicts]
    remarks = []
    lost = sum(settings[place].lost for place in tested)
    if lost:
        remarks.append(f"Runs without a value, which are not counted: {lost}.")
    unclear = _unclear(ranking)
    if unclear:
        rows = _name_rows(unclear, number)
        why = "no spread, or too wide a one, to be excluded; more runs would tell."
        remarks.append(f"{rows}: {why}")
    few = [place for place, each in enumerate(settings) if len(each.values) < MIN_VALUES]
    if few:
        rows = _name_rows(few, number)
        remarks.append(f"{rows}: fewer than {MIN_VALUES} runs with a value, not compared.")
    equal = [place for place in tested if not settings[place].deviation]
    if equal:
        remarks.append(f"{_name_rows(equal, number)}: {EQUAL}")
    return remarks


def _name_rows(places: Sequence[int], number: int | None) -> str:
    """Return rows in words, such as `Row 3` or `Rows 1, 4`; of many rows the first ones."""
    shown = ", ".join(str(_name(place, number)) for place in places[:MAX_NAMED])
    if len(places) == 1:
        return f"Row {shown}"
    if len(places) > MAX_NAMED:
        return f"Rows {shown} and {len(places) - MAX_NAMED} more"
    return f"Rows {shown}"


def _power(ranking: Ranking, groups: Sequence[Group]) -> Verdict | None:
    """Return the comparison of two usual rows that differ in nothing, of the test that sees more."""
    found = [*ranking.verdicts.values()]
    usual = found[0]
    if len(groups) == 2:
        return usual if usual.interval else None
    asked = Asked(usual.mode, usual.level, usual.next_level)
    alone = []
    for other in groups[1:]:
        verdict = decide(samples_of_two(groups[0], other), 0, 1, asked, share=0.5)
        if verdict.interval:
            alone.append(verdict)
    alone.sort(key=lambda verdict: verdict.error)
    candidates = alone[len(alone) // 2 : len(alone) // 2 + 1]
    samples = ranking.samples
    if samples and samples.typical:
        pair = (samples.typical, samples.typical)
        most = samples.typical.freedom
        both = Samples(pair, samples.num_pairs, most_freedom=most)
        candidates.append(decide(both, 0, 1, asked, share=0.5))
    return min(candidates, key=lambda verdict: verdict.detectable(), default=None)


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
    check_look(look)
    named = [name for name in (seed, over) if name]
    table = records(rows, metric, named)
    columns = setting_columns(table, [metric, *named], ignore)
    sets: dict[Hashable, list[dict[str, object]]] = {}
    for row in table:
        sets.setdefault(value_text(row.get(over)) if over else "", []).append(row)
    each: dict[Hashable, Ranking] = {}
    means: dict[Hashable, dict[str, float]] = {}
    for name, of_set in sets.items():
        settings = settings_of(of_set, columns, metric, seed)
        settings.sort(key=lambda setting: order_of(setting, mode))
        each[name] = replace(rank_settings(settings, mode, look), metric=metric)
        means[name] = {setting.name: setting.mean for setting in settings if setting.values}
    if not over:
        return each[""]
    return replace(rank_over_sets(means, mode, look), each=each)


@dataclass(frozen=True)
class RankingOverSets:
    """Settings ranked over several data sets.

    Args:
        mean_ranks: Mean rank of each setting, 1 being the best; best first.
        critical: Difference of two mean ranks from which on they are significantly different; None
            for too few sets, and for two settings.
        num_sets: Number of data sets on which all settings have a value.
        like_best: Settings that can't be told apart from the best one; empty for too few data sets.
        each: The ranking on each data set, if `verdict.rank` has made them.
        p_value: Of two settings that of the exact signed-rank test; None for others.
        level: Significance level of this look.
    """

    mean_ranks: Mapping[Hashable, float]
    critical: float | None
    num_sets: int
    like_best: tuple[Hashable, ...]
    each: Mapping[Hashable, Ranking] = field(default_factory=dict)
    p_value: float | None = None
    level: float = LEVEL

    def __str__(self) -> str:
        """Return a table per data set, and the mean ranks."""
        parts = [f"{printable_value(name)}\n{found}" for name, found in self.each.items()]
        rows = [("setting", "mean rank")]
        rows += [(str(name), each) for name, each in self.shown.items()]
        return "\n\n".join([*parts, "\n".join([*aligned_lines(rows), *self.remarks])])

    @property
    def shown(self) -> dict[Hashable, str]:
        """Mean rank of each setting as text, marked if it may be the best one, too."""
        found: dict[Hashable, str] = {}
        for name, rank in self.mean_ranks.items():
            found[name] = f"{rank:.2f}"
            if name in self.like_best[1:]:
                found[name] += f" {MARK}"
        return found

    @property
    def remarks(self) -> list[str]:
        """The findings in words."""
        if self.p_value is not None:
            return [
                f"Over {self.num_sets} data sets, the exact signed-rank test has p = {self.p_value:.2g}",
                f"(Wilcoxon; significant below {self.level:.2g}; Demšar, 2006).",
            ]
        if self.critical is None:
            least = MIN_SETS_OF_TWO if len(self.mean_ranks) == 2 else MIN_SETS
            few = f"Too few data sets have all settings, {self.num_sets}"
            return [f"{few}: to rank over them takes {least}."]
        closer = f"mean ranks closer than {self.critical:.2f} can't be told apart"
        return [
            f"Over {self.num_sets} data sets, {closer}",
            f"(critical difference of Nemenyi's test at {100 * self.level:.2g} %; Demšar, 2006).",
        ]


def rank_over_sets(
    means: Mapping[Hashable, Mapping[str, float]], mode: str, look: int = 1
) -> RankingOverSets:
    """Rank settings over several data sets (Demšar, JMLR 7, 2006).

    Two settings are compared by the exact signed-rank test of their differences, more by their mean
    ranks.

    Args:
        means: Mean of the metric by data set, and in each by setting. Data sets that lack a setting
            do not count.
        mode: `min` or `max`, the better direction.
        look: Number of this look, as in `look_level`.

    Example:
        >>> sets = {n: {"a": 0.9 + n / 100, "b": 0.8, "c": 0.7 - n / 100} for n in range(14)}
        >>> found = rank_over_sets(sets, "max")
        >>> found.mean_ranks, round(found.critical, 2), found.like_best
        ({'a': 1.0, 'b': 2.0, 'c': 3.0}, 0.93, ('a',))
    """
    settings = [*dict.fromkeys(setting for values in means.values() for setting in values)]
    whole = [values for values in means.values() if len(values) == len(settings)]
    num = len(settings)
    ranks: dict[str, list[float]] = {setting: [] for setting in settings}
    for values in whole:
        for setting, value in values.items():
            ranks[setting].append(_rank_of(value, [*values.values()], mode))
    mean_ranks = {name: statistics.fmean(of_name) for name, of_name in ranks.items() if of_name}
    ordered: dict[Hashable, float] = dict(sorted(mean_ranks.items(), key=lambda item: item[1]))
    level = look_level(look)
    least = MIN_SETS_OF_TWO if num == 2 else MIN_SETS
    if num < 2 or len(whole) < least:
        return RankingOverSets(
            ordered or dict.fromkeys(settings, math.nan), None, len(whole), (), level=level
        )
    if num == 2:
        first, second = settings
        differences = [values[first] - values[second] for values in whole]
        p_value = signed_rank_p_value(differences)
        like_best = [*ordered] if p_value > level else [_better(differences, settings, mode)]
        return RankingOverSets(
            ordered, None, len(whole), tuple(like_best), p_value=p_value, level=level
        )
    error = math.sqrt(num * (num + 1) / (6 * len(whole)))
    critical = range_quantile(level, num) / math.sqrt(2) * error
    best = min(ordered.values())
    like_best = [setting for setting, each in ordered.items() if each - best < critical]
    return RankingOverSets(ordered, critical, len(whole), tuple(like_best), level=level)


def _rank_of(value: float, values: Sequence[float], mode: str) -> float:
    """Return the rank of one of some values, 1 being the best; equal ones share theirs."""
    num_better = sum(each > value if mode == "max" else each < value for each in values)
    num_equal = sum(each == value for each in values)
    return num_better + (num_equal + 1) / 2


def _better(differences: Sequence[float], settings: Sequence[str], mode: str) -> Hashable:
    """Return which of two settings has the larger sum of signed ranks."""
    is_first_higher = _signed_sum(differences) > 0
    return settings[0] if is_first_higher == (mode == "max") else settings[1]


def _doubled_ranks(differences: Sequence[float]) -> list[tuple[float, int]]:
    """Return each difference that is not 0, with twice its rank by size."""
    sizes = [abs(each) for each in differences if each]
    found = []
    for difference in differences:
        if difference:
            rank = _rank_of(abs(difference), sizes, "min")
            found.append((difference, round(2 * rank)))
    return found


def _signed_sum(differences: Sequence[float]) -> int:
    return sum(rank if each > 0 else -rank for each, rank in _doubled_ranks(differences))


def signed_rank_p_value(differences: Sequence[float]) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, exact also with equal sizes.

    Example:
        >>> signed_rank_p_value([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
        0.03125
    """
    ranks = [rank for _, rank in _doubled_ranks(differences)]
    counts = {0: 1}  # number of choices of signs, by the sum of signed ranks
    for rank in ranks:
        more: dict[int, int] = {}
        for total, count in counts.items():
            for changed in (total + rank, total - rank):
                more[changed] = more.get(changed, 0) + count
        counts = more
    seen = abs(_signed_sum(differences))
    as_far = sum(count for total, count in counts.items() if abs(total) >= seen)
    return float(as_far / 2 ** len(ranks))

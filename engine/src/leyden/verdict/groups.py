"""Groups of values, one per setting, and what is known of their spread: by two alone, or by all.

Two tests stand beside each other. `samples_of_two` asks two groups alone (Student's or Welch's
test). `samples_of_all` lets the groups of a table lend each other what few values can't show. The
first can be decided by no other group, the second sees more in a table of few seeds.
"""

import functools
import math
import operator
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from leyden.verdict.numbers import metric_text, value_text
from leyden.verdict.quantiles import chi_squared_quantile, t_quantile

MIN_VALUES = 3  # per group; with fewer, the deviation is meaningless
MIN_PAIRS = 6  # of two groups; with fewer, pairs lose more than they gain
MIN_TRIMMED = 8  # values per group of an interquartile mean
MIN_PLANNED_PAIRS = 4  # of two groups that were to be compared in pairs from the start
MIN_FREEDOM = 5  # of a comparison of all groups in pairs, (values - 1) * (groups - 1)
FLOOR = 0.85  # quantile of the variances of a table's groups that each group has at least
TYPICAL = 0.6  # quantile of the variances that counts as usual, in remarks
FREEDOM_SHARE = 0.5  # degrees of freedom of such a quantile, per one of all groups
ROUNDING = 2.0**-50  # share of the largest value; smaller deviations come from double precision

MIN_SHAPED = 4  # values of a group; with fewer, no single value can be far from the others
OUTLIER_LEVEL = 0.01  # rate of tables of normal values in which a value counts as an outlier
RARE = 0.1  # rate of seeds that fail, of which a line says how often they remain unseen
MAX_UNSEEN = 0.2  # up to this probability nothing is said
MAX_SPREAD_RATIO = 10  # of two standard deviations
MAX_SPREAD_RATIO_OF_FEW = 15  # of two standard deviations, for groups of three values


@dataclass(frozen=True)
class Group:
    """The runs of one setting, which differ only in their seeds and folds.

    Args:
        values: Value of the metric for each run, by what pairs it with runs of other settings,
            such as its seed and its fold.
        overlap: Term added to 1/n in the variance of the mean: 1/(k - 1) if the runs are from k
            folds, which share training data and are therefore not independent.
        choices: The setting: its value of each key that varies between settings.
        lost: Number of its runs without a value.
        is_repeated: Whether a value is the mean of several runs, which repeat each other.
    """

    values: Mapping[Any, float]
    overlap: float = 0.0
    choices: Mapping[str, Any] = field(default_factory=dict)
    lost: int = 0
    is_repeated: bool = False

    @classmethod
    def of(
        cls,
        choices: Mapping[str, Any],
        runs: Iterable[tuple[Hashable, float | None]],
        overlap: float = 0.0,
    ) -> "Group":
        """Return a group from the key and the value of each run, None without a value.

        Equal keys count once, with the mean of their values.
        """
        values: dict[Hashable, list[float]] = {}
        for key, value in runs:
            of_key = values.setdefault(key, [])
            if value is not None:
                of_key.append(value)
        known = {key: statistics.fmean(of_key) for key, of_key in values.items() if of_key}
        is_repeated = any(len(of_key) > 1 for of_key in values.values())
        return cls(known, overlap, choices, len(values) - len(known), is_repeated)

    @functools.cached_property
    def name(self) -> str:
        """The setting as text."""
        parts = [f"{key}={value_text(value)}" for key, value in self.choices.items()]
        return " ".join(parts) or "all"

    @functools.cached_property
    def mean(self) -> float:
        """Mean of the values; not a number without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @functools.cached_property
    def deviation(self) -> float | None:
        """Standard deviation of the values; None for fewer than two."""
        values = [*self.values.values()]
        if len(values) < 2:
            return None
        if min(values) == max(values):
            return 0.0
        return math.sqrt(_squares(values) / (len(values) - 1))

    @property
    def measured(self) -> str:
        """Mean and standard deviation as text; empty without a value."""
        return metric_text(self.mean, self.deviation) if self.values else ""

    @property
    def count(self) -> str:
        """Number of values as text, and of how many runs."""
        num = len(self.values)
        return f"{num} of {num + self.lost}" if self.lost else f"{num}"


@dataclass(frozen=True)
class Sample:
    """The values of a group as they are tested.

    Args:
        num: Number of values.
        mean: Their mean.
        variance: Variance of one value by which the group is tested.
        freedom: Degrees of freedom of the variance.
        overlap: As in `Group`.
        shape: The values whose distribution counts, which is assumed to be normal.
        own_variance: Variance of its own values, without what a seed does to all groups.
    """

    num: int
    mean: float
    variance: float
    freedom: float
    overlap: float
    shape: tuple[float, ...]
    own_variance: float

    def squared_error(self) -> float:
        """Return the variance of the mean.

        Source: for folds, Nadeau and Bengio, Machine Learning 52, 2003.
        """
        return self.variance * (1 / self.num + self.overlap)

    def at_least(self, variance: float, freedom: float) -> "Sample":
        """Return the sample with this variance or its own larger one, and its degrees of freedom.

        Args:
            variance: The least variance.
            freedom: Its degrees of freedom; of a wider sample they count for the part that it
                lends.
        """
        if self.variance > variance:
            lent = freedom * variance / self.variance
            return replace(self, freedom=max(self.freedom, lent))
        return replace(self, variance=variance, freedom=max(self.freedom, freedom))


@dataclass(frozen=True)
class Samples:
    """The groups of a table, as they are tested.

    Args:
        each: The samples, in the order of the groups.
        num_pairs: Number of values that all groups share and that are compared in pairs; 0 if they
            are not.
        usual_deviation: Standard deviation that counts as usual in remarks; 0 for two groups.
        most_freedom: Largest allowed number of degrees of freedom of a difference.
    """

    each: tuple[Sample, ...]
    num_pairs: int
    usual_deviation: float = 0.0
    most_freedom: float = math.inf

    def freedom(self, a: int, b: int) -> float:
        """Return the degrees of freedom of a difference of two means.

        Source: Welch, Biometrika 34, 1947.
        """
        first = self.each[a].squared_error()
        second = self.each[b].squared_error()
        whole = first + second
        share_of_first = (first / whole) ** 2 / self.each[a].freedom
        share_of_second = (second / whole) ** 2 / self.each[b].freedom
        return min(self.most_freedom, 1 / (share_of_first + share_of_second))


def trimmed_samples(a: Group, b: Group) -> Samples:
    """Return two groups of eight or more finite values, by the middle half of each.

    These are interquartile means with Yuen's error, that of values whose outer quarters are drawn
    in to the middle half (Biometrika 61, 1974). A run that collapses among eight changes little.
    """
    each = []
    for group in (a, b):
        values = sorted(group.values.values())
        cut = len(values) // 4
        middle = values[cut : len(values) - cut]
        drawn_in = [*cut * [middle[0]], *middle, *cut * [middle[-1]]]
        num = len(middle)
        whole = _variance(drawn_in, group)
        variance = whole * (len(values) - 1) / (num - 1)
        mean = statistics.fmean(middle)
        each.append(Sample(num, mean, variance, num - 1, group.overlap, tuple(middle), variance))
    return Samples(tuple(each), 0)


def samples_of_two(a: Group, b: Group, min_pairs: int = MIN_PAIRS) -> Samples:
    """Return two groups of three or more finite values as samples that no other group changes.

    Groups that share most of their seeds are compared in pairs, from `min_pairs` on; folds always.
    Otherwise the deviation of the differences would be known too badly, and the groups are compared
    apart, by Welch's test.
    """
    shared = _shared_keys([a, b])
    overlap = max(a.overlap, b.overlap)
    enough = MIN_VALUES if overlap else min_pairs
    share_most = 2 * len(shared) > max(len(a.values), len(b.values))
    if len(shared) >= enough and share_most:
        differences = [a.values[key] - b.values[key] for key in shared]
        # All can be equal, as accuracies of few samples are: then the groups decide.
        if _variance(differences, a, b):
            return _in_pairs(a, b, shared, differences, overlap)
    return _apart(a, b, overlap)


def _in_pairs(
    a: Group, b: Group, shared: Sequence[Any], differences: Sequence[float], overlap: float
) -> Samples:
    """Return two groups in pairs: each has half of the variance and half of its freedom."""
    half = statistics.variance(differences) / 2
    freedom = (len(shared) - 1) / 2
    each = []
    for group in (a, b):
        mean = statistics.fmean(group.values[key] for key in shared)
        shape = tuple(differences)
        each.append(Sample(len(shared), mean, half, freedom, overlap, shape, half))
    return Samples(tuple(each), len(shared))


def _apart(a: Group, b: Group, overlap: float) -> Samples:
    """Return two groups with a variance of their own each."""
    each = []
    for group in (a, b):
        values = tuple(group.values.values())
        own = _variance(values, group)
        each.append(Sample(len(values), group.mean, own, len(values) - 1, overlap, values, own))
    nums = [sample.num for sample in each]
    # Of few and many values, Welch's degrees of freedom are too many if the few happen to be close.
    is_uneven = max(nums) > 2 * min(nums)
    most_freedom = min(nums) - 1 if is_uneven else math.inf
    return Samples(tuple(each), 0, most_freedom=most_freedom)


def samples_of_all(groups: Sequence[Group]) -> Samples:
    """Return three or more groups of three or more finite values, which lend each other spread.

    If they share most of their seeds, what a seed does to all of them is removed where that leaves
    five degrees of freedom: the median over the groups of its values' distances from the groups'
    means. A group's variance is at least the 85 % quantile of all (divided by the same quantile for
    equal ones), so that few values that happen to be close claim nothing. Wider groups keep their
    own, with fewer degrees of freedom. Groups that diverge can silence this test, hence
    `samples_of_two` beside it; tests/verdict/test_simulated.py has the error rates of both.
    """
    shared = _shared_keys(groups)
    overlap = max(group.overlap for group in groups)
    are_pairs = _are_pairs(groups, shared, overlap)
    columns = []
    for group in groups:
        keys = shared if are_pairs else group.values
        columns.append([group.values[key] for key in keys])
    shapes = columns
    lost = 1.0  # part of the variance that went to the effects
    if are_pairs:
        shapes = _without_effects(columns)
        lost = len(groups) / (len(groups) - 1)
    own = []
    for group, column, shape in zip(groups, columns, shapes, strict=True):
        num = len(column)
        variance = lost * _variance(shape, group)
        mean = statistics.fmean(column)
        own.append(Sample(num, mean, variance, num - 1.0, overlap, tuple(column), variance))
    least, freedom = _quantile(own, FLOOR)
    usual, _ = _quantile(own, TYPICAL)
    each = tuple(sample.at_least(least, freedom) for sample in own)
    num_pairs = len(shared) if are_pairs else 0
    return Samples(each, num_pairs, math.sqrt(usual))


def _shared_keys(groups: Sequence[Group]) -> list[Any]:
    shared = [*groups[0].values]
    for group in groups[1:]:
        shared = [key for key in shared if key in group.values]
    return shared


def _are_pairs(groups: Sequence[Group], shared: Sequence[Any], overlap: float) -> bool:
    """Return whether all groups share most of their seeds, and enough to be compared in pairs."""
    share_most = 2 * len(shared) > max(len(group.values) for group in groups)
    freedom = (len(shared) - 1) * (len(groups) - 1)
    is_enough = freedom >= MIN_FREEDOM or overlap > 0
    return len(shared) >= MIN_VALUES and share_most and is_enough


def _without_effects(columns: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return groups of paired values without what each seed does to all of them."""
    means = [statistics.fmean(column) for column in columns]
    effects = []
    for of_seed in zip(*columns, strict=True):
        effects.append(statistics.median(map(operator.sub, of_seed, means)))
    return [[*map(operator.sub, column, effects)] for column in columns]


def _variance(values: Sequence[float], *groups: Group) -> float:
    """Return the variance of values that were computed from those of groups; 0 if all are equal."""
    variance = _squares(values) / (len(values) - 1)
    deviation = math.sqrt(variance)
    for group in groups:
        largest = max(map(abs, group.values.values()))
        if deviation <= ROUNDING * largest:
            return 0.0
    return variance


def _squares(values: Sequence[float]) -> float:
    """Return the sum of squared distances from the mean; `statistics` takes ten times as long."""
    mean = statistics.fmean(values)
    distances = [value - mean for value in values]
    return math.fsum(map(operator.mul, distances, distances))


def _quantile(samples: Sequence[Sample], share: float) -> tuple[float, float]:
    """Return the common variance of groups by a quantile of theirs, and its degrees of freedom.

    Of normal values of one variance, each variance is distributed as chi-squared: divided by the
    same quantile of that, theirs estimates it.
    """
    scaled = []
    for sample in samples:
        of_chi_squared = chi_squared_quantile(share, sample.freedom)
        scaled.append(sample.variance * sample.freedom / of_chi_squared)
    scaled.sort()
    place = share * (len(scaled) - 1)
    low = scaled[math.floor(place)]
    high = scaled[math.ceil(place)]
    found = low + (place - math.floor(place)) * (high - low)
    freedoms = [sample.freedom for sample in samples]
    usual = statistics.median(freedoms)  # a group of many values knows its own spread
    freedom = FREEDOM_SHARE * min(sum(freedoms), usual * len(freedoms))
    return found, max(freedom, usual)


def shape_remarks(samples: Samples, num: int = 0) -> list[str]:
    """Return what is conspicuous about the values, and how often rare failures remain unseen.

    Args:
        samples: The samples.
        num: Number of values of each compared group; 0 for the smallest number of all groups.
    """
    remarks = []
    why = not_normal(samples)
    if why:
        remarks.append(f"Look at the values, which are not normal: {why}.")
        remarks.append("Then this may claim too much, as Student's t assumes normal values.")
    num = num or min(sample.num for sample in samples.each)
    unseen = (1 - RARE) ** num
    if unseen >= MAX_UNSEEN:
        enough = math.ceil(math.log(MAX_UNSEEN) / math.log(1 - RARE))
        missed = f"{num} miss one with probability {100 * unseen:.0f} %"
        remarks.append(f"Add runs up to {enough} to see failures in 1 of 10: {missed}.")
    return remarks


def not_normal(samples: Samples) -> str:
    """Return why values are unlike those that Student's t assumes; empty if nothing is conspicuous.

    Reported are a value that is too far from the others of its group, or of all differences of
    pairs (its deleted residual, at a level of 1 % over all values), and a group that spreads ten
    times as much as it should.
    """
    shapes = [*dict.fromkeys(sample.shape for sample in samples.each)]
    shaped = [sorted(shape) for shape in shapes if len(shape) >= MIN_SHAPED]
    num_values = sum(len(values) for values in shaped)
    for values in shaped:
        outlier = _outlier(values, OUTLIER_LEVEL / num_values)
        if outlier:
            return outlier
    return _uneven_spread(samples, shapes)


def _outlier(values: Sequence[float], level: float) -> str:
    """Return that the lowest or highest of sorted values is far from the others; else nothing."""
    num = len(values)
    threshold = t_quantile(level / 2, num - 2) * math.sqrt(1 + 1 / (num - 1))
    rounding = ROUNDING * max(abs(value) for value in values)
    for value, others in ((values[0], values[1:]), (values[-1], values[:-1])):
        spread = max(statistics.stdev(others), rounding)
        if abs(value - statistics.fmean(others)) > threshold * spread:
            span = f"{others[0]:.4g} to {others[-1]:.4g}"
            return f"{value:.4g} is far from the {num - 1} others ({span})"
    return ""


def _uneven_spread(samples: Samples, shapes: Sequence[Sequence[float]]) -> str:
    """Return that one group spreads much more than it should; else nothing."""
    ratio = MAX_SPREAD_RATIO
    if samples.usual_deviation:
        low = samples.usual_deviation
        high = math.sqrt(max(sample.own_variance for sample in samples.each))
    elif len(samples.each) == 2 and len(shapes) == 2:
        low, high = sorted(statistics.stdev(shape) for shape in shapes)
        if min(len(shape) for shape in shapes) < MIN_SHAPED:
            ratio = MAX_SPREAD_RATIO_OF_FEW
    else:
        return ""
    return f"standard deviations of {low:.2g} and {high:.2g}" if high > ratio * low else ""

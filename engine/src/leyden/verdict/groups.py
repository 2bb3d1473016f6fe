"""Groups of values, one per setting, and what is known of their spread."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from leyden.verdict.quantiles import chi_squared_quantile

MIN_VALUES = 3  # per group; with fewer, the deviation is meaningless
MIN_FREEDOM = 5  # of a comparison in pairs, (values - 1) * (groups - 1); with fewer, pairs lose more than they gain
TYPICAL = 0.6  # quantile of the variances of a table's groups that is the typical one
FREEDOM_SHARE = 0.5  # degrees of freedom of the typical variance, per one of all groups
FREEDOM_POWER = 1.5  # at which a wider group loses them, with the ratio of its variance to the typical one
TINY = 2.0**-20  # share of the largest value; smaller deviations are rounding errors of single precision


@dataclass(frozen=True)
class Group:
    """The values of a metric reached by the runs of one setting.

    Args:
        values: Value of each run, by what pairs it with runs of other settings, such as its seed and its fold.
        overlap: Term added to 1/n in the variance of the mean: 1/(k - 1) if the runs are from k folds, which share
            training data and are therefore not independent.
    """

    values: Mapping[Any, float]
    overlap: float = 0.0


@dataclass(frozen=True)
class Sample:
    """The values of a group as they are tested.

    Args:
        num: Number of values.
        mean: Their mean.
        variance: Variance of one value, without what a seed does to all groups if they are compared in pairs.
        freedom: Degrees of freedom of the variance.
        overlap: As in `Group`.
        shape: The values whose distribution counts, which is assumed to be normal.
    """

    num: int
    mean: float
    variance: float
    freedom: float
    overlap: float
    shape: tuple[float, ...]

    def squared_error(self) -> float:
        """Return the variance of the mean."""
        return self.variance * (1 / self.num + self.overlap)


@dataclass(frozen=True)
class Samples:
    """The groups of a table, as they are tested.

    Args:
        each: The samples, in the order of the groups.
        num_pairs: Number of values that all groups share and that are compared in pairs; 0 if they are not.
        typical: A sample with the typical variance and number of values; None for two groups.
        most_freedom: Largest allowed number of degrees of freedom of a difference.
    """

    each: tuple[Sample, ...]
    num_pairs: int
    typical: Sample | None = None
    most_freedom: float = math.inf

    def freedom(self, a: int, b: int) -> float:
        """Return the degrees of freedom of the difference of two of the means (Welch and Satterthwaite)."""
        both = [self.each[number] for number in (a, b)]
        whole = sum(each.squared_error() for each in both)
        return min(self.most_freedom, 1 / sum((each.squared_error() / whole) ** 2 / each.freedom for each in both))


def samples_of(groups: Sequence[Group]) -> Samples:
    """Return two or more groups of three or more finite values each as samples.

    Groups that share most of their seeds are compared in pairs where that leaves five degrees of freedom: two groups
    from six seeds on, four groups from three on, folds always. Otherwise the deviation would be known too badly. Two
    groups apart are compared by Welch's test.

    Three or more groups lend each other what they lack. What a seed does to all of them is removed: the median over
    the groups of its values' distances from the groups' means. A group's variance is at least the typical one, the
    60 % quantile of all variances (divided by the same quantile for equal ones), so that diverging settings do not hide
    the differences between the others. The rule was chosen by simulation; `tests/verdict/test_simulated.py` has its
    error rates.
    """
    largest = max(abs(value) for group in groups for value in group.values.values())
    overlap = max(group.overlap for group in groups)
    shared = [key for key in groups[0].values if all(key in group.values for group in groups)]
    are_two, residual = len(groups) == 2, (len(shared) - 1) * (len(groups) - 1)
    are_pairs = len(shared) >= MIN_VALUES and 2 * len(shared) > max(len(group.values) for group in groups)
    are_pairs &= residual >= MIN_FREEDOM or overlap > 0
    differences = [groups[0].values[key] - groups[1].values[key] for key in shared]
    if are_pairs and are_two and statistics.stdev(differences) <= TINY * largest:
        are_pairs = False  # all differences are equal, as accuracies of few samples can be: the groups decide
    keys = [shared if are_pairs else [*group.values] for group in groups]
    columns = [[group.values[key] for key in of] for group, of in zip(groups, keys, strict=True)]
    means, shapes, share = [*map(statistics.fmean, columns)], columns, 1.0
    if are_pairs and are_two:  # each has half the variance of the differences, and half of its degrees of freedom
        shapes, share = [differences] * 2, 0.5
    elif are_pairs:
        effects = [
            statistics.median(column[n] - mean for column, mean in zip(columns, means, strict=True))
            for n in range(len(shared))
        ]
        shapes = [[value - effect for value, effect in zip(column, effects, strict=True)] for column in columns]
        share = len(groups) / (len(groups) - 1)
    variances = [share * statistics.variance(shape) for shape in shapes]
    variances = [variance if variance > (TINY * largest) ** 2 else 0.0 for variance in variances]
    freedoms = [min(share, 1.0) * (len(shape) - 1) for shape in shapes]
    typical = None
    if not are_two:
        variance, freedom = _typical(variances, freedoms)
        lent = [_lend(own, variance, least, freedom) for own, least in zip(variances, freedoms, strict=True)]
        variances, freedoms = [own for own, _ in lent], [each for _, each in lent]
        num = statistics.median_low(map(len, columns))
        typical = Sample(num, 0.0, variance, freedom, overlap, ()) if variance else None
    # Of two groups with few and many values, Welch's degrees of freedom are too many if the few happen to be close.
    is_uneven = are_two and max(map(len, columns)) > 2 * min(map(len, columns))
    each = tuple(
        Sample(len(column), mean, variance, freedom, overlap, tuple(shape if are_two else column))
        for column, mean, variance, freedom, shape in zip(columns, means, variances, freedoms, shapes, strict=True)
    )
    return Samples(each, len(shared) * are_pairs, typical, min(freedoms) if is_uneven else math.inf)


def _typical(variances: Sequence[float], freedoms: Sequence[float]) -> tuple[float, float]:
    """Return the typical variance of three or more groups, and its degrees of freedom."""
    num = len(variances)
    place = int(TYPICAL * (num - 1))
    share = (place + 2 / 3) / (num + 1 / 3)  # median of what lies below the value at this place
    scaled = sorted(
        variance * freedom / chi_squared_quantile(share, freedom)
        for variance, freedom in zip(variances, freedoms, strict=True)
    )
    usual = statistics.median(freedoms)  # a group of many values knows its own spread, not that of the others
    return scaled[place], max(FREEDOM_SHARE * min(sum(freedoms), usual * num), usual)


def _lend(variance: float, typical: float, own: float, of_typical: float) -> tuple[float, float]:
    """Return a group's variance, the typical one at least, and its degrees of freedom."""
    if variance <= typical:
        return typical, max(own, of_typical)
    if not typical:
        return variance, own
    return variance, max(own, of_typical * (typical / variance) ** FREEDOM_POWER)

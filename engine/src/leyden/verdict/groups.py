"""Groups of values, one per setting, what is known of their spread, and the difference of two: which is better, or the same.

The last part has the quantiles of Student's t, of chi-squared and of the studentized range.
"""

import functools
import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from leyden.verdict.numbers import metric_text, value_text

MIN_VALUES = 3  # per group; with fewer, the deviation is meaningless
MIN_FREEDOM = 5  # of a comparison in pairs, (values - 1) * (groups - 1); with fewer, pairs lose more than they gain
TYPICAL = 0.6  # quantile of the variances of a table's groups that is the typical one
FREEDOM_SHARE = 0.5  # degrees of freedom of the typical variance, per one of all groups
FREEDOM_POWER = 1.5  # at which a wider group loses them, with the ratio of its variance to the typical one
TINY = 2.0**-20  # share of the largest value; smaller deviations are rounding errors of single precision

LEVEL = 0.05  # significance level: the rate of false positives, over all looks at a comparison
FIRST_LOOK = 0.75  # share of the level that the first look at a comparison spends
POWER = 0.8  # probability with which a difference of a stated size is detected
LATER_NUMS = (10, 30)  # of values per group, for which detectable differences are stated beside that of today
MIN_SHAPED = 4  # values of a group; with fewer, no single value can be far from the others
OUTLIER_LEVEL = 0.01  # rate of tables of normal values in which a value counts as an outlier
RARE = 0.1  # rate of seeds that fail, of which a line says how often they remain unseen
MAX_UNSEEN = 0.2  # up to this probability nothing is said
MAX_SPREAD_RATIO, MAX_RATIO_OF_FEW = 10, 15  # of two standard deviations; the latter for groups of three values


@dataclass(frozen=True)
class Group:
    """The runs of one setting, which differ only in their seeds and folds.

    Args:
        values: Value of the metric for each run, by what pairs it with runs of other settings, such as its seed and its fold.
        overlap: Term added to 1/n in the variance of the mean: 1/(k - 1) if the runs are from k folds, which share
            training data and are therefore not independent.
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
        cls, choices: Mapping[str, Any], runs: Iterable[tuple[Hashable, float | None]], overlap: float = 0.0
    ) -> "Group":
        """Return a group from the key and the value of each run, None without a value; equal keys count once, with their mean."""
        values: dict[Hashable, list[float]] = {}
        for key, value in runs:
            values.setdefault(key, []).extend([] if value is None else [value])
        known = {key: statistics.fmean(of_key) for key, of_key in values.items() if of_key}
        is_repeated = any(len(of_key) > 1 for of_key in values.values())
        return cls(known, overlap, choices, len(values) - len(known), is_repeated)

    @property
    def name(self) -> str:
        """The setting as text."""
        return " ".join(f"{key}={value_text(value)}" for key, value in self.choices.items()) or "all"

    @property
    def mean(self) -> float:
        """Mean of the values; not a number without any."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the values; None for fewer than two."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else None

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

    def shape_remarks(self, num: int = 0) -> list[str]:
        """Return what is conspicuous about the values' distribution, and how often rare failures remain unseen.

        Args:
            num: Number of values of each compared group; 0 for the smallest number of all groups.
        """
        why = not_normal(self)
        remarks = (
            [f"Not normal: {why}.", "Student's t assumes normal values; it may claim too much."] if why else []
        )
        num = num or min(sample.num for sample in self.each)
        if (unseen := (1 - RARE) ** num) >= MAX_UNSEEN:
            remarks.append(
                f"{num} runs are few: a failure in 1 of 10 would go unnoticed with probability {100 * unseen:.0f} %."
            )
        return remarks


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


def look_level(look: int) -> float:
    """Return the part of the significance level that one look at a comparison spends.

    Who adds runs and looks again tests repeatedly. The parts of all looks add up to the level, so its error rate
    holds however often one looks: 3/4 for the first look, then 1/8, 1/24, 1/48, ...

    Args:
        look: Number of the look, from 1 on.

    Example:
        >>> [round(look_level(look), 5) for look in (1, 2, 3)]
        [0.0375, 0.00625, 0.00208]
    """
    return LEVEL * (FIRST_LOOK if look == 1 else (1 - FIRST_LOOK) / (look * (look - 1)))


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two groups a and b.

    Args:
        nums: Numbers of values in a and b.
        num_pairs: Number of compared pairs with equal keys; 0 for an unpaired comparison.
        difference: Mean of a minus mean of b, over the pairs if there are any; None if it can't be computed.
        interval: Confidence interval of the difference, by Student's t; None for too few values, or if they don't vary.
        better: `a` or `b`; empty if the difference is not significant.
        is_same: Whether the difference is smaller than the margin (two one-sided tests); False without a margin.
        margin: Largest difference that does not matter; 0 if none is given.
        error: Standard error of the difference.
        freedom: Its degrees of freedom.
        overlap: As in `Group`.
        level: Significance level, 1 minus the confidence.
        next_level: Significance level of the next look at this comparison, with more runs.
        mode: `min` or `max`, the better direction; empty if it is unknown.
    """

    nums: tuple[int, int]
    num_pairs: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
    better: str = ""
    is_same: bool = False
    margin: float = 0.0
    error: float = 0.0
    freedom: float = 1.0
    overlap: float = 0.0
    level: float = LEVEL
    next_level: float = LEVEL
    mode: str = ""

    def in_words(self, a: str, b: str) -> str:
        """Return the verdict in one line, with these names of the groups."""
        if min(self.nums) < MIN_VALUES:
            return f"n too small to tell; at least {MIN_VALUES} of each are needed"
        if not self.interval:
            return "can't be decided: the values don't vary"
        better = f"{a if self.better == 'a' else b} is {'better' if self.mode else 'higher'}"
        if self.is_same:
            return f"{better}, by less than {self.margin:g}" if self.better else f"the same within {self.margin:g}"
        if self.better:
            return better
        return "can't be told apart" + f", nor called the same within {self.margin:g}" * bool(self.margin)

    def detectable(self, num: int | None = None) -> float:
        """Return the true difference that this test detects in four of five cases.

        Args:
            num: Number of values per group, at the next look; None for as many as there are, now.
        """
        now = self.num_pairs or min(self.nums)
        level, later = (self.level, now) if num is None else (self.next_level, num)
        freedom = self.freedom * (later - 1) / (now - 1)
        error = self.error * math.sqrt((1 / later + self.overlap) / (1 / now + self.overlap))
        return error * detectable_size(level, self.freedom, freedom, POWER)

    def power_in_words(self, claim: str = "Four of five differences of {} are told apart") -> str:
        """Return in words which true differences are detected in four of five cases, now and with more values."""
        now = self.num_pairs or min(self.nums)
        nums = [num for num in LATER_NUMS if num > now]
        later = [f"{num}{' runs' * (num == nums[0])}: {self.detectable(num):.2g}" for num in nums]
        more = f" ({', '.join(later)})" * bool(later)
        return f"{claim.format(f'{self.detectable():.2g}')}{more}."


def decide(
    samples: Samples, a: int, b: int, mode: str, level: float, next_level: float = LEVEL, margin: float = 0.0
) -> Verdict:
    """Compare two of some samples.

    Args:
        samples: The samples.
        a: Index of the first one.
        b: Index of the second one.
        mode: `min` or `max`, the better direction; empty if it is unknown.
        level: Significance level, 1 minus the confidence of the interval.
        next_level: Significance level of the next look.
        margin: Largest difference that does not matter; 0 for none.
    """
    first, second = samples.each[a], samples.each[b]
    difference, nums = first.mean - second.mean, (first.num, second.num)
    levels: dict[str, Any] = {"level": level, "next_level": next_level, "margin": margin, "mode": mode}
    error = math.sqrt(first.squared_error() + second.squared_error())
    if not error:
        return Verdict(nums, difference=difference, **levels)
    freedom = samples.freedom(a, b)
    half_width = t_quantile(level / 2, freedom) * error
    interval = (difference - half_width, difference + half_width)
    better = "" if abs(difference) <= half_width else "b" if (difference > 0) == (mode == "min") else "a"
    is_same = bool(margin) and abs(difference) + t_quantile(level, freedom) * error < margin
    spread: dict[str, Any] = {"error": error, "freedom": freedom, "overlap": max(first.overlap, second.overlap)}
    return Verdict(nums, samples.num_pairs, difference, interval, better, is_same, **spread, **levels)


def not_normal(samples: Samples) -> str:
    """Return why values are unlike those that Student's t assumes; empty if nothing is conspicuous.

    Reported are a value that is too far from the others of its group, or of all differences of pairs (its deleted
    residual, at a level of 1 % over all values), and a group that spreads ten times as much as it should.
    """
    shapes = [*dict.fromkeys(sample.shape for sample in samples.each)]
    shaped = [sorted(shape) for shape in shapes if len(shape) >= MIN_SHAPED]
    num_values = sum(map(len, shaped))
    for values in shaped:
        num = len(values)
        threshold = t_quantile(OUTLIER_LEVEL / 2 / num_values, num - 2) * math.sqrt(1 + 1 / (num - 1))
        for value, others in ((values[0], values[1:]), (values[-1], values[:-1])):
            spread = max(statistics.stdev(others), TINY * max(map(abs, values)))
            if abs(value - statistics.fmean(others)) > threshold * spread:
                return f"{value:.4g} is far from the {num - 1} others ({others[0]:.4g} to {others[-1]:.4g})"
    low, high, ratio = 1.0, 1.0, MAX_SPREAD_RATIO
    if samples.typical:
        widest = max(sample.variance for sample in samples.each)
        low, high = math.sqrt(samples.typical.variance), math.sqrt(widest)
    elif len(shapes) == 2:
        low, high = sorted(map(statistics.stdev, shapes))
        ratio = MAX_SPREAD_RATIO if min(map(len, shapes)) >= MIN_SHAPED else MAX_RATIO_OF_FEW
    return f"standard deviations of {low:.2g} and {high:.2g}" if high > ratio * low else ""


# Quantiles are computed here, since importing SciPy takes longer than a whole report; tests compare them with SciPy's.
NORMAL = statistics.NormalDist()
NUM_PARTS = 24  # of a distribution, in a mean over it
GRID = [-8 + each / 50 for each in range(801)]  # of a standard normal value, in an integral over it


@functools.cache
def t_quantile(tail: float, freedom: float) -> float:
    """Return the value that Student's t exceeds with the probability `tail`, which is below 0.5.

    Args:
        tail: Probability of the upper tail.
        freedom: Degrees of freedom.

    Example:
        >>> round(t_quantile(0.025, 2), 4)
        4.3027
    """
    # Start from a lower bound; the tail is convex, so Newton's iterates stay below the root.
    t = NORMAL.inv_cdf(1 - tail)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    step = t
    while step > 1e-12 * t:
        density = scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = (_t_tail(t, freedom) - tail) / density
        t += step
    return t


def _t_tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds a positive number."""
    from mpmath import betainc

    x = freedom / (freedom + t * t)
    if x * (freedom + 5) > freedom + 2:  # the complement's series converges faster
        return 0.5 - float(betainc(0.5, freedom / 2, 0, 1 - x, regularized=True)) / 2
    return float(betainc(freedom / 2, 0.5, 0, x, regularized=True)) / 2


def chi_squared_quantile(probability: float, freedom: float) -> float:
    """Return an approximate quantile of the chi-squared distribution (Wilson and Hilferty, PNAS 17, 1931).

    Example:
        >>> round(chi_squared_quantile(0.6, 2), 2)  # the exact one is 1.83
        1.84
    """
    spread = 2 / (9 * freedom)
    return freedom * max(1 - spread + NORMAL.inv_cdf(probability) * math.sqrt(spread), 0.05) ** 3


@functools.cache
def range_quantile(tail: float, num: int) -> float:
    """Return the value that the range of `num` standard normal values exceeds with the probability `tail`.

    Example:
        >>> round(range_quantile(0.05, 3), 3)
        3.314
    """

    def below(size: float) -> float:
        return num * sum(NORMAL.pdf(x) * (NORMAL.cdf(x) - NORMAL.cdf(x - size)) ** (num - 1) for x in GRID) / 50

    return _smallest(lambda size: below(size) >= 1 - tail, 1e-6)


@functools.cache
def expected_maximum(num: int) -> float:
    """Return the expected maximum of `num` independent standard normal values.

    Example:
        >>> round(expected_maximum(20), 2)
        1.87
    """
    return num * sum(x * NORMAL.pdf(x) * NORMAL.cdf(x) ** (num - 1) for x in GRID) / 50


@functools.cache
def detectable_size(level: float, freedom: float, later: float, power: float) -> float:
    """Return the difference, in estimated standard errors, that a two-sided t-test detects with a given probability.

    The error is an estimate, so a difference of so many estimated errors is sometimes smaller than it seems. The
    probability is the mean over both: the estimate from which the difference is stated, and the one of the test.

    Args:
        level: Significance level of the test.
        freedom: Degrees of freedom of the estimate from which the difference is stated.
        later: Degrees of freedom of the test.
        power: The probability.

    Example:
        >>> round(detectable_size(0.05, 1e6, 1e6, 0.8), 2)
        2.8
    """
    parts = [(number + 0.5) / NUM_PARTS for number in range(NUM_PARTS)]
    stated = [math.sqrt(chi_squared_quantile(part, freedom) / freedom) for part in parts]
    tested = [math.sqrt(chi_squared_quantile(part, later) / later) for part in parts]
    critical = t_quantile(level / 2, later)

    def detected(size: float) -> float:
        return statistics.fmean(NORMAL.cdf(size * each - critical * other) for each in stated for other in tested)

    return _smallest(lambda size: detected(size) >= power, 1e-3)


def _smallest(is_enough: Callable[[float], bool], precision: float) -> float:
    """Return the smallest positive number, to a relative precision, that is enough, as all larger ones are."""
    low, high = 0.0, 1.0
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > precision * high:
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high

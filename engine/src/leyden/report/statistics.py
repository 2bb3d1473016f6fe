"""Significance tests for two groups of runs.

Student's t is computed here, since importing SciPy takes longer than a whole report; a test compares it with SciPy's.
How often each claim is wrong is simulated in `tests/report/test_statistics_simulated.py`.
"""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leyden.config.terminal import metric_digits, metric_text


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
    t = statistics.NormalDist().inv_cdf(1 - tail)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    step = t
    while step > 1e-12 * t:
        density = scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = (_tail(t, freedom) - tail) / density
        t += step
    return t


def _tail(t: float, freedom: float) -> float:
    """Return the probability that Student's t exceeds a positive number."""
    from mpmath import betainc

    x = freedom / (freedom + t * t)
    if x * (freedom + 5) > freedom + 2:  # the complement's series converges faster
        return 0.5 - float(betainc(0.5, freedom / 2, 0, 1 - x, regularized=True)) / 2
    return float(betainc(freedom / 2, 0.5, 0, x, regularized=True)) / 2


MIN_VALUES = 3  # per group; with fewer, the deviation is meaningless
LEVEL = 0.05  # significance level: the rate of false positives, over all looks at a comparison
FIRST_LOOK = 0.75  # share of the level that the first look at a comparison spends
POWER = 0.8  # probability with which a difference is detected after the forecast number of runs
MIN_SIGNED = 6  # pairs; with fewer, no sign test reaches 5 %
MIN_SHAPED = 4  # values of a group; the shape of fewer shows nothing
OUTLIER_LEVEL = 0.01  # rate of tables of normal values in which a value counts as an outlier
MAX_SPREAD_RATIO = 10  # of the standard deviations of two groups
MAX_FURTHER = 1000  # additional seeds; larger numbers are not computed
TINY = 2.0**-20  # share of the largest value; smaller deviations are rounding errors of single precision


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
class Group:
    """The values of an objective reached by the runs of one setting.

    Args:
        values: Value of each run, by the run's values of the keys that are averaged over, such as seed and fold.
        overlap: Term added to 1/n in the variance of the mean: 1/(k - 1) if the runs are from k folds, which share
            training data and are therefore not independent.
    """

    values: Mapping[tuple[str, ...], float]
    overlap: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two groups a and b.

    Args:
        nums: Numbers of values in a and b.
        num_pairs: Number of compared pairs with equal keys; 0 for an unpaired comparison.
        difference: Mean of a minus mean of b, over the pairs if there are any; None if it can't be computed.
        interval: Confidence interval of the difference, by Student's t; None if it can't be computed.
        better: `a` or `b`; empty if the difference is not significant.
        why: Reason why there is no interval; empty if there is one.
        deviation: Standard deviation of the difference of two single values.
        freedom: Degrees of freedom divided by n - 1, where n is the number of pairs or of values per group: 1 for
            pairs, 1 to 2 for groups.
        overlap: As in `Group`.
        level: Significance level, 1 minus the confidence.
        next_level: Significance level of the next look at this comparison, with more runs.
        samples: The tested values: the differences of the pairs, or the values of both groups.
    """

    nums: tuple[int, int]
    num_pairs: int = 0
    difference: float | None = None
    interval: tuple[float, float] | None = None
    better: str = ""
    why: str = ""
    deviation: float = 0.0
    freedom: float = 1.0
    overlap: float = 0.0
    level: float = LEVEL
    next_level: float = LEVEL
    samples: tuple[tuple[float, ...], ...] = ()

    def in_words(self, a: str, b: str) -> str:
        """Return the verdict in one line, with these names of the groups."""
        if self.why:
            return self.why
        return f"{a if self.better == 'a' else b} is better" if self.better else "can't be told apart"

    @property
    def confidence(self) -> str:
        """Confidence of the interval in percent, as text."""
        return f"{100 * (1 - self.level):.4g} %"

    def further_in_words(self, unit: str) -> str:
        """Return how many more runs are needed for a significant difference, in words; empty if unknown or 0."""
        if (num := self.num_further) is None:
            return ""
        if num > MAX_FURTHER and self.overlap:
            return f"takes more data; more {unit} alone won't do"
        return f"takes {f'more than {MAX_FURTHER}' if num > MAX_FURTHER else f'about {num}'} more {unit}"

    def detectable(self) -> float:
        """Return the true difference that this test detects with a probability of 80 %, by a noncentral t."""
        freedom = (self.num_pairs - 1) if self.num_pairs else self.freedom * (min(self.nums) - 1)
        critical = t_quantile(self.level / 2, freedom)
        scales = [math.sqrt(_chi_squared_quantile(each, freedom) / freedom) for each in _midpoints(64)]
        low, high = 0.0, 100.0 * critical
        while high - low > 1e-3 * critical:
            middle = (low + high) / 2
            power = statistics.fmean(statistics.NormalDist().cdf(middle - critical * each) for each in scales)
            low, high = (low, middle) if power >= POWER else (middle, high)
        return high * self.deviation * math.sqrt(1 / (self.num_pairs or min(self.nums)) + self.overlap)

    @functools.cached_property
    def num_further(self) -> int | None:
        """Number of further seeds that each group needs to detect a difference with a probability of 80 %.

        This is the probability over all true differences and deviations that agree with the values, not that of the
        observed difference, which chance has enlarged or reduced. Before any value is known, the true difference is
        taken to be normal, with the standard deviation of a single value (an assurance as in O'Hagan et al., 2005).
        None if no seeds are needed or nothing can be said; `MAX_FURTHER + 1` for more than `MAX_FURTHER`.
        """
        if self.interval is None or self.better or self.difference is None:
            return None
        num = self.num_pairs or min(self.nums)
        low, high = num, num + MAX_FURTHER + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_detectable(middle) else (middle, high)
        return high - num

    def _is_detectable(self, num: int) -> bool:
        """Return whether a difference is detected with the desired probability, given `num` values per group."""
        before = self.num_pairs or min(self.nums)
        freedom = (before - 1) * self.freedom
        critical = t_quantile(self.next_level / 2, (num - 1) * self.freedom)
        normal, powers = statistics.NormalDist(), []
        for probability in _midpoints(16):
            deviation = self.deviation * math.sqrt(freedom / _chi_squared_quantile(probability, freedom))
            prior, error = deviation**2 / 2, deviation**2 * (1 / before + self.overlap)  # variances
            mean, spread = (
                (self.difference or 0.0) * prior / (prior + error),
                math.sqrt(prior * error / (prior + error)),
            )
            new_error = deviation * math.sqrt(1 / num + self.overlap)
            for share in _midpoints(32):
                shift = (mean + spread * normal.inv_cdf(share)) / new_error
                powers.append(normal.cdf(shift - critical) + normal.cdf(-shift - critical))
        return statistics.fmean(powers) >= POWER


def _midpoints(num: int) -> list[float]:
    """Return the midpoints of `num` equal parts of the interval from 0 to 1."""
    return [(number + 0.5) / num for number in range(num)]


def _chi_squared_quantile(probability: float, freedom: float) -> float:
    """Return an approximate quantile of the chi-squared distribution (Wilson and Hilferty, PNAS 17, 1931)."""
    scale = 2 / (9 * freedom)
    root = 1 - scale + statistics.NormalDist().inv_cdf(probability) * math.sqrt(scale)
    return freedom * max(root, 0.05) ** 3


def verdict(a: Group, b: Group, mode: str, level: float = LEVEL, next_level: float | None = None) -> Verdict:
    """Compare two groups: by a paired t-test if they share most of their keys, else by Welch's t-test.

    If all pairs have the same difference, which can happen by chance for rounded values, Welch's test is used. Where
    one group has more than twice as many values as the other, it gets the degrees of freedom of the smaller one, since
    Welch's own are too many if the few values happen to be close. For values from folds, the variance is corrected
    (Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003).

    Args:
        a: The first group.
        b: The second group.
        mode: `min` or `max`, the better direction.
        level: Significance level, 1 minus the confidence of the interval.
        next_level: Significance level of the next look, for the forecast; None for the same.

    Example:
        >>> seeds = [("0",), ("1",), ("2",)]
        >>> a, b = (Group(dict(zip(seeds, values))) for values in ((0.97, 0.98, 0.96), (0.93, 0.95, 0.92)))
        >>> found = verdict(a, b, "max")
        >>> found.in_words("a", "b"), found.num_pairs, [round(end, 4) for end in found.interval]
        ('a is better', 3, [0.0223, 0.051])
    """
    nums = len(a.values), len(b.values)
    values = [*a.values.values(), *b.values.values()]
    overlap = max(a.overlap, b.overlap)
    next_level = level if next_level is None else next_level
    make_verdict = functools.partial(Verdict, nums, overlap=overlap, level=level, next_level=next_level)
    if not all(map(math.isfinite, values)):
        return make_verdict(why="can't be decided: a value is not finite")
    if min(nums) < MIN_VALUES:
        return make_verdict(why="n too small to tell")
    negligible = TINY * max(map(abs, values))
    differences = [a.values[key] - b.values[key] for key in a.values if key in b.values]
    if _are_paired(a, b) and (deviation := statistics.stdev(differences)) > negligible:
        difference, freedom, num_pairs = statistics.fmean(differences), 1.0, len(differences)
        error, degrees = deviation * math.sqrt(1 / num_pairs + overlap), num_pairs - 1.0
    else:
        difference, num_pairs = _mean(a) - _mean(b), 0
        squares = [statistics.variance(group.values.values()) for group in (a, b)]
        if (deviation := math.sqrt(sum(squares))) <= negligible:
            return make_verdict(difference=difference, why="can't be decided: the values don't vary")
        parts = [s * (1 / len(g.values) + g.overlap) for s, g in zip(squares, (a, b), strict=True)]
        error = math.sqrt(sum(parts))
        shares = [square / sum(squares) for square in squares]
        freedom = 1 / sum(share**2 for share in shares)
        weights = [part / sum(parts) for part in parts]
        degrees = 1 / sum(weight**2 / (n - 1) for weight, n in zip(weights, nums, strict=True))
        if max(nums) > 2 * min(nums):
            freedom, degrees = 1.0, min(nums) - 1
    half_width = t_quantile(level / 2, degrees) * error
    better = "" if abs(difference) <= half_width else "a" if (difference > 0) == (mode == "max") else "b"
    interval = difference - half_width, difference + half_width
    samples = (tuple(differences),) if num_pairs else tuple(tuple(group.values.values()) for group in (a, b))
    return make_verdict(
        num_pairs, difference, interval, better, deviation=deviation, freedom=freedom, samples=samples
    )


def _are_paired(a: Group, b: Group) -> bool:
    """Return whether most values of both groups have a partner with equal keys, and at least three have."""
    num = len(a.values.keys() & b.values.keys())
    return num >= MIN_VALUES and 2 * num > max(len(a.values), len(b.values))


@dataclass(frozen=True)
class Improvement:
    """Share of the pairs of runs in which the one of a is better than the one of b.

    Args:
        share: The share of the compared pairs; ties count half.
        interval: Its confidence interval; None if it can't be computed.
        has_ties: Whether there are ties.
    """

    share: float
    interval: tuple[float, float] | None
    has_ties: bool


def improvement(a: Group, b: Group, mode: str, found: Verdict) -> Improvement:
    """Return the probability that a run of a is better than one of b, with its confidence interval.

    The pairs with equal keys are compared if the verdict compares them, as Bouthillier et al. (Accounting for variance
    in machine learning benchmarks, MLSys 2021) recommend; the interval is Wilson's. Otherwise it is the share of all
    pairs of a run of a and a run of b, whose interval is not computed; nor is that of folds, which are not independent.

    Args:
        a: The first group.
        b: The second group.
        mode: `min` or `max`, the better direction.
        found: The verdict on these groups.

    Example:
        >>> seeds = [("0",), ("1",), ("2",)]
        >>> a, b = (Group(dict(zip(seeds, values))) for values in ((0.97, 0.98, 0.96), (0.93, 0.95, 0.97)))
        >>> better = improvement(a, b, "max", verdict(a, b, "max"))
        >>> round(better.share, 3), [round(end, 3) for end in better.interval]
        (0.667, [0.208, 0.939])
    """
    pairs = [(a.values[key], b.values[key]) for key in a.values if key in b.values]
    if not found.num_pairs:
        pairs = [(x, y) for x in a.values.values() for y in b.values.values()]
    wins = [((x > y) + (x >= y)) / 2 for x, y in (pairs if mode == "max" else [(-x, -y) for x, y in pairs])]
    share = statistics.fmean(wins)
    is_independent = found.num_pairs and not found.overlap
    ends = _wilson_interval(share, len(wins), found.level) if is_independent else None
    return Improvement(share, ends, 0.5 in wins)


def _wilson_interval(share: float, num: int, level: float) -> tuple[float, float]:
    """Return the confidence interval of a share of `num` (Wilson, JASA 22, 1927)."""
    z = statistics.NormalDist().inv_cdf(1 - level / 2)
    centre, width = share + z * z / (2 * num), z * math.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2)
    return tuple(min(1.0, max(0.0, each / (1 + z * z / num))) for each in (centre - width, centre + width))  # type: ignore[return-value]


def sign_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of the sign test; None for too few pairs.

    The pairs must be independent; their differences may have any distribution.

    Example:
        >>> sign_test([0.1, 0.2, 0.1, 0.3, 0.1, 0.2])
        0.03125
    """
    signs = [each > 0 for each in differences if each]
    if len(signs) < MIN_SIGNED:
        return None
    fewer = min(sum(signs), len(signs) - sum(signs))
    return min(1.0, sum(math.comb(len(signs), num) for num in range(fewer + 1)) / (1 << (len(signs) - 1)))


def not_normal(found: Sequence[Verdict]) -> str:
    """Return why values are unlike those that Student's t assumes; empty if nothing is conspicuous.

    What is tested is looked at: the differences of pairs, or the values of both groups. Reported are a value that is
    too far from the others of its sample (its deleted residual, at a level of 1 % over all values), and unpaired groups
    of which one spreads ten times as much as the other.
    """
    samples = {sample: None for each in found for sample in each.samples if len(sample) >= MIN_SHAPED}
    num_values = sum(map(len, samples))
    for values in map(sorted, samples):
        others_of = {values[0]: values[1:], values[-1]: values[:-1]}
        threshold = t_quantile(OUTLIER_LEVEL / 2 / num_values, len(values) - 2) * math.sqrt(
            1 + 1 / (len(values) - 1)
        )
        for value, others in others_of.items():
            spread = max(statistics.stdev(others), TINY * max(map(abs, values)))
            if abs(value - statistics.fmean(others)) > threshold * spread:
                return f"{value:.4g} is far from the {len(others)} others ({others[0]:.4g} to {others[-1]:.4g})"
    for each in found:
        if len(each.samples) > 1:
            low, high = sorted(map(statistics.stdev, each.samples))
            # Of three values, ten times as much happens by chance in one of fifty cases.
            ratio = MAX_SPREAD_RATIO if min(each.nums) >= MIN_SHAPED else MAX_SPREAD_RATIO**2
            if high > ratio * low:
                return f"standard deviations of {low:.2g} and {high:.2g}"
    return ""


def mean_text(values: Sequence[float], overlap: float = 0.0) -> str:
    """Return a mean with its 95 % interval by Student's t, as text; without the interval if there is none.

    Args:
        values: The values.
        overlap: As in `Group`.

    Example:
        >>> mean_text([0.97, 0.98, 0.96])
        '0.9700 (95 % interval 0.9452 to 0.9948, n = 3)'
    """
    mean = statistics.fmean(values)
    if len(values) < MIN_VALUES or not all(map(math.isfinite, values)) or not (spread := statistics.stdev(values)):
        return f"{metric_text(mean)} (n = {len(values)})"
    half = t_quantile(LEVEL / 2, len(values) - 1) * spread * math.sqrt(1 / len(values) + overlap)
    in_digits = metric_digits(mean, half)
    ends = f"{in_digits(mean - half)} to {in_digits(mean + half)}"
    return f"{in_digits(mean)} (95 % interval {ends}, n = {len(values)})"


def _mean(group: Group) -> float:
    return statistics.fmean(group.values.values())

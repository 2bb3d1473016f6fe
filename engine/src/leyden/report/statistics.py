"""Significance tests for two groups of runs; Student's t without SciPy, which would slow down each start."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


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
LEVEL = 0.05  # significance level: the rate of false positives
POWER = 0.8  # rate at which a true difference is detected
MAX_FURTHER = 1000  # additional seeds; larger numbers are not computed
TINY = 2.0**-20  # share of the largest value; smaller deviations are rounding errors of single precision


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
        if (num := self.num_further()) is None:
            return ""
        return f"takes {f'more than {MAX_FURTHER}' if num > MAX_FURTHER else f'about {num}'} more {unit}"

    def num_further(self) -> int | None:
        """Return how many more seeds each group needs to detect the difference with a power of 80 %.

        The difference and the deviation are assumed to stay as they are. None if no seeds are needed or nothing can
        be said; `MAX_FURTHER + 1` for more than `MAX_FURTHER`.
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
        """Return whether the difference is detected with the desired power, given `num` values per group."""
        freedom = (num - 1) * self.freedom
        needed = t_quantile(self.level / 2, freedom) + t_quantile(1 - POWER, freedom)
        return abs(self.difference or 0.0) >= needed * self.deviation * math.sqrt(1 / num + self.overlap)


def verdict(a: Group, b: Group, mode: str, level: float = LEVEL) -> Verdict:
    """Compare two groups: by a paired t-test if they share at least three keys, else by Welch's t-test.

    If all pairs have the same difference, which can happen by chance for rounded values, Welch's test is used. For
    values from folds, the variance is corrected (Nadeau and Bengio, Inference for the generalization error, Machine
    Learning 52, 2003).

    Args:
        a: The first group.
        b: The second group.
        mode: `min` or `max`, the better direction.
        level: Significance level, 1 minus the confidence of the interval.

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
    make_verdict = functools.partial(Verdict, nums, overlap=overlap, level=level)
    if not all(map(math.isfinite, values)):
        return make_verdict(why="can't be decided: a value is not finite")
    if min(nums) < MIN_VALUES:
        return make_verdict(why="n too small to tell")
    negligible = TINY * max(map(abs, values))
    differences = [a.values[key] - b.values[key] for key in a.values if key in b.values]
    if len(differences) >= MIN_VALUES and (deviation := statistics.stdev(differences)) > negligible:
        difference, freedom, num_pairs = statistics.fmean(differences), 1.0, len(differences)
        error, degrees = deviation * math.sqrt(1 / num_pairs + overlap), num_pairs - 1.0
    else:
        difference, num_pairs = _mean(a) - _mean(b), 0
        squares = [statistics.variance(group.values.values()) for group in (a, b)]
        if (deviation := math.sqrt(sum(squares))) <= negligible:
            return make_verdict(difference=difference, why="can't be decided: the values don't vary")
        parts = [s * (1 / len(g.values) + g.overlap) for s, g in zip(squares, (a, b), strict=True)]
        error = math.sqrt(sum(parts))
        freedom = sum(squares) ** 2 / sum(square**2 for square in squares)
        degrees = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, nums, strict=True))
    half_width = t_quantile(level / 2, degrees) * error
    better = "" if abs(difference) <= half_width else "a" if (difference > 0) == (mode == "max") else "b"
    interval = difference - half_width, difference + half_width
    return make_verdict(num_pairs, difference, interval, better, deviation=deviation, freedom=freedom)


def improvement(a: Sequence[float], b: Sequence[float], mode: str) -> float:
    """Return the probability that a value of a is better than one of b: the share of such pairs, ties counted half.

    Example:
        >>> improvement([0.9, 0.8], [0.8, 0.7], "max")
        0.875
    """
    pairs = [(x, y) if mode == "max" else (-x, -y) for x in a for y in b]
    return statistics.fmean(((x > y) + (x >= y)) / 2 for x, y in pairs)


def _mean(group: Group) -> float:
    return statistics.fmean(group.values.values())

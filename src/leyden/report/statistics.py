"""Which of two groups of runs is better, and how sure that is; Student's t without SciPy, which would slow each start."""

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@functools.cache
def quantile(tail: float, freedom: float) -> float:
    """What Student's t exceeds with a probability below one half.

    Example:
        >>> round(quantile(0.025, 2), 4)
        4.3027
    """
    t = statistics.NormalDist().inv_cdf(1 - tail)  # too small; the tail is convex, so Newton's steps stay below
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)
    step = t
    while step > 1e-12 * t:
        density = scale * (1 + t * t / freedom) ** (-(freedom + 1) / 2)
        step = (_tail(t, freedom) - tail) / density
        t += step
    return t


def _tail(t: float, freedom: float) -> float:
    """The probability that Student's t exceeds a positive number."""
    from mpmath import betainc

    x = freedom / (freedom + t * t)
    if x * (freedom + 5) > freedom + 2:  # where the series of the other side converges faster
        return 0.5 - float(betainc(0.5, freedom / 2, 0, 1 - x, regularized=True)) / 2
    return float(betainc(freedom / 2, 0.5, 0, x, regularized=True)) / 2


LEAST = 3  # values; of fewer the deviation says next to nothing
LEVEL = 0.05  # how often a difference may be seen where there is none
POWER = 0.8  # how often a true difference is to be seen
MOST = 1000  # seeds that are counted
TINY = 2.0**-20  # of a value: metrics are computed in single precision


@dataclass(frozen=True)
class Group:
    """What the runs of one setting have reached.

    Args:
        values: By what tells the runs apart, as (seed, fold).
        overlap: Is added to 1/n in the variance of the mean: 1/(k - 1) where the values come from k folds. Their runs
            share training data, so they tell less than as many independent ones.
    """

    values: Mapping[tuple[str, ...], float]
    overlap: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """What two groups a and b say about each other.

    Args:
        nums: Number of values of a and b.
        num_pairs: How many pairs of equal keys were compared; 0 where the groups were compared as wholes.
        difference: Mean of a less mean of b, of the pairs where there are some; None where it tells nothing.
        interval: Of the difference, by Student's t; None where there is none.
        better: `a` or `b`; empty where that can't be told.
        why: Why there is no interval; empty where there is one.
        deviation: Of the difference of two single values.
        freedom: Degrees of freedom for each value but the first: 1 of pairs, 1 to 2 of groups.
        overlap: As in `Group`.
        level: One less the confidence.
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
        """The verdict in a line, with the names of the groups."""
        if self.why:
            return self.why
        return f"{a if self.better == 'a' else b} is better" if self.better else "can't be told apart"

    @property
    def confidence(self) -> str:
        """That of the interval, as a text."""
        return f"{100 * (1 - self.level):.4g} %"

    def further_in_words(self, unit: str) -> str:
        """How many more are needed to tell the groups apart; empty where nothing can be said or is needed."""
        if (num := self.further()) is None:
            return ""
        return f"takes {f'more than {MOST}' if num > MOST else f'about {num}'} more {unit}"

    def further(self) -> int | None:
        """How many more seeds each group needs, if difference and deviation stay, to see it in 80 % of all cases.

        None where nothing can be said or nothing is needed; `MOST + 1` for more than `MOST`.
        """
        if self.interval is None or self.better or self.difference is None:
            return None
        num = self.num_pairs or min(self.nums)
        low, high = num, num + MOST + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._would_tell(middle) else (middle, high)
        return high - num

    def _would_tell(self, num: int) -> bool:
        freedom = (num - 1) * self.freedom
        needed = quantile(self.level / 2, freedom) + quantile(1 - POWER, freedom)
        return abs(self.difference or 0.0) >= needed * self.deviation * math.sqrt(1 / num + self.overlap)


def verdict(a: Group, b: Group, mode: str, level: float = LEVEL) -> Verdict:
    """Compare two groups: by pairs where at least three keys are shared, else by Welch's test of all values.

    Pairs that all differ by the same are compared as two groups: rounded values do so by chance. Where values come from
    folds, the variance is corrected (Nadeau and Bengio, Inference for the generalization error, Machine Learning 52, 2003).

    Args:
        a: A group.
        b: Another one.
        mode: `min` or `max`: what is better.
        level: One less the confidence of the interval.

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
    told = functools.partial(Verdict, nums, overlap=overlap, level=level)
    if not all(map(math.isfinite, values)):
        return told(why="can't be told: a value is not finite")
    if min(nums) < LEAST:
        return told(why="n too small to tell")
    still = TINY * max(map(abs, values))
    apart = [a.values[key] - b.values[key] for key in a.values if key in b.values]
    if len(apart) >= LEAST and (deviation := statistics.stdev(apart)) > still:
        difference, freedom, num_pairs = statistics.fmean(apart), 1.0, len(apart)
        error, degrees = deviation * math.sqrt(1 / num_pairs + overlap), num_pairs - 1.0
    else:
        difference, num_pairs = _mean(a) - _mean(b), 0
        squares = [statistics.variance(group.values.values()) for group in (a, b)]
        if (deviation := math.sqrt(sum(squares))) <= still:
            return told(difference=difference, why="can't be told: the values don't vary")
        parts = [s * (1 / len(g.values) + g.overlap) for s, g in zip(squares, (a, b), strict=True)]
        error = math.sqrt(sum(parts))
        freedom = sum(squares) ** 2 / sum(square**2 for square in squares)
        degrees = sum(parts) ** 2 / sum(p**2 / (n - 1) for p, n in zip(parts, nums, strict=True))
    half = quantile(level / 2, degrees) * error
    better = "" if abs(difference) <= half else "a" if (difference > 0) == (mode == "max") else "b"
    interval = difference - half, difference + half
    return told(num_pairs, difference, interval, better, deviation=deviation, freedom=freedom)


def improvement(a: Sequence[float], b: Sequence[float], mode: str) -> float:
    """How probable it is that a value of a is better than one of b: the share of all pairs, ties count half.

    Example:
        >>> improvement([0.9, 0.8], [0.8, 0.7], "max")
        0.875
    """
    pairs = [(x, y) if mode == "max" else (-x, -y) for x in a for y in b]
    return statistics.fmean(((x > y) + (x >= y)) / 2 for x, y in pairs)


def _mean(group: Group) -> float:
    return statistics.fmean(group.values.values())

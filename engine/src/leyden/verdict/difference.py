"""The difference of two groups of values: its interval, which group is better, and whether they are the same."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from leyden.verdict.groups import MIN_VALUES, TINY, Group, Samples
from leyden.verdict.numbers import is_finite
from leyden.verdict.quantiles import detectable_size, t_quantile

LEVEL = 0.05  # significance level: the rate of false positives, over all looks at a comparison
FIRST_LOOK = 0.75  # share of the level that the first look at a comparison spends
POWER = 0.8  # probability with which a difference of a stated size is detected
LATER_NUMS = (10, 30)  # of values per group, for which detectable differences are stated beside that of today
MIN_SHAPED = 4  # values of a group; with fewer, no single value can be far from the others
OUTLIER_LEVEL = 0.01  # rate of tables of normal values in which a value counts as an outlier
MAX_SPREAD_RATIO, MAX_RATIO_OF_FEW = 10, 15  # of two standard deviations; the latter for groups of three values
RARE = 0.1  # rate of seeds that fail, of which a line says how often they remain unseen
MAX_UNSEEN = 0.2  # up to this probability nothing is said


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
        interval: Confidence interval of the difference, by Student's t; None if it can't be computed.
        better: `a` or `b`; empty if the difference is not significant.
        is_same: Whether the difference is smaller than the margin (two one-sided tests); False without a margin.
        margin: Largest difference that does not matter; 0 if none is given.
        why: Reason why there is no interval; empty if there is one.
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
    why: str = ""
    error: float = 0.0
    freedom: float = 1.0
    overlap: float = 0.0
    level: float = LEVEL
    next_level: float = LEVEL
    mode: str = ""

    def in_words(self, a: str, b: str) -> str:
        """Return the verdict in one line, with these names of the groups."""
        if self.why:
            return self.why
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

    def power_in_words(self, unit: str, claim: str = "Four of five differences of {} are told apart") -> str:
        """Return in words which true differences are detected in four of five cases, now and with more values."""
        now = self.num_pairs or min(self.nums)
        nums = [num for num in LATER_NUMS if num > now]
        later = [f"{num}{f' {unit}' * (num == nums[0])}: {self.detectable(num):.2g}" for num in nums]
        more = f" ({', '.join(later)})" * bool(later)
        return f"{claim.format(f'{self.detectable():.2g}')}{more}."


def decide(
    samples: Samples, a: int, b: int, mode: str, level: float, next_level: float | None = None, margin: float = 0.0
) -> Verdict:
    """Compare two of some samples.

    Args:
        samples: The samples.
        a: Index of the first one.
        b: Index of the second one.
        mode: `min` or `max`, the better direction; empty if it is unknown.
        level: Significance level, 1 minus the confidence of the interval.
        next_level: Significance level of the next look; None for the same.
        margin: Largest difference that does not matter; 0 for none.
    """
    first, second = samples.each[a], samples.each[b]
    difference = first.mean - second.mean
    nums, next_level = (first.num, second.num), level if next_level is None else next_level
    error = math.sqrt(first.squared_error() + second.squared_error())
    if not error:
        why = "can't be decided: the values don't vary"
        return Verdict(nums, difference=difference, why=why, level=level, next_level=next_level, mode=mode)
    freedom = samples.freedom(a, b)
    half_width = t_quantile(level / 2, freedom) * error
    is_same = bool(margin) and abs(difference) + t_quantile(level, freedom) * error < margin
    better = "" if abs(difference) <= half_width else "b" if (difference > 0) == (mode == "min") else "a"
    return Verdict(
        nums,
        samples.num_pairs,
        difference,
        (difference - half_width, difference + half_width),
        better,
        is_same,
        margin,
        error=error,
        freedom=freedom,
        overlap=max(first.overlap, second.overlap),
        level=level,
        next_level=next_level,
        mode=mode,
    )


def why_undecided(groups: Sequence[Group]) -> str:
    """Return why groups can't be compared; empty if they can."""
    if not all(is_finite(value) for group in groups for value in group.values.values()):
        return "can't be decided: a value is not finite"
    is_few = min(len(group.values) for group in groups) < MIN_VALUES
    return f"n too small to tell; at least {MIN_VALUES} of each are needed" * is_few


def not_normal(samples: Sequence[Sequence[float]], spreads: Sequence[float] = ()) -> str:
    """Return why values are unlike those that Student's t assumes; empty if nothing is conspicuous.

    Reported are a value that is too far from the others of its sample (its deleted residual, at a level of 1 % over all
    values), and a sample that spreads ten times as much as it should.

    Args:
        samples: The values that are tested: the differences of pairs, or the values of each group.
        spreads: The groups' typical standard deviation and the largest; empty to compare two groups with each other.
    """
    shaped = [sorted(sample) for sample in samples if len(sample) >= MIN_SHAPED]
    num_values = sum(map(len, shaped))
    for values in shaped:
        others_of = {values[0]: values[1:], values[-1]: values[:-1]}
        threshold = t_quantile(OUTLIER_LEVEL / 2 / num_values, len(values) - 2) * math.sqrt(
            1 + 1 / (len(values) - 1)
        )
        for value, others in others_of.items():
            spread = max(statistics.stdev(others), TINY * max(map(abs, values)))
            if abs(value - statistics.fmean(others)) > threshold * spread:
                return f"{value:.4g} is far from the {len(others)} others ({others[0]:.4g} to {others[-1]:.4g})"
    is_few = not spreads and min(map(len, samples), default=0) < MIN_SHAPED
    low, high = spreads or (sorted(map(statistics.stdev, samples)) if len(samples) == 2 else (1.0, 1.0))
    if high > (MAX_RATIO_OF_FEW if is_few else MAX_SPREAD_RATIO) * low:
        return f"standard deviations of {low:.2g} and {high:.2g}"
    return ""


def unseen_failures(num: int, unit: str) -> str:
    """Return how often seeds that fail rarely are not among `num` ones, in words; empty if they seldom are not.

    Example:
        >>> unseen_failures(3, "seeds")
        'Of 3 seeds, one that fails in ten remains unseen in 73 %.'
    """
    unseen = (1 - RARE) ** num
    return (
        ""
        if unseen < MAX_UNSEEN
        else f"Of {num} {unit}, one that fails in ten remains unseen in {100 * unseen:.0f} %."
    )

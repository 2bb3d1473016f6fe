"""The difference of two groups: which is better, or the same, and what would have been seen."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from leyden.verdict.groups import MIN_PAIRS, MIN_VALUES, Group, Samples, samples_of_two
from leyden.verdict.quantiles import detectable_size, t_quantile

LEVEL = 0.05  # significance level: the rate of false positives, over all looks at a comparison
FIRST_LOOK = 0.75  # share of the level that the first look at a comparison spends
PLANNED_LOOKS = 0.95  # share of the level that the looks of a plan spend together
POWER = 0.8  # probability with which a difference of a stated size is detected
LATER_NUMS = (10, 30)  # of values per group, for which detectable differences are stated, too


def look_level(look: int, planned: int = 0) -> float:
    """Return the part of the significance level that one look at a comparison spends.

    Who adds runs and looks again tests repeatedly. The parts of all looks add up to the level, so
    its error rate holds however often one looks: 3/4 for the first look, then 1/8, 1/24, 1/48, ...
    The looks of a plan that was written before the first one share 95 % of the level equally.

    Args:
        look: Number of the look, from 1 on.
        planned: Number of the looks that were planned; 0 without a plan.

    Example:
        >>> [round(look_level(look), 5) for look in (1, 2, 3)]
        [0.0375, 0.00625, 0.00208]
        >>> [round(look_level(look, planned=2), 5) for look in (1, 2, 3)]
        [0.02375, 0.02375, 0.00125]
    """
    if look <= planned:
        return LEVEL * PLANNED_LOOKS / planned
    if look == 1:
        return LEVEL * FIRST_LOOK
    left = 1 - (PLANNED_LOOKS if planned else FIRST_LOOK)
    place = look - planned + 1 if planned else look
    return LEVEL * left / (place * (place - 1))


@dataclass(frozen=True)
class Look:
    """A look at a comparison; asking again after more values spends a further part of the level.

    Args:
        number: Its number, from 1 on.
        planned: Number of looks that were planned before the first one; 0 without a plan.
    """

    number: int = 1
    planned: int = 0

    @property
    def level(self) -> float:
        """Part of the significance level that it spends."""
        return look_level(self.number, self.planned)

    def asked(self, mode: str, num: float = 1, margin: float = 0.0) -> "Asked":
        """Return what is asked of each of some comparisons that share the level (Bonferroni)."""
        later = look_level(self.number + 1, self.planned)
        return Asked(mode, self.level / num, later / num, margin)


FIRST = Look()


@dataclass(frozen=True)
class Asked:
    """The question that a difference answers.

    Args:
        mode: `min` or `max`, the better direction; empty if it is unknown.
        level: Significance level, 1 minus the confidence of the interval.
        next_level: Significance level of the next look at this comparison, with more runs.
        margin: Largest difference that does not matter; 0 for none.
    """

    mode: str = ""
    level: float = LEVEL
    next_level: float = LEVEL
    margin: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The result of comparing two groups a and b.

    Args:
        nums: Numbers of values in a and b.
        num_pairs: Number of compared pairs with equal keys; 0 for an unpaired comparison.
        difference: Mean of a minus mean of b, over the pairs if there are any; None if it can't be
            computed.
        interval: Confidence interval of the difference, by Student's t; None for too few values,
            or if they don't vary.
        better: `a` or `b`; empty if the difference is not significant.
        is_same: Whether the difference is smaller than the margin (two one-sided tests); False
            without a margin.
        margin: Largest difference that does not matter; 0 if none is given.
        error: Standard error of the difference.
        freedom: Its degrees of freedom.
        overlap: As in `Group`.
        level: Significance level, 1 minus the confidence.
        next_level: Significance level of the next look at this comparison, with more runs.
        mode: `min` or `max`, the better direction; empty if it is unknown.
        share: Part of the level that the test has spent which decides; 1/2 if there were two tests.
        least: Number of values of each that it takes.
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
    share: float = 1.0
    least: int = MIN_VALUES

    def in_words(self, a: str, b: str) -> str:
        """Return the verdict in one line, with these names of the groups."""
        if min(self.nums) < self.least:
            return f"n too small to tell; at least {self.least} of each are needed"
        if not self.interval:
            return "can't be decided: the values don't vary"
        winner = a if self.better == "a" else b
        better = f"{winner} is {'better' if self.mode else 'higher'}"
        if self.is_same and self.better:
            return f"{better}, by less than {self.margin:g}"
        if self.is_same:
            return f"the same within {self.margin:g}"
        if self.better:
            return better
        if self.margin:
            return f"can't be told apart, nor called the same within {self.margin:g}"
        return "can't be told apart"

    @property
    def num(self) -> int:
        """Number of pairs, or of values in the smaller group."""
        return self.num_pairs or min(self.nums)

    def detectable(self, num: int | None = None) -> float:
        """Return the true difference that this test detects in four of five cases.

        Args:
            num: Number of values per group, at the next look; None for as many as there are, now.
        """
        level = self.level if num is None else self.next_level
        later = self.num if num is None else num
        freedom = self.freedom * (later - 1) / (self.num - 1)
        shrinks = (1 / later + self.overlap) / (1 / self.num + self.overlap)
        error = self.error * math.sqrt(shrinks)
        return error * detectable_size(self.share * level, self.freedom, freedom, POWER)

    def power_in_words(self, claim: str = "A difference of {} shows") -> list[str]:
        """Return the true difference that is detected in four of five cases, now and later."""
        now = claim.format(f"{self.detectable():.2g}")
        lines = [f"{now} in four of five cases."]
        for num in LATER_NUMS:
            # The next look spends less, so a few more runs can show less.
            if num > self.num and self.detectable(num) < self.detectable():
                more = num - self.num
                runs = "1 more run" if more == 1 else f"{more} more runs"
                size = f"{self.detectable(num):.2g}"
                lines.append(f"Add {runs} to each, and {size} is enough for that.")
                break
        return lines


def decide(samples: Samples, a: int, b: int, asked: Asked, share: float = 1.0) -> Verdict:
    """Compare two of some samples.

    Args:
        samples: The samples.
        a: Index of the first one.
        b: Index of the second one.
        asked: What is asked.
        share: Part of the level that this test spends.
    """
    first = samples.each[a]
    second = samples.each[b]
    difference = first.mean - second.mean
    error = math.sqrt(first.squared_error() + second.squared_error())
    found = Verdict(
        (first.num, second.num),
        difference=difference,
        margin=asked.margin,
        level=asked.level,
        next_level=asked.next_level,
        mode=asked.mode,
        share=share,
    )
    if not error:
        return found
    freedom = samples.freedom(a, b)
    level = share * asked.level
    half_width = t_quantile(level / 2, freedom) * error
    better = ""
    if abs(difference) > half_width:
        is_higher_better = asked.mode != "min"
        better = "a" if (difference > 0) == is_higher_better else "b"
    one_sided = abs(difference) + t_quantile(level, freedom) * error
    return replace(
        found,
        num_pairs=samples.num_pairs,
        interval=(difference - half_width, difference + half_width),
        better=better,
        is_same=asked.margin > 0 and one_sided < asked.margin,
        error=error,
        freedom=freedom,
        overlap=max(first.overlap, second.overlap),
    )


def decide_two(a: Group, b: Group, asked: Asked, min_pairs: int = MIN_PAIRS) -> Verdict:
    """Compare two groups by their own values alone."""
    return decide(samples_of_two(a, b, min_pairs), 0, 1, asked)


def decide_among(
    groups: Sequence[Group],
    samples: Samples | None,
    a: int,
    b: int,
    asked: Asked,
    min_pairs: int = MIN_PAIRS,
) -> Verdict:
    """Compare two of a table's groups, by their own values or by what all groups lend each other.

    Each of the two tests spends half of the level. Both intervals then hold together, and the
    narrower one lies within the other or is the one that shows more.

    Args:
        groups: The groups.
        samples: All of them, by `samples_of_all`; None if there are only two.
        a: Index of the first one.
        b: Index of the second one.
        asked: What is asked.
        min_pairs: As in `samples_of_two`.
    """
    if samples is None:
        return decide_two(groups[a], groups[b], asked, min_pairs)
    two = samples_of_two(groups[a], groups[b], min_pairs)
    alone = decide(two, 0, 1, asked, share=0.5)
    lent = decide(samples, a, b, asked, share=0.5)
    return stronger(alone, lent)


def stronger(one: Verdict, other: Verdict) -> Verdict:
    """Return the verdict that decides, else that with the narrower interval."""
    if not other.interval:
        return one
    if not one.interval:
        return other
    if bool(one.better) != bool(other.better):
        return one if one.better else other
    return one if width(one) <= width(other) else other


def width(found: Verdict) -> float:
    """Return the width of a verdict's interval."""
    if not found.interval:
        return math.inf
    low, high = found.interval
    return high - low

"""Quantiles of Student's t, of chi-squared and of the studentized range, and the power of a t-test.

They are computed here, since importing SciPy takes longer than a whole report; tests compare them
with SciPy's.
"""

import functools
import math
import statistics
from collections.abc import Callable

NORMAL = statistics.NormalDist()
NUM_TERMS = 20  # and more with the degrees of freedom, in a continued fraction
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
    t = -NORMAL.inv_cdf(tail)
    step = 1.0
    while abs(step) > 1e-8:  # the next one would be its square
        found, slope = _t_tail(t, freedom)
        # The tail's logarithm is concave in that of t: Newton's iterates fall to the root.
        step = math.log(found / tail) * found / slope
        t *= math.exp(step)
    return t


def _t_tail(t: float, freedom: float) -> tuple[float, float]:
    """Return the probability that Student's t exceeds a positive number, and t times its density.

    The first is an incomplete beta function of half of the freedom and 1/2, of which the second is
    the leading factor.
    """
    half = freedom / 2
    whole = freedom + t * t
    log_beta = math.lgamma(half) + math.lgamma(0.5) - math.lgamma(half + 0.5)
    log_power = -half * math.log1p(t * t / freedom)
    slope = t / math.sqrt(whole) * math.exp(log_power - log_beta)
    x = freedom / whole
    if x * (half + 2.5) > half + 1:  # the complement's fraction converges faster
        return 0.5 - slope * _beta_fraction(t * t / whole, 0.5, half), slope
    return slope * _beta_fraction(x, half, 0.5) / freedom, slope


def _beta_fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of the incomplete beta function (DLMF 8.17.22)."""
    found = 1.0
    for m in range(NUM_TERMS + int(4 * math.sqrt(max(a, b))), 0, -1):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        before = a + m - 1
        odd = -before * (before + b) * x / ((before + m - 1) * (before + m))
        found = 1 + odd / (1 + even / found)
    return 1 / found


@functools.cache
def chi_squared_quantile(probability: float, freedom: float) -> float:
    """Return an approximate quantile of chi-squared (Wilson and Hilferty, PNAS 17, 1931).

    Example:
        >>> round(chi_squared_quantile(0.6, 2), 2)  # the exact one is 1.83
        1.84
    """
    spread = 2 / (9 * freedom)
    root = 1 - spread + NORMAL.inv_cdf(probability) * math.sqrt(spread)
    return freedom * max(root, 0.05) ** 3


@functools.cache
def range_quantile(tail: float, num: int) -> float:
    """Return the value that the range of `num` standard normal values exceeds with `tail`.

    Example:
        >>> round(range_quantile(0.05, 3), 3)
        3.314
    """
    others = num - 1

    def is_enough(size: float) -> bool:
        below = _normal_mean(lambda x: (NORMAL.cdf(x) - NORMAL.cdf(x - size)) ** others)
        return num * below >= 1 - tail

    return smallest(is_enough, 1e-6)


@functools.cache
def expected_maximum(num: int) -> float:
    """Return the expected maximum of `num` independent standard normal values.

    Example:
        >>> round(expected_maximum(20), 2)
        1.87
    """
    others = num - 1
    return num * _normal_mean(lambda x: x * NORMAL.cdf(x) ** others)


def _normal_mean(function: Callable[[float], float]) -> float:
    """Return the mean of a function of a standard normal value."""
    total = 0.0
    for x in GRID:
        total += NORMAL.pdf(x) * function(x)
    return total / 50


@functools.cache
def detectable_size(level: float, freedom: float, later: float, power: float) -> float:
    """Return the difference, in estimated standard errors, that a t-test detects with this power.

    The error is an estimate, so a difference of so many estimated errors is sometimes smaller than
    it seems. The probability is the mean over both: the estimate from which the difference is
    stated, and the one of the test.

    Args:
        level: Significance level of the two-sided test.
        freedom: Degrees of freedom of the estimate from which the difference is stated.
        later: Degrees of freedom of the test.
        power: The probability.

    Example:
        >>> round(detectable_size(0.05, 1e6, 1e6, 0.8), 2)
        2.8
    """
    stated = _estimates(freedom)
    tested = _estimates(later)
    critical = t_quantile(level / 2, later)

    def is_detected(size: float) -> bool:
        chances = []
        for one in stated:
            for other in tested:
                chances.append(NORMAL.cdf(size * one - critical * other))
        return statistics.fmean(chances) >= power

    return smallest(is_detected, 1e-3)


def _estimates(freedom: float) -> list[float]:
    """Return equally likely estimates of a standard deviation of 1."""
    found = []
    for number in range(NUM_PARTS):
        part = (number + 0.5) / NUM_PARTS
        variance = chi_squared_quantile(part, freedom) / freedom
        found.append(math.sqrt(variance))
    return found


def smallest(is_enough: Callable[[float], bool], precision: float) -> float:
    """Return the smallest positive number from which on all are enough.

    It is found to a relative precision.
    """
    low = 0.0
    high = 1.0
    while not is_enough(high):
        low = high
        high = 2 * high
    while high - low > precision * high:
        middle = (low + high) / 2
        if is_enough(middle):
            high = middle
        else:
            low = middle
    return high

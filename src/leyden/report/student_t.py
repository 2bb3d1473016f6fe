"""The distribution of Student's t, without SciPy, which would slow down each start."""

import functools
import math
import statistics


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

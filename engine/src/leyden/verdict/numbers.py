"""Numbers as text: metrics with the digits that their spread gives meaning to, and cells."""

import math
import numbers
from collections.abc import Callable
from decimal import Decimal
from typing import Any

MIN_DECIMALS = 4  # of a metric
MAX_DECIMALS = 8
LARGEST = 1e150  # of a metric; squares of larger ones overflow
MIN_USUAL = 1e-3  # sizes of a metric with these decimals
MAX_USUAL = 1e3
MAX_PLAIN = 1e6  # larger ones have an exponent


def is_finite(value: float) -> bool:
    """Return whether a metric can be computed with; a loss of 1e300 counts as infinite."""
    return abs(value) < LARGEST


def metric_text(value: float, spread: float | None = None) -> str:
    """Return a metric as text, with its spread, such as a standard deviation, if that is known.

    Example:
        >>> metric_text(0.9795), metric_text(0.97951, 0.0014), metric_text(0.97951, 0.000012)
        ('0.9795', '0.9795 ± 0.0014', '0.979510 ± 0.000012')
        >>> metric_text(2e-5), metric_text(2e-5, 1e-6), metric_text(0.5, 1e-12)
        ('2.0e-5', '2.00e-5 ± 0.10e-5', '0.50000000 ± 1.0e-12')
        >>> metric_text(12345.67), metric_text(12345.67, 321)
        ('12345.7', '12346 ± 321')
    """
    if spread is None:  # of thousands of runs
        if MIN_USUAL <= abs(value) < MAX_USUAL:
            return f"{value:.{MIN_DECIMALS}f}"
        return metric_digits(value)(value)
    in_digits = metric_digits(value, spread)
    shown = in_digits(spread)
    if abs(float(shown) - spread) > 0.1 * spread:  # it needs more than MAX_DECIMALS
        shown = metric_digits(spread)(spread)
    return f"{in_digits(value)} ± {shown}"


def metric_digits(value: float, spread: float | None = None) -> Callable[[float], str]:
    """Return a function that formats a metric and the ends of its interval alike.

    A metric has four decimals, and more where two digits of its spread need them. Very small and
    very large ones have an exponent.

    Args:
        value: The metric.
        spread: Half the width of its interval, or a standard deviation; None or 0 if it is unknown.
    """
    spread = spread if spread and math.isfinite(spread) else None
    size = max(abs(value), spread or 0.0)
    if not size or not math.isfinite(size):
        return lambda each: f"{each:.{MIN_DECIMALS}f}"
    order = int(f"{size:.1e}".partition("e")[2])
    shift = 0 if MIN_USUAL <= size < MAX_PLAIN else order
    if spread:
        decimals = 1 - math.floor(math.log10(spread)) + shift
    else:
        decimals = 0 if size < MAX_USUAL else 5 - order + shift
    least = MIN_DECIMALS if size < MAX_USUAL else 0
    if shift:
        least = 1
    decimals = min(max(decimals, least), MAX_DECIMALS)

    def in_digits(each: float) -> str:
        if not math.isfinite(each):
            return f"{each:f}"
        text = f"{Decimal(each).scaleb(-shift):.{decimals}f}"
        return f"{text}e{shift}" if shift else text

    return in_digits


def number_of(text: str | None) -> Any:
    """Return a cell as a number if it is one.

    It is None if the cell is empty. Texts such as 007 and 1_2 are names.
    """
    text = (text or "").strip()
    if not text:
        return None
    digits = text.lstrip("-")
    is_padded = digits[:1] == "0" and digits[1:2].isdecimal()
    if "_" in text or is_padded:
        return text
    try:
        return int(text) if digits.isdecimal() else float(text)
    except ValueError:
        return text


def value_text(value: Any) -> str:
    """Return a value as text, by which rows are grouped; 1 and 1.0 are equal, and so are gaps."""
    if hasattr(value, "tolist") and not isinstance(value, numbers.Number):  # of NumPy or PyTorch
        value = value.tolist()
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        value = number_of(str(value))
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null"
    if isinstance(value, float) and value.is_integer():
        return f"{value:.0f}"
    return str(value)


def printable_value(text: object) -> str:
    """Return a text of a table as one line without control characters.

    All that is not printable is escaped; `one_line` of `base.terminal` keeps what does no harm in a
    path, such as a no-break space.
    """
    shown = []
    for each in str(text):
        shown.append(each if each.isprintable() else ascii(each)[1:-1])
    return "".join(shown)

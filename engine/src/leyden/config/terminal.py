"""Texts for a terminal, with control characters escaped, and commands quoted for the shell."""

import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

# Control characters except tab and newline, characters that change the writing direction, and surrogates, which
# stand for bytes of a file name that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with its unsafe characters escaped.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    return text if text.isprintable() else _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def show(text: str) -> None:
    """Print a text with its unsafe characters escaped; no line is shortened or wrapped."""
    print(printable(text))


def one_line(text: object) -> str:
    r"""Return an untrusted text as a single line: unsafe characters, newlines and tabs are escaped.

    Example:
        >>> one_line("a\nleyden: b")
        'a\\nleyden: b'
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def without_escapes(text: str) -> str:
    """Return a text with its unsafe characters escaped, except bytes of a file name that are not UTF-8."""
    return _UNSAFE.sub(lambda found: found[0] if "\ud800" <= found[0] <= "\udfff" else ascii(found[0])[1:-1], text)


def some_of(texts: Sequence[object], most: int = 6) -> str:
    """Return texts joined by commas; the first ones, and how many more there are, if they are many.

    Example:
        >>> some_of(range(9)), some_of("ab", most=1)
        ('0, 1, 2, 3, 4, 5 and 3 more', 'a and 1 more')
    """
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(map(one_line, texts[:most])) + more


def quoted_override(key: str, value: object, *, quoted: bool = False) -> str:
    r"""Return an override as typed in a shell, with the quotes that Hydra and the shell need.

    With `quoted`, the value is always quoted for Hydra, so that a value such as `null` is read as text.

    Example:
        >>> quoted_override("run", "outputs/mnist_mlp"), quoted_override("run", "it's")
        ('run=outputs/mnist_mlp', '\'run="it\'"\'"\'s"\'')
    """
    text = str(value)
    if quoted or not re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        # Hydra reads a backslash literally, except before a quote.
        text = '"' + re.sub(r'(\\*)(?="|$)', r"\1\1", text).replace('"', '\\"') + '"'
    return shlex.quote(f"{key}={text}")


MAX_DIGITS = 6  # significant digits of a number that is shown in full


def short_number(text: str) -> str:
    """Return the text of a number with four significant digits if it is a fraction with more than six; else the text.

    Example:
        >>> short_number("0.0016571640914381709"), short_number("0.00125"), short_number("12345678"), short_number("a")
        ('0.001657', '0.00125', '12345678', 'a')
    """
    try:
        number = Decimal(text).as_tuple()
    except InvalidOperation:
        return text
    is_fraction = isinstance(number.exponent, int) and number.exponent < 0
    return f"{float(text):.4g}" if is_fraction and len(number.digits) > MAX_DIGITS else text


MIN_DECIMALS, MAX_DECIMALS = 4, 8  # of a metric
MIN_USUAL, MAX_USUAL, MAX_PLAIN = 1e-3, 1e3, 1e6  # sizes with these decimals; larger ones have an exponent


def metric_text(value: float, spread: float | None = None) -> str:
    """Return a metric as text, with its spread, such as a standard deviation, if that is known.

    Example:
        >>> metric_text(0.9795), metric_text(0.97951, 0.0014), metric_text(0.97951, 0.000012), metric_text(12345.67)
        ('0.9795', '0.9795 ± 0.0014', '0.979510 ± 0.000012', '12345.7')
        >>> metric_text(2e-5), metric_text(2e-5, 1e-6), metric_text(12345.67, 321), metric_text(0.5, 1e-12)
        ('2.0e-5', '2.00e-5 ± 0.10e-5', '12346 ± 321', '0.50000000 ± 1.0e-12')
    """
    in_digits = metric_digits(value, spread)
    if spread is None:
        return in_digits(value)
    is_lost = abs(float(in_digits(spread)) - spread) > 0.1 * spread  # it needs more than MAX_DECIMALS
    return f"{in_digits(value)} ± {(metric_digits(spread) if is_lost else in_digits)(spread)}"


def metric_digits(value: float, spread: float | None = None) -> Callable[[float], str]:
    """Return a function that formats a metric and the ends of its interval alike.

    A metric has four decimals, and more where two digits of its spread need them. Very small and very large ones have
    an exponent.

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
    least = 1 if shift else MIN_DECIMALS if size < MAX_USUAL else 0
    decimals = min(max(decimals, least), MAX_DECIMALS)

    def in_digits(each: float) -> str:
        if not math.isfinite(each):
            return f"{each:f}"
        text = f"{Decimal(each).scaleb(-shift):.{decimals}f}"
        return f"{text}e{shift}" if shift else text

    return in_digits


def short_override(override: str) -> str:
    """Return an override with its value by `short_number`."""
    key, equals, value = override.partition("=")
    return f"{key}{equals}{short_number(value)}"


def relative_path(path: Path) -> Path:
    """Return a path relative to the working directory if it is below, else unchanged."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def python_command() -> str:
    """Return the shell command for this Python: `python`, `uv run python`, or a path such as `.venv/bin/python`."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # inside `uv run`, whose PATH differs from the shell's
        return "uv run python"
    executable = Path(sys.executable)
    if (found := shutil.which("python")) and Path(found).parent == executable.parent:
        return "python"
    return shlex.quote(str(relative_path(executable)))


def leyden_command(verb: str) -> str:
    """Return the shell command of a verb, such as `leyden train` or `.venv/bin/leyden train`."""
    if program := program_command("leyden"):
        return f"{program} {verb}"
    return f"{python_command()} -m leyden.{verb}"


def program_command(name: str) -> str | None:
    """Return the shell command of a program beside this Python, such as `.venv/bin/leyden`; None if it is not installed."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        return None
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return f"uv run {name}"
    if (found := shutil.which(name)) and Path(found).parent == program.parent:
        return name
    return shlex.quote(str(relative_path(program)))


def warn(text: str) -> None:
    """Print a message to stderr.

    Lines after the first are indented; otherwise, a file name with a line break could imitate a second message.
    """
    lines = printable(text).replace("\n", "\n  ")
    print(f"leyden: {lines}", file=sys.stderr)

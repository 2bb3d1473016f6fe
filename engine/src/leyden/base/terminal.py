"""Texts for a terminal, with control characters escaped, and commands quoted for the shell."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

# Control characters except tab and newline, characters that change the writing direction, and
# surrogates, which stand for bytes of a file name that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""Return a text with its unsafe characters escaped.

    Tabs, line feeds and what does no harm, such as a no-break space, stay; `printable_value` of
    `verdict.numbers` escapes them, too.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    if text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def show(text: str) -> None:
    """Print a text with its unsafe characters escaped; no line is shortened or wrapped."""
    print(printable(text), flush=True)


def one_line(text: object) -> str:
    r"""Return an untrusted text as a single line: unsafe characters, newlines and tabs are escaped.

    Example:
        >>> one_line("a\nleyden: b")
        'a\\nleyden: b'
    """
    shown = printable(str(text))
    return shown.replace("\n", "\\n").replace("\t", "\\t")


def without_escapes(text: str) -> str:
    """Return a text with its unsafe characters escaped.

    Bytes of a file name that are not UTF-8 stay.
    """

    def escaped(found: re.Match[str]) -> str:
        character = found[0]
        if "\ud800" <= character <= "\udfff":
            return character
        return _escaped(found)

    return _UNSAFE.sub(escaped, text)


def reason_of(error: BaseException) -> str:
    """Return why an error was raised, in one line.

    It has the system's words, or else the error's message.
    """
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.split())


def some_of(texts: Sequence[object], most: int = 6) -> str:
    """Return texts joined by commas; the first ones, and how many more there are, if they are many.

    Example:
        >>> some_of(range(9)), some_of("ab", most=1)
        ('0, 1, 2, 3, 4, 5 and 3 more', 'a and 1 more')
    """
    first = texts[:most]
    shown = ", ".join(map(one_line, first))
    more = len(texts) - most
    if more > 0:
        shown += f" and {more} more"
    return shown


def quoted_override(key: str, value: object, *, quoted: bool = False) -> str:
    r"""Return an override as typed in a shell, with the quotes that Hydra and the shell need.

    With `quoted`, the value is always quoted for Hydra, so that a value such as `null` is read as
    text.

    Example:
        >>> quoted_override("run", "outputs/mnist_mlp"), quoted_override("run", "it's")
        ('run=outputs/mnist_mlp', '\'run="it\'"\'"\'s"\'')
    """
    text = str(value)
    if quoted or not re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        # Hydra reads a backslash literally, except before a quote.
        doubled = re.sub(r'(\\*)(?="|$)', r"\1\1", text)
        text = '"' + doubled.replace('"', '\\"') + '"'
    return shlex.quote(f"{key}={text}")


MAX_DIGITS = 6  # significant digits of a number that is shown in full


def short_number(text: str) -> str:
    """Return the text of a number, with four significant digits if it is a long fraction.

    A long one has more than six digits. Other texts are returned as they are.

    Example:
        >>> [short_number(text) for text in ("0.0016571640914381709", "0.00125", "12345678", "a")]
        ['0.001657', '0.00125', '12345678', 'a']
    """
    try:
        number = Decimal(text).as_tuple()
    except InvalidOperation:
        return text
    is_fraction = isinstance(number.exponent, int) and number.exponent < 0
    if is_fraction and len(number.digits) > MAX_DIGITS:
        return f"{float(text):.4g}"
    return text


def short_override(override: str) -> str:
    """Return an override with its value by `short_number`."""
    key, equals, value = override.partition("=")
    return key + equals + short_number(value)


UNITS = {86400: "d", 3600: "h", 60: "min"}


def time_text(seconds: float) -> str:
    """Return a length of time in the largest unit in which it is 2 or more.

    Example:
        >>> time_text(2 * 86400), time_text(5400), time_text(1.2)
        ('2 d', '90 min', '1 s')
    """
    for size, unit in UNITS.items():
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def relative_path(path: Path) -> Path:
    """Return a path relative to the working directory if it is below, else unchanged."""
    here = Path.cwd()
    if path.is_relative_to(here):
        return path.relative_to(here)
    return path


def python_command() -> str:
    """Return the shell command for this Python.

    It is `python`, `uv run python`, or a path such as `.venv/bin/python`.
    """
    name = Path(sys.executable).name
    return program_command(name) or shlex.quote(sys.executable)


def leyden_command(verb: str) -> str:
    """Return the shell command of a verb, such as `leyden train` or `.venv/bin/leyden train`."""
    program = program_command("leyden")
    if program:
        return f"{program} {verb}"
    return f"{python_command()} -m leyden.{verb}"


def program_command(name: str) -> str | None:
    """Return the shell command of a program beside this Python, such as `.venv/bin/leyden`.

    It is None if the program is not installed.
    """
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        return None
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return f"uv run {name}"
    found = shutil.which(name)
    if found and Path(found).parent == program.parent:
        return name
    return shlex.quote(str(relative_path(program)))


def warn(text: str) -> None:
    """Print a message to stderr.

    Lines after the first are indented; otherwise, a file name with a line break could imitate a
    second message.
    """
    shown = printable(text)
    lines = shown.replace("\n", "\n  ")
    print(f"leyden: {lines}", file=sys.stderr)

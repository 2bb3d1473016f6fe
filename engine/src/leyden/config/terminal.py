"""Terminal output, with control characters escaped, and commands quoted for the shell."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

WIDE = 10_000  # characters per line in a pipe or file

# Control characters except tab and newline, characters that change the writing direction, and surrogates, which
# stand for bytes of a file name that are not UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return a text with its unsafe characters escaped.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: object) -> str:
    r"""Return an untrusted text as a single line: unsafe characters, newlines and tabs are escaped.

    Example:
        >>> one_line("a\nleyden: b")
        'a\\nleyden: b'
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


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
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        return f"uv run leyden {verb}"
    program = Path(sys.executable).with_name("leyden")
    if (found := shutil.which("leyden")) and Path(found).parent == program.parent:
        return f"leyden {verb}"
    if program.exists():
        return f"{shlex.quote(str(relative_path(program)))} {verb}"
    return f"{python_command()} -m leyden.{verb}"


def warn(text: str) -> None:
    """Print a message to stderr.

    Lines after the first are indented; otherwise, a file name with a line break could imitate a second message.
    """
    lines = printable(text).replace("\n", "\n  ")
    print(f"leyden: {lines}", file=sys.stderr)


class Terminal(Console):
    """A console that escapes unsafe characters and applies neither highlighting nor markup.

    Lines are not wrapped if the output is a pipe or a file.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=True, **kwargs)
        if not self.is_terminal:
            self.width = WIDE

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """Return a string as rich text, with unsafe characters escaped; rich calls this for strings and cells."""
        return super().render_str(printable(text), **kwargs)


def text_table(*headers: str) -> Table:
    """Return a table without borders whose cells are wrapped, never truncated."""
    return Table(*(Column(header, overflow="fold") for header in headers), box=None)

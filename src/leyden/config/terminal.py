"""Text on its way to a terminal: what a name or a message holds can't steer it."""

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

WIDE = 10_000  # characters

# Control characters but for tab and newline, those that turn the direction of writing, and halves of characters,
# which stand for bytes of a file name that are no UTF-8.
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""A text with its unsafe characters written out.

    Example:
        >>> printable("red \x1b[31m")
        'red \\x1b[31m'
    """
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


def one_line(text: object) -> str:
    r"""Return a text of somebody else for a message of one line.

    Example:
        >>> one_line("a\nleyden: b")
        'a\\nleyden: b'
    """
    return printable(str(text)).replace("\n", "\\n").replace("\t", "\\t")


def quoted_override(key: str, value: object, *, quoted: bool = False) -> str:
    r"""An override as one types it, with the quotes that Hydra and the shell need.

    Args:
        key: Of the override.
        value: Of the override.
        quoted: Whether it needs quotes to be a text, as `null` does.

    Example:
        >>> quoted_override("run", "outputs/mnist_mlp"), quoted_override("run", "it's")
        ('run=outputs/mnist_mlp', '\'run="it\'"\'"\'s"\'')
    """
    text = str(value)
    if quoted or not re.fullmatch(r"[A-Za-z0-9_./-]+", text):
        # Hydra takes a backslash for itself, but for those before a quote.
        text = '"' + re.sub(r'(\\*)(?="|$)', r"\1\1", text).replace('"', '\\"') + '"'
    return shlex.quote(f"{key}={text}")


def relative_path(path: Path) -> Path:
    """A path as one types it in this folder: relative, if it is below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def python_command() -> str:
    """How one calls this Python in this terminal: `python`, if that is the one, else by its path, as `.venv/bin/python`."""
    if "UV_RUN_RECURSION_DEPTH" in os.environ:  # within `uv run`, whose path is not that of the terminal
        return "uv run python"
    this = Path(sys.executable)
    if (found := shutil.which("python")) and Path(found).parent == this.parent:
        return "python"
    return shlex.quote(str(relative_path(this)))


def warn(text: str) -> None:
    """Print a message of one or more lines on stderr; those after the first are indented, so that no name can forge a message."""
    lines = printable(text).replace("\n", "\n  ")
    print(f"leyden: {lines}", file=sys.stderr)


class Terminal(Console):
    """Prints texts as they are but for what is unsafe, without colours for numbers and without markup.

    What is no terminal, as a pipe or a file, has lines of any length.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(highlight=False, markup=False, soft_wrap=True, **kwargs)
        if not self.is_terminal:
            self.width = WIDE

    def render_str(self, text: str, **kwargs: Any) -> Text:
        """A text as rich prints it; all strings pass here, cells of tables too."""
        return super().render_str(printable(text), **kwargs)


def text_table(*heads: str) -> Table:
    """A table without lines, whose cells are broken where the terminal ends: nothing of them is left out."""
    return Table(*(Column(head, overflow="fold") for head in heads), box=None)

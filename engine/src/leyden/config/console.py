"""The console, whose output rich formats, with control characters escaped.

Apart from `leyden.config.terminal`, since `--help` and messages need no rich, whose import takes 25 ms.
"""

from typing import Any

from rich.console import Console
from rich.text import Text

from leyden.config.terminal import printable

WIDE = 10_000  # characters per line in a pipe or file


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

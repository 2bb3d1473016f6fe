"""Reports of what may keep a run from exactness: one line, or an error where the user has asked for it."""

import sys
from typing import Literal

from lightning.pytorch.utilities import rank_zero_only

from leyden.exact import ExactError

Mode = Literal["report", "require", "off"]
MAX_NAMES = 8  # in a message


def is_rank_zero() -> bool:
    """Return whether this is the process of rank zero, as far as Lightning knows."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(text: str) -> None:
    """Print a line to stderr, in the process of rank zero; characters that a terminal obeys are escaped."""
    if is_rank_zero():
        line = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)
        print(f"leyden: {line}", file=sys.stderr)


class Reporter:
    """Announces once per name what may keep a resumed run from the same bits.

    Args:
        mode: `report` prints a line, `require` raises an error, `off` does nothing.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._names: set[str] = set()

    def announce(self, text: str) -> None:
        """Announce a text.

        Raises:
            ExactError: With `require`.
        """
        if self.mode == "require":
            raise ExactError(f"exact=require: {text}")
        if self.mode == "report":
            say(f"exact resume is not guaranteed: {text}")

    def name(self, names: list[str], what: str = "") -> None:
        """Announce what can't be kept, with reasons in parentheses; each name once."""
        new = [name for name in dict.fromkeys(names) if name.partition(" (")[0] not in self._names]
        self._names |= {name.partition(" (")[0] for name in new}
        if new:
            more = f" and {len(new) - MAX_NAMES} more" if len(new) > MAX_NAMES else ""
            what = what or f"change{'s' * (len(new) == 1)} and can't be kept in a checkpoint"
            self.announce(f"{', '.join(new[:MAX_NAMES])}{more} {what}")

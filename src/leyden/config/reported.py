"""What only shows something never ends a run."""

import contextlib
import sys
import traceback
from collections.abc import Iterator

from leyden.config.mistakes import is_mistake
from leyden.config.terminal import printable, warn


@contextlib.contextmanager
def reported(name: str) -> Iterator[None]:
    """Let a run go on without what `name` was to show, when that fails: a line tells of it, of a bug its traceback."""
    try:
        yield
    except Exception as error:
        mistake = isinstance(error, OSError) or is_mistake(error)  # as a full disk, or a folder that is gone
        if not mistake:
            print(printable(traceback.format_exc()), file=sys.stderr, end="")
        why = str(error) if mistake else type(error).__name__
        warn(f"{name} failed ({why}), the run goes on without it")

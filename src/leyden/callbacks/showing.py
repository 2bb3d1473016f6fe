"""Callbacks that only show something."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import lightning as L

from leyden.config.reported import reported


class Showing(L.Callback):
    """Base of callbacks that a run can do without: a mistake in a hook of one is reported, and the run goes on.

    Attributes:
        at_end: Whether all that it draws is drawn at the end of a run, so that it can be drawn later, too: in `on_fit_end`,
            or from an evaluation.
    """

    at_end = False

    def __init_subclass__(cls) -> None:
        for name, hook in list(vars(cls).items()):
            if name.startswith("on_") and inspect.isfunction(hook):
                setattr(cls, name, _reported(hook))


def _reported(hook: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(hook)
    def wrapped(self: Showing, *args: Any) -> None:
        with reported(type(self).__name__):
            hook(self, *args)

    return wrapped

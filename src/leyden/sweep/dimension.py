"""One dimension of what a sweep spans: a key and its values, or the rows of a zip.

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform; intervals are for a search
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; 64,128,256 says the same
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from leyden.config.checks import MAX_JOBS
from leyden.config.mistakes import UserError
from leyden.sweep.override_text import as_meant

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

MANY = 20  # numbers of a key, of which the smallest and the largest stand for all


class Choice(NamedTuple):
    """One of the things that a dimension can be.

    Args:
        overrides: What it sets.
        values: The value of each key, without prefix and quotes, as conditions name it.
    """

    overrides: tuple[str, ...]
    values: dict[str, str]


class Interval(NamedTuple):
    """Bounds of a number, both included."""

    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        """Whether the numbers are whole ones."""
        return isinstance(self.low, int)


@dataclass(frozen=True)
class Dimension:
    """What a sweep tries for a key, or for several keys together.

    Args:
        name: The key as it was typed, or the name of a zip.
        keys: What it sets, without prefixes.
        choices: By their texts; of an interval there are none.
        interval: Bounds, of a number that a search draws.
        is_fixed: Whether there is one choice, which is no part of a search.
    """

    name: str
    keys: tuple[str, ...]
    choices: dict[str, Choice] = field(default_factory=dict)
    interval: Interval | None = None
    is_fixed: bool = False

    def draw(self, trial: "BaseTrial") -> Any:
        """Let a trial choose."""
        if self.interval is None:
            return trial.suggest_categorical(self.name, list(self.choices))
        low, high, log = self.interval
        if self.interval.is_whole:
            return trial.suggest_int(self.name, int(low), int(high), log=log)
        return trial.suggest_float(self.name, low, high, log=log)

    def has(self, value: Any) -> bool:
        """Whether a value is one of this dimension; of an interval any number is, as its bounds can have been others."""
        return isinstance(value, int | float) if self.interval else value in self.choices

    def overrides(self, value: Any) -> Sequence[str]:
        """What it sets; the value of a fixed one is known."""
        if self.is_fixed:
            (choice,) = self.choices.values()
            return choice.overrides
        return [f"{self.name}={value}"] if self.interval else self.choices[value].overrides

    def extremes(self) -> list[Any]:
        """Each bound or choice; of many numbers their ends."""
        return [self.interval.low, self.interval.high] if self.interval else ends(list(self.choices))


def ends(texts: list[str]) -> list[str]:
    """The smallest and the largest one of more than `MANY` numbers; all of what else there is."""
    with contextlib.suppress(ValueError):
        if len(texts) > MANY:
            return [min(texts, key=float), max(texts, key=float)]
    return texts


def plain(override: Override) -> str:
    """The key of an override without its prefix, as a condition names it."""
    return override.get_key_element().lstrip("+~")


def check_few(what: str, num: float) -> None:
    """Raise a `UserError` if something would be more jobs than a sweep can have; it is counted, not made."""
    if not num <= MAX_JOBS:
        told = f"{num:,.0f}" if math.isfinite(num) else "no end of"
        raise UserError(f"{what}: {told} jobs; a sweep has {MAX_JOBS:,} at most, a search (sweep=tpe) draws some")


def check_range(line: str, sweep: Any) -> None:
    """Raise a `UserError` if a sweep over a key is a range of more numbers than there can be jobs."""
    if isinstance(sweep, RangeSweep) and sweep.step and None not in (sweep.start, sweep.stop):
        try:
            num = (sweep.stop - sweep.start) / sweep.step  # type: ignore[operator]
        except OverflowError:
            num = math.inf
        check_few(line, num)


def of_values(override: Override, values: Iterable[Any], text: Callable[[Any], str], **kwargs: Any) -> Dimension:
    """The dimension of a key and its values."""
    name, key = override.get_key_element(), plain(override)
    choices = {text(value): Choice((f"{name}={text(value)}",), {key: as_meant(value)}) for value in values}
    return Dimension(name, (key,), choices, **kwargs)


def of_interval(override: Override, sweep: IntervalSweep) -> Dimension:
    """The dimension of a key whose value is a number between two others.

    Raises:
        ValueError: There is no such number, or there are no orders of magnitude.
    """
    check_tags(sweep.tags, "log")
    low, high, log = sweep.start or 0, sweep.end or 0, "log" in sweep.tags
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low), float(high)
    if not low <= high:
        raise ValueError("the first bound must not be larger than the second one")
    if log and low <= 0:
        raise ValueError("the bounds of tag(log,...) must be larger than 0")
    return Dimension(override.get_key_element(), (plain(override),), interval=Interval(low, high, log))


def check_tags(tags: Iterable[str], *known: str) -> None:
    """Raise a `ValueError` for a tag that means nothing."""
    if unknown := sorted({*tags} - {*known}):
        raise ValueError(f"the tag {unknown[0]} means nothing here" + (", there is log alone" if known else ""))

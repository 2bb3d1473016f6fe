"""The space of a sweep: its dimensions, and the conditions under which they are there.

A dimension is a key and its values, or the rows of a zip:

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform; intervals are for a search
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; 64,128,256 says the same
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra._internal.grammar.utils import escape_special_characters  # of which Hydra has no public name
from hydra.core.override_parser.types import IntervalSweep, Override, Quote, QuotedString, RangeSweep

from leyden.config.checks import MAX_JOBS
from leyden.config.errors import UserError
from leyden.run.identity import identity_values, typed_overrides

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


def override_text(
    value: Any,
    string: Callable[[str], str] = lambda text: text,
    quoted: Callable[[QuotedString], str] = QuotedString.with_quotes,
) -> str:
    """A value as it stands in an override.

    Args:
        value: As Hydra has parsed it.
        string: Of a text.
        quoted: Of a text that stood in quotes.

    Example:
        >>> override_text([True, None, 0.5])
        '[true,null,0.5]'
    """
    if isinstance(value, QuotedString):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(override_text(each, string, quoted) for each in value)}]"
    if isinstance(value, dict):
        pairs = (
            f"{override_text(key, string, quoted)}:{override_text(each, string, quoted)}"
            for key, each in value.items()
        )
        return "{" + ",".join(pairs) + "}"
    if isinstance(value, str):
        return string(value)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def quote_override(value: Any) -> str:
    """A value of a search: signs that would end it are escaped."""
    return override_text(
        value, lambda text: escape_special_characters(text) if re.search(r"[()\[\]{}=,]", text) else text
    )


def quote_zip_value(value: Any) -> str:
    """A value of a zip: a text stands in quotes, unless it is a word and no other value.

    Example:
        >>> [quote_zip_value(value) for value in ("mlp", "1", 1, "a b")]
        ['mlp', "'1'", '1', "'a b'"]
    """
    word = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_]\w*", re.IGNORECASE | re.ASCII)
    return override_text(
        value, lambda text: text if word.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()
    )


def unquoted(value: Any) -> str:
    """A value as conditions compare it: quotes are none of it."""
    return override_text(value, quoted=lambda text: text.text)


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
    choices = {text(value): Choice((f"{name}={text(value)}",), {key: unquoted(value)}) for value in values}
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


Conditions = dict[str, frozenset[str]]
"""The values of which a key has one, by key; all of them must hold."""


def conditions(where: str, node: Any) -> Conditions:
    """Read conditions.

    Args:
        where: What the user has written them for.
        node: A value, or a list of values of which one is enough, by key.

    Raises:
        UserError: They are none.

    Example:
        >>> conditions("hydra.sweeper.exclude", {"model": "cnn", "seed": [0, 1]})["model"]
        frozenset({'cnn'})
    """
    if not isinstance(node, Mapping) or not node:
        raise UserError(f"{where}={node}: must be a value, or a list of values, by key, as {{optimizer: sgd}}")
    found = {}
    for key, value in node.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        found[str(key).lstrip("+")] = frozenset(unquoted(_builtin(each)) for each in several)
    return found


def check_conditions(where: str, found: Conditions, dimensions: Iterable[Dimension]) -> None:
    """Make sure that conditions are on what is tried; a key with one fixed value may have any other one.

    Raises:
        UserError: Names the key or the value that no job has.
    """
    dimensions = list(dimensions)
    for key, values in found.items():
        on = [dimension for dimension in dimensions if key in dimension.keys]
        if not on:
            names = sorted({name for dimension in dimensions for name in dimension.keys if not dimension.is_fixed})
            raise UserError(f"{where}: no job sets {key}; a condition is on what is tried: {', '.join(names)}")
        if any(dimension.interval for dimension in on):
            raise UserError(f"{where}: {key} is an interval; a condition is on choices")
        taken = {choice.values[key] for dimension in on for choice in dimension.choices.values()}
        if not all(dimension.is_fixed for dimension in on) and (never := values - taken):
            raise UserError(f"{where}: {key} is never {min(never)}, but one of {', '.join(sorted(taken))}")


def read_when(node: Any, dimensions: Sequence[Dimension]) -> dict[str, Conditions]:
    """The conditions of `hydra.sweeper.when`, by key.

    Raises:
        UserError: They are none, or on what is not tried.
    """
    where = "hydra.sweeper.when"
    if not isinstance(node, Mapping | None):
        raise UserError(f"{where}={node}: must be conditions by key, as {{optimizer.momentum: {{optimizer: sgd}}}}")
    found = {}
    for key, each in (node or {}).items():
        plain = str(key).lstrip("+")
        if not any(plain in (dimension.name, *dimension.keys) for dimension in dimensions):
            raise UserError(f"{where}.{key}: is not tried, so that there are no conditions for it")
        for dimension in dimensions:
            if plain in dimension.keys and len(dimension.keys) > 1:
                raise UserError(
                    f"{where}.{key}: is a member of the zip {dimension.name}, which has conditions as a whole"
                )
        check_conditions(f"{where}.{key}", needed := conditions(f"{where}.{key}", each), dimensions)
        found[plain] = needed
    return found


def conditions_hold(found: Conditions, values: Mapping[str, str]) -> bool:
    """Whether all of them hold for the values of a job."""
    return all(values.get(key) in allowed for key, allowed in found.items())


def _builtin(value: Any) -> Any:
    """A value of a configuration as Python's own."""
    if isinstance(value, Mapping):
        return {key: _builtin(inner) for key, inner in value.items()}
    return (
        [_builtin(inner) for inner in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


Setting = Mapping[str, Any]
"""The value of each dimension that is there, by name, those that are fixed left out."""


class Space:
    """The settings of a sweep.

    Args:
        dimensions: What is tried, and what is fixed.
        when: The conditions of a dimension, by its key.

    Raises:
        UserError: Dimensions depend on each other in a circle, or on what is not there.

    Example:
        >>> from leyden.sweep.space import Choice
        >>> values = {"optimizer": ("sgd", "adamw"), "momentum": ("0", "0.9")}
        >>> def of(key, texts):
        ...     return Dimension(key, (key,), {each: Choice((f"{key}={each}",), {key: each}) for each in texts})
        >>> tried = [of(key, texts) for key, texts in values.items()]
        >>> space = Space(tried, {"momentum": {"optimizer": frozenset({"sgd"})}})
        >>> [space.overrides(setting) for setting in space.settings()][1:]
        [['optimizer=sgd', 'momentum=0.9'], ['optimizer=adamw']]
    """

    def __init__(self, dimensions: Sequence[Dimension], when: Mapping[str, Conditions]) -> None:
        self.of = {key: dimension for dimension in dimensions for key in (dimension.name, *dimension.keys)}
        self.when = {self.of[key].name: each for key, each in when.items() if key in self.of}
        self.dimensions: list[Dimension] = []
        for dimension in sorted(dimensions, key=lambda each: not each.is_fixed):
            self._place(dimension, ())
        self.free = [dimension for dimension in self.dimensions if not dimension.is_fixed]
        self.fixed = [
            override
            for dimension in self.dimensions
            if dimension.is_fixed and dimension.name not in self.when
            for override in dimension.overrides(None)
        ]

    def _place(self, dimension: Dimension, path: tuple[str, ...]) -> None:
        """Append a dimension, those that it depends on first."""
        path = (*path, dimension.name)
        if dimension.name in path[:-1]:
            raise UserError(f"hydra.sweeper.when: a circle: {' needs '.join(path)}")
        for key in self.when.get(dimension.name, {}):
            if key not in self.of:
                raise UserError(f"hydra.sweeper.when: {dimension.name} is tried where nothing sets {key}")
            self._place(self.of[key], path)
        if dimension not in self.dimensions:
            self.dimensions.append(dimension)

    def is_there(self, dimension: Dimension, setting: Setting) -> bool:
        """Whether a setting has a dimension."""
        needed = self.when.get(dimension.name, {})
        return not needed or conditions_hold(needed, {key: self._value(key, setting) for key in needed})

    def _value(self, key: str, setting: Setting) -> str:
        dimension = self.of[key]
        if dimension.is_fixed and self.is_there(dimension, setting):
            (choice,) = dimension.choices.values()
            return choice.values[key]
        taken = dimension.choices.get(setting.get(dimension.name, ""))
        return taken.values[key] if taken else ""

    def overrides(self, setting: Setting) -> list[str]:
        """What a job of this setting is composed by."""
        there = (each for each in self.dimensions if self.is_there(each, setting))
        return [override for each in there for override in each.overrides(setting.get(each.name))]

    def values(self, setting: Setting) -> dict[str, str]:
        """The value of each key that a job of this setting is given, as conditions name it; intervals have none."""
        there = (each for each in self.dimensions if self.is_there(each, setting) and not each.interval)
        return {key: self._value(key, setting) for each in there for key in each.keys}

    def draw(self, trial: "BaseTrial") -> None:
        """Let a trial choose a setting, its parameters; those that decide what else there is come first."""
        setting: dict[str, Any] = {}
        for dimension in self.free:
            if self.is_there(dimension, setting):
                setting[dimension.name] = dimension.draw(trial)

    def has(self, setting: Setting) -> bool:
        """Whether a setting is a whole one of this space."""
        there = {each.name: each for each in self.free if self.is_there(each, setting)}
        return set(there) == set(setting) and all(each.has(setting[name]) for name, each in there.items())

    def settings(self, dimensions: Iterable[Dimension] | None = None) -> list[dict[str, Any]]:
        """All combinations of choices; of some dimensions, with all that those depend on.

        Raises:
            UserError: There are more than a sweep can have.
        """
        found: list[dict[str, Any]] = [{}]
        for each in self.free if dimensions is None else dimensions:
            there = sum(self.is_there(each, one) for one in found)
            check_few(" x ".join(one.name for one in self.free), there * len(each.choices) + len(found) - there)
            found = [
                further
                for one in found
                for further in (
                    [{**one, each.name: text} for text in each.choices] if self.is_there(each, one) else [one]
                )
            ]
        return found

    def branches(self) -> list[dict[str, Any]]:
        """What decides which dimensions there are: one setting of it for each way it can be."""
        deciding = {self.of[key].name for each in self.when.values() for key in each}
        return self.settings(each for each in self.free if each.name in deciding)

    def corners(self) -> list[dict[str, Any]]:
        """Settings that take each bound, each choice and each branch, so that a mistake shows before the first trial."""
        extremes = {each.name: each.extremes() for each in self.free}
        unseen = {name: list(values) for name, values in extremes.items()}
        found: list[dict[str, Any]] = []
        for branch in self.branches():
            is_first = True
            while is_first or any(unseen[name] for name in found[-1] if name not in branch):
                is_first, setting = False, dict(branch)
                for each in self.free:
                    name, values = each.name, extremes[each.name]
                    if name not in branch and self.is_there(each, setting):
                        setting[name] = unseen[name].pop(0) if unseen[name] else values[len(found) % len(values)]
                found.append(setting)
        return found

    def never_there(self) -> list[str]:
        """Dimensions whose conditions hold in no setting, though nothing that those are on is fixed."""
        branches = self.branches()
        never = {each.name for each in self.free if not any(self.is_there(each, branch) for branch in branches)}
        return [
            name
            for name in never
            if not any(self.of[key].is_fixed or self.of[key].name in never for key in self.when[name])
        ]

    @property
    def fixed_choices(self) -> list[str]:
        """What of the fixed overrides can change what a job reaches: one that differs in it is of another search."""
        return sorted(override for override in self.fixed if identity_values(typed_overrides([override])))

    @property
    def is_conditional(self) -> bool:
        """Whether there is something to draw that not each setting has."""
        return any(each.name in self.when for each in self.free)

    @property
    def log_keys(self) -> list[str]:
        """The keys that are searched by orders of magnitude."""
        return [each.name for each in self.free if each.interval and each.interval.log]

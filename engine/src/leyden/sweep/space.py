"""The space of a sweep: its dimensions, and the conditions under which a dimension is active.

A dimension is a key with its values, or the rows of a zip:

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform; intervals are for a search
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; or shorter: 64,128,256
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
"""

import contextlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra._internal.grammar.utils import escape_special_characters  # not public in Hydra
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
    """Return the text of a value in an override.

    Args:
        value: A value parsed by Hydra.
        string: Formats a string without quotes.
        quoted: Formats a quoted string.

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
    """Return the text of a value of a search, with special characters escaped."""
    return override_text(
        value, lambda text: escape_special_characters(text) if re.search(r"[()\[\]{}=,]", text) else text
    )


def quote_zip_value(value: Any) -> str:
    """Return the text of a value of a zip, with strings in quotes, unless they are plain words.

    Example:
        >>> [quote_zip_value(value) for value in ("mlp", "1", 1, "a b")]
        ['mlp', "'1'", '1', "'a b'"]
    """
    word = re.compile(r"(?!(?:true|false|null|inf|nan)$)[a-z_]\w*", re.IGNORECASE | re.ASCII)
    return override_text(
        value, lambda text: text if word.fullmatch(text) else QuotedString(text, Quote.single).with_quotes()
    )


def unquoted(value: Any) -> str:
    """Return the text of a value without quotes, as conditions compare it."""
    return override_text(value, quoted=lambda text: text.text)


MAX_NUMBERS = 20  # of more numbers of a key, only the smallest and the largest are checked before a sweep


class Choice(NamedTuple):
    """A choice of a dimension.

    Args:
        overrides: The overrides of the choice.
        values: The value of each key as conditions name it: keys without prefix, values without quotes.
    """

    overrides: tuple[str, ...]
    values: dict[str, str]


class Interval(NamedTuple):
    """Bounds of a number, both inclusive, on a linear or logarithmic scale."""

    low: float
    high: float
    log: bool

    @property
    def is_whole(self) -> bool:
        """True if the numbers are integers."""
        return isinstance(self.low, int)


@dataclass(frozen=True)
class Dimension:
    """The values that a sweep tries for a key, or for several keys together (a zip).

    Args:
        name: The key with its prefix, as in the override, or the name of a zip.
        keys: The keys that the dimension sets, without prefixes.
        choices: Choices by their texts; empty for an interval.
        interval: Bounds of a number that a search draws; None for choices.
        is_fixed: True if there is a single choice, given without sweep syntax, which is not searched.
    """

    name: str
    keys: tuple[str, ...]
    choices: dict[str, Choice] = field(default_factory=dict)
    interval: Interval | None = None
    is_fixed: bool = False

    def suggest(self, trial: "BaseTrial") -> Any:
        """Return the value that a trial suggests."""
        if self.interval is None:
            return trial.suggest_categorical(self.name, list(self.choices))
        low, high, log = self.interval
        if self.interval.is_whole:
            return trial.suggest_int(self.name, int(low), int(high), log=log)
        return trial.suggest_float(self.name, low, high, log=log)

    def has(self, value: Any) -> bool:
        """Return whether a value is possible; for an interval, any number, since its bounds may have changed."""
        return isinstance(value, int | float) if self.interval else value in self.choices

    def overrides(self, value: Any) -> Sequence[str]:
        """Return the overrides for a value; a fixed dimension ignores `value`."""
        if self.is_fixed:
            (choice,) = self.choices.values()
            return choice.overrides
        return [f"{self.name}={value}"] if self.interval else self.choices[value].overrides

    def extremes(self) -> list[Any]:
        """Return the bounds, or the choices; of more than `MAX_NUMBERS` numbers, the smallest and the largest."""
        return [self.interval.low, self.interval.high] if self.interval else extreme_values(list(self.choices))


def extreme_values(texts: list[str]) -> list[str]:
    """Return the smallest and the largest of more than `MAX_NUMBERS` numbers; fewer or other texts unchanged."""
    with contextlib.suppress(ValueError):
        if len(texts) > MAX_NUMBERS:
            return [min(texts, key=float), max(texts, key=float)]
    return texts


def bare_key(override: Override) -> str:
    """Return the key of an override without its prefix, as conditions name it."""
    return override.get_key_element().lstrip("+~")


def check_sweep_size(what: str, num: float) -> None:
    """Raise a `UserError` if a number of jobs exceeds `MAX_JOBS`, before they are composed."""
    if not num <= MAX_JOBS:
        number = f"{num:,.0f}" if math.isfinite(num) else "infinitely many"
        raise UserError(f"{what}: {number} jobs; a sweep has {MAX_JOBS:,} at most; a search (sweep=tpe) draws some")


def check_range(line: str, sweep: Any) -> None:
    """Raise a `UserError` if a `range(...)` has more numbers than a sweep can have jobs."""
    if isinstance(sweep, RangeSweep) and sweep.step and None not in (sweep.start, sweep.stop):
        try:
            num = (sweep.stop - sweep.start) / sweep.step  # type: ignore[operator]
        except OverflowError:
            num = math.inf
        check_sweep_size(line, num)


def choice_dimension(
    override: Override, values: Iterable[Any], text: Callable[[Any], str], **kwargs: Any
) -> Dimension:
    """Return the dimension of a key with a list of values."""
    name, key = override.get_key_element(), bare_key(override)
    choices = {text(value): Choice((f"{name}={text(value)}",), {key: unquoted(value)}) for value in values}
    return Dimension(name, (key,), choices, **kwargs)


def interval_dimension(override: Override, sweep: IntervalSweep) -> Dimension:
    """Return the dimension of a key with an interval.

    Raises:
        ValueError: The interval is empty, or logarithmic with bounds that are not positive.
    """
    check_tags(sweep.tags, "log")
    low, high, log = sweep.start or 0, sweep.end or 0, "log" in sweep.tags
    if not (isinstance(low, int) and isinstance(high, int)):
        low, high = float(low), float(high)
    if not low <= high:
        raise ValueError("the first bound must not be larger than the second one")
    if log and low <= 0:
        raise ValueError("the bounds of tag(log,...) must be larger than 0")
    return Dimension(override.get_key_element(), (bare_key(override),), interval=Interval(low, high, log))


def check_tags(tags: Iterable[str], *known: str) -> None:
    """Raise a `ValueError` for an unknown tag."""
    if unknown := sorted({*tags} - {*known}):
        raise ValueError(f"the tag {unknown[0]} is unknown here" + ("; only log is known" if known else ""))


Conditions = dict[str, frozenset[str]]
"""Allowed values by key: each key must have one of its values."""


def conditions(where: str, node: Any) -> Conditions:
    """Return the conditions of a configuration node.

    Args:
        where: The node's key, for error messages.
        node: A mapping from keys to an allowed value, or a list of allowed values.

    Raises:
        UserError: The node is not such a mapping.

    Example:
        >>> conditions("hydra.sweeper.exclude", {"model": "cnn", "seed": [0, 1]})["model"]
        frozenset({'cnn'})
    """
    if not isinstance(node, Mapping) or not node:
        raise UserError(f"{where}={node}: must be a value, or a list of values, by key, such as {{optimizer: sgd}}")
    found = {}
    for key, value in node.items():
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        found[str(key).lstrip("+")] = frozenset(unquoted(_builtin(each)) for each in several)
    return found


def check_conditions(where: str, found: Conditions, dimensions: Iterable[Dimension]) -> None:
    """Check that conditions name keys and values that the dimensions have.

    A condition on a key with a fixed value may name any value.

    Raises:
        UserError: A condition names a key or value that no job has.
    """
    dimensions = list(dimensions)
    for key, values in found.items():
        on = [dimension for dimension in dimensions if key in dimension.keys]
        if not on:
            names = sorted({name for dimension in dimensions for name in dimension.keys if not dimension.is_fixed})
            raise UserError(
                f"{where}: no job sets {key}; a condition must be on a key that is tried: {', '.join(names)}"
            )
        if any(dimension.interval for dimension in on):
            raise UserError(f"{where}: {key} is an interval; a condition must be on a key with choices")
        taken = {choice.values[key] for dimension in on for choice in dimension.choices.values()}
        if not all(dimension.is_fixed for dimension in on) and (never := values - taken):
            raise UserError(f"{where}: {key} is never {min(never)}; must be one of {', '.join(sorted(taken))}")


def read_when(node: Any, dimensions: Sequence[Dimension]) -> dict[str, Conditions]:
    """Return the conditions of `hydra.sweeper.when`, by key.

    Raises:
        UserError: The node is not a mapping of conditions, or names a key or value that no job has.
    """
    where = "hydra.sweeper.when"
    if not isinstance(node, Mapping | None):
        raise UserError(
            f"{where}={node}: must be conditions by key, such as {{optimizer.momentum: {{optimizer: sgd}}}}"
        )
    found = {}
    for key, each in (node or {}).items():
        name = str(key).lstrip("+")
        if not any(name in (dimension.name, *dimension.keys) for dimension in dimensions):
            raise UserError(f"{where}.{key}: is not tried, so it can't have conditions")
        for dimension in dimensions:
            if name in dimension.keys and len(dimension.keys) > 1:
                raise UserError(
                    f"{where}.{key}: is a member of the zip {dimension.name}, which can only have conditions as a whole"
                )
        check_conditions(f"{where}.{key}", needed := conditions(f"{where}.{key}", each), dimensions)
        found[name] = needed
    return found


def conditions_hold(found: Conditions, values: Mapping[str, str]) -> bool:
    """Return whether all conditions hold for the values of a job."""
    return all(values.get(key) in allowed for key, allowed in found.items())


def _builtin(value: Any) -> Any:
    """Return a configuration value as Python's dict, list or plain value."""
    if isinstance(value, Mapping):
        return {key: _builtin(inner) for key, inner in value.items()}
    return (
        [_builtin(inner) for inner in value]
        if isinstance(value, Sequence) and not isinstance(value, str)
        else value
    )


Setting = Mapping[str, Any]
"""The value of each active dimension that is not fixed, by name."""


class Space:
    """The settings of a grid or a search.

    A dimension is active in a setting if its conditions hold there, or if it has none.

    Args:
        dimensions: The dimensions, including fixed ones.
        when: The conditions of dimensions, by key.

    Attributes:
        dimensions: All dimensions, each after those that its conditions depend on.
        free: The dimensions that are not fixed.
        fixed: The overrides that all settings share.

    Raises:
        UserError: Conditions are circular, or name a key that no dimension sets.

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
        self.by_key = {key: dimension for dimension in dimensions for key in (dimension.name, *dimension.keys)}
        self.when = {self.by_key[key].name: each for key, each in when.items() if key in self.by_key}
        self.dimensions: list[Dimension] = []
        for dimension in sorted(dimensions, key=lambda each: not each.is_fixed):
            self._append(dimension, ())
        self.free = [dimension for dimension in self.dimensions if not dimension.is_fixed]
        self.fixed = [
            override
            for dimension in self.dimensions
            if dimension.is_fixed and dimension.name not in self.when
            for override in dimension.overrides(None)
        ]

    def _append(self, dimension: Dimension, path: tuple[str, ...]) -> None:
        """Append a dimension after those that its conditions depend on; `path` detects circles."""
        path = (*path, dimension.name)
        if dimension.name in path[:-1]:
            raise UserError(f"hydra.sweeper.when: circular conditions: {' needs '.join(path)}")
        for key in self.when.get(dimension.name, {}):
            if key not in self.by_key:
                raise UserError(f"hydra.sweeper.when: {dimension.name} needs {key}, which its grid does not set")
            self._append(self.by_key[key], path)
        if dimension not in self.dimensions:
            self.dimensions.append(dimension)

    def is_active(self, dimension: Dimension, setting: Setting) -> bool:
        """Return whether a dimension is active in a setting."""
        needed = self.when.get(dimension.name, {})
        return not needed or conditions_hold(needed, {key: self._value(key, setting) for key in needed})

    def _value(self, key: str, setting: Setting) -> str:
        dimension = self.by_key[key]
        if dimension.is_fixed and self.is_active(dimension, setting):
            (choice,) = dimension.choices.values()
            return choice.values[key]
        taken = dimension.choices.get(setting.get(dimension.name, ""))
        return taken.values[key] if taken else ""

    def overrides(self, setting: Setting) -> list[str]:
        """Return the overrides of a setting's job."""
        active = (each for each in self.dimensions if self.is_active(each, setting))
        return [override for each in active for override in each.overrides(setting.get(each.name))]

    def values(self, setting: Setting) -> dict[str, str]:
        """Return the value of each key in a setting, as conditions name it; without keys of intervals."""
        active = (each for each in self.dimensions if self.is_active(each, setting) and not each.interval)
        return {key: self._value(key, setting) for each in active for key in each.keys}

    def suggest(self, trial: "BaseTrial") -> None:
        """Let a trial suggest a setting, which becomes its parameters."""
        setting: dict[str, Any] = {}
        for dimension in self.free:
            if self.is_active(dimension, setting):
                setting[dimension.name] = dimension.suggest(trial)

    def has(self, setting: Setting) -> bool:
        """Return whether a setting is a complete setting of this space."""
        active = {each.name: each for each in self.free if self.is_active(each, setting)}
        return set(active) == set(setting) and all(each.has(setting[name]) for name, each in active.items())

    def settings(self, dimensions: Iterable[Dimension] | None = None) -> list[dict[str, Any]]:
        """Return all combinations of the choices of these dimensions; None for all that are not fixed.

        Raises:
            UserError: There are more combinations than a sweep can have jobs.
        """
        found: list[dict[str, Any]] = [{}]
        for each in self.free if dimensions is None else dimensions:
            num_active = sum(self.is_active(each, setting) for setting in found)
            num = num_active * len(each.choices) + len(found) - num_active
            check_sweep_size(" x ".join(dimension.name for dimension in self.free), num)
            found = [
                extended
                for setting in found
                for extended in (
                    [{**setting, each.name: text} for text in each.choices]
                    if self.is_active(each, setting)
                    else [setting]
                )
            ]
        return found

    def branches(self) -> list[dict[str, Any]]:
        """Return all combinations of the dimensions that conditions depend on."""
        conditioning = {self.by_key[key].name for each in self.when.values() for key in each}
        return self.settings(each for each in self.free if each.name in conditioning)

    def corners(self) -> list[dict[str, Any]]:
        """Return settings that together have each bound, choice and branch, for checks before a search."""
        extremes = {each.name: each.extremes() for each in self.free}
        unseen = {name: list(values) for name, values in extremes.items()}
        found: list[dict[str, Any]] = []
        for branch in self.branches():
            is_first = True
            while is_first or any(unseen[name] for name in found[-1] if name not in branch):
                is_first, setting = False, dict(branch)
                for each in self.free:
                    name, values = each.name, extremes[each.name]
                    if name not in branch and self.is_active(each, setting):
                        setting[name] = unseen[name].pop(0) if unseen[name] else values[len(found) % len(values)]
                found.append(setting)
        return found

    def never_active(self) -> list[str]:
        """Return the names of dimensions that are active in no setting.

        Those with a condition on a fixed key, or on a dimension that is never active, are left out.
        """
        branches = self.branches()
        never = {each.name for each in self.free if not any(self.is_active(each, branch) for branch in branches)}
        return [
            name
            for name in never
            if not any(self.by_key[key].is_fixed or self.by_key[key].name in never for key in self.when[name])
        ]

    @property
    def fixed_choices(self) -> list[str]:
        """The fixed overrides that can change a job's result, and so identify a search."""
        return sorted(override for override in self.fixed if identity_values(typed_overrides([override])))

    @property
    def is_conditional(self) -> bool:
        """True if some settings lack a dimension that is not fixed."""
        return any(each.name in self.when for each in self.free)

    @property
    def log_keys(self) -> list[str]:
        """The names of dimensions with a logarithmic interval."""
        return [each.name for each in self.free if each.interval and each.interval.log]

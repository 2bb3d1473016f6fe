"""What a sweep spans: its dimensions, of which some are there under conditions only."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from leyden.config.mistakes import UserError
from leyden.run.choices import deciding, typed_choices
from leyden.sweep.conditions import Conditions, hold
from leyden.sweep.dimension import Dimension, check_few

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

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
        >>> from leyden.sweep.dimension import Choice
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
        return not needed or hold(needed, {key: self._value(key, setting) for key in needed})

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
        return sorted(override for override in self.fixed if deciding(typed_choices([override])))

    @property
    def is_conditional(self) -> bool:
        """Whether there is something to draw that not each setting has."""
        return any(each.name in self.when for each in self.free)

    @property
    def log_keys(self) -> list[str]:
        """The keys that are searched by orders of magnitude."""
        return [each.name for each in self.free if each.interval and each.interval.log]

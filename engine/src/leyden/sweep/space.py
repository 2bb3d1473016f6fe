"""The space of a sweep: values of keys, rows of several, a function of an Optuna trial.

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform; intervals are for a search
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; or shorter: 64,128,256
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
sweep.settings=[{model:mlp},{model:cnn}]      one of these rows of several keys
sweep.space=mine.space                        values by key that this returns for a trial
"""

import itertools
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Quote, QuotedString
from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.config.checks import MAX_JOBS
from leyden.config.values import is_plain
from leyden.run.identity import (
    hydra_value,
    identity_values,
    is_launch_option,
    key_of,
    typed_overrides,
)

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

SETTINGS = "sweep.settings"
FUNCTION = "sweep.space"
WORD = re.compile(
    "(?!(true|false|null|nan|inf)$)[a-z_][a-z0-9_.-]*(/[a-z_][a-z0-9_.-]*)*",
    re.IGNORECASE | re.ASCII,
)


def override_text(value: Any) -> str:
    """Return a plain value in Hydra's override syntax; a text that is a word has no quotes.

    Example:
        >>> override_text([True, None, 0.5, "mlp", "0.5", "a,b"])
        "[true,null,0.5,mlp,'0.5','a,b']"
    """
    if isinstance(value, str):
        if WORD.fullmatch(value):
            return value
        return QuotedString(value, Quote.single).with_quotes()
    if isinstance(value, Mapping):
        items = [f"{override_text(key)}:{override_text(each)}" for key, each in value.items()]
        return "{" + ",".join(items) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(override_text(each) for each in value) + "]"
    return hydra_value(value)


def setting_overrides(where: str, setting: Any) -> list[str]:
    """Return the overrides of a setting, given as plain values by key.

    Args:
        where: Where the setting comes from, for error messages.
        setting: The values by key.

    Raises:
        UserError: It is not such a mapping, or has a key that can't differ between the jobs of a
            sweep.
    """
    if not isinstance(setting, Mapping) or not setting or not is_plain(dict(setting)):
        raise UserError(
            f"{where}: is {setting!r}; must be plain values by key, such as {{'optimizer.lr': 0.1}}"
        )
    for key in setting:
        bare = key_of(key)
        if not bare or key.startswith("~") or "=" in key:
            raise UserError(f"{where}: {key}: must be a key, such as optimizer.lr")
        if is_launch_option(bare) or re.split("[./]", bare)[0] in ("hydra", "fork"):
            raise UserError(f"{where}: {bare}: is the same for all jobs of a sweep")
    return [f"{key}={override_text(value)}" for key, value in setting.items()]


class Interval(NamedTuple):
    """Bounds of a number, both inclusive, on a linear or logarithmic scale.

    Integers if both bounds are.
    """

    low: float
    high: float
    log: bool


@dataclass(frozen=True)
class Dimension:
    """The values that a sweep tries for a key, or the rows of `sweep.settings`.

    Args:
        name: The key with its prefix, as in the override.
        choices: The overrides of each choice, by its text; empty for an interval.
        interval: Bounds of a number that a search draws; None for choices.
    """

    name: str
    choices: dict[str, list[str]] = field(default_factory=dict)
    interval: Interval | None = None

    @property
    def keys(self) -> set[str]:
        """The keys that the dimension sets, without prefixes."""
        if not self.choices:
            return {key_of(self.name)}
        return {key_of(each) for overrides in self.choices.values() for each in overrides}

    def suggest(self, trial: "BaseTrial") -> list[str]:
        """Return the overrides of the value that a trial suggests."""
        if self.interval is None:
            return self.choices[trial.suggest_categorical(self.name, list(self.choices))]
        low, high, log = self.interval
        if isinstance(low, int) and isinstance(high, int):
            found: float = trial.suggest_int(self.name, low, high, log=log)
        else:
            found = float(trial.suggest_float(self.name, low, high, log=log))
        # Optuna takes any value that a study holds for a trial, with a warning.
        if not low <= found <= high:
            raise ValueError(f"{self.name}={found} is outside of {low} to {high}")
        return [f"{self.name}={found}"]


class Space:
    """The settings of a grid or a search: combinations of dimensions, and of a function.

    Args:
        fixed: The overrides that all settings share.
        free: The dimensions.
        function: Returns the overrides of a trial, in a search; None for the dimensions alone.

    Raises:
        UserError: A key is set both by a setting and outside.
    """

    def __init__(
        self,
        fixed: Sequence[str],
        free: Sequence[Dimension],
        function: "Callable[[BaseTrial], list[str]] | None" = None,
    ) -> None:
        self.fixed = fixed
        self.free = free
        self.function = function
        for rows in free:
            if rows.name == SETTINGS:
                others = [each for each in free if each is not rows]
                self._check_keys(SETTINGS, rows.keys, others)

    def _check_keys(self, where: str, keys: set[str], others: Iterable[Dimension]) -> None:
        """Raise a `UserError` if a key is set outside, too: only one would take effect."""
        outside = {key_of(override) for override in self.fixed}
        for each in others:
            outside |= each.keys
        twice = keys & outside
        if twice:
            raise UserError(f"{where}: {min(twice)} is set outside, too; remove one of the two")

    def suggest(self, trial: "BaseTrial") -> list[str]:
        """Return the overrides that a trial suggests, without the fixed ones."""
        found = [override for dimension in self.free for override in dimension.suggest(trial)]
        if self.function:
            of_function = self.function(trial)
            self._check_keys(FUNCTION, {key_of(each) for each in of_function}, self.free)
            found += of_function
        return found

    def settings(self) -> list[list[str]]:
        """Return the overrides of all combinations of choices, without duplicates.

        Raises:
            UserError: There are more combinations than a sweep can have jobs.
        """
        num = math.prod(len(each.choices) for each in self.free)
        check_sweep_size(" x ".join(each.name for each in self.free), num)
        combinations = itertools.product(*(each.choices.values() for each in self.free))
        settings: dict[frozenset[str], list[str]] = {}
        for combination in combinations:
            overrides = [*self.fixed, *itertools.chain(*combination)]
            settings[frozenset(overrides)] = overrides
        return [*settings.values()]

    @property
    def keys(self) -> set[str]:
        """The keys of the dimensions."""
        return {key for dimension in self.free for key in dimension.keys}

    @property
    def fixed_choices(self) -> list[str]:
        """The fixed overrides that can change a job's result, and so identify a search."""
        found = []
        for override in self.fixed:
            typed = typed_overrides([override])
            if identity_values(typed):
                found.append(override)
        return sorted(found)


def space_function(name: Any) -> "Callable[[BaseTrial], list[str]]":
    """Return the function of `sweep.space`, made to return overrides.

    Args:
        name: Its dotted name.

    Raises:
        UserError: There is no such function; or, when it is called, it returns no values by key.
    """
    try:
        function = pkgutil.resolve_name(str(name))
    except (ImportError, ValueError, AttributeError) as error:
        raise UserError(f"{FUNCTION}={name}: can't be imported ({error})") from error
    if not callable(function):
        raise UserError(f"{FUNCTION}={name}: must be a function of an optuna.Trial")
    return lambda trial: setting_overrides(f"{FUNCTION}={name}", function(trial))


def read_space(
    loader: ConfigLoader,
    config: DictConfig,
    params: Any,
    arguments: Sequence[str],
    *,
    is_search: bool,
) -> Space:
    """Return the space of a sweep.

    Args:
        loader: Hydra's config loader, which resolves globs over groups.
        config: The sweep's configuration.
        params: Values to try, by key, in Hydra's override syntax.
        arguments: Overrides of the command line, which replace those of the same key.
        is_search: True for a search, which takes intervals and a function; False for a grid,
            which takes lists.

    Raises:
        UserError: A value can't be parsed, or a key is tried twice.
    """
    if not isinstance(params, Mapping | None):
        raise UserError(
            f"hydra.sweeper.params={params}: must be values by key, such as "
            "+hydra.sweeper.params.seed='0,1'"
        )
    params = params or {}
    for key in (SETTINGS, FUNCTION):
        if key in params:
            raise UserError(f"hydra.sweeper.params: {key} is a key of its own, outside of params")
    found: dict[str, Dimension] = {}
    fixed: dict[str, str] = {}
    lines = [f"{key}={value}" for key, value in params.items()]
    parser = OverridesParser.create(config_loader=loader)
    for override in parser.parse_overrides([*lines, *arguments]):
        name = override.get_key_element()
        found.pop(name, None)
        fixed.pop(name, None)
        if override.is_sweep_override():
            found[name] = _dimension(override, is_search=is_search)
        elif key_of(name) not in (SETTINGS, FUNCTION):  # they are read from the configuration
            fixed[name] = f"{name}={override.get_value_element_as_str()}"
    rows = config.sweep.get("settings")
    if rows is not None:
        found[SETTINGS] = _rows(rows)
    function = config.sweep.get("space")
    if function is not None and not is_search:
        raise UserError(f"{FUNCTION}={function}: is for a search, such as hydra/sweeper=optuna")
    of_trial = None
    if function is not None:
        of_trial = space_function(function)
    return Space([*fixed.values()], [*found.values()], of_trial)


def _rows(node: Any) -> Dimension:
    """Return the dimension of `sweep.settings`."""
    rows = None
    if OmegaConf.is_list(node):
        rows = OmegaConf.to_container(node)
    if not isinstance(rows, list) or not rows:
        raise UserError(
            f"{SETTINGS}={node}: must be a list of values by key, such as "
            "[{model:mlp},{model:cnn}]"
        )
    check_sweep_size(SETTINGS, len(rows))
    overrides = [setting_overrides(f"{SETTINGS}[{number}]", row) for number, row in enumerate(rows)]
    return Dimension(SETTINGS, {" ".join(each): each for each in overrides})


def _dimension(override: Override, *, is_search: bool) -> Dimension:
    """Return the dimension of an override with sweep syntax."""
    line = override.input_line or ""
    name = override.get_key_element()
    if is_launch_option(override.key_or_group):
        raise UserError(f"{line}: is the same for all jobs of a sweep; give one value")
    sweep: Any = override.value()
    tags = set() if isinstance(sweep, Glob) else sweep.tags
    known = {"log"} if is_search else set()
    unknown = tags - known
    if unknown:
        raise UserError(f"{line}: the tag {min(unknown)} is unknown here; a search knows log")
    if isinstance(sweep, IntervalSweep):
        if not is_search:
            raise UserError(
                f"{line}: a grid takes lists, such as 0.1,0.01; use sweep=tpe for intervals"
            )
        interval = Interval(sweep.start or 0, sweep.end or 0, "log" in tags)
        from optuna.distributions import FloatDistribution  # late, as a grid needs no Optuna

        try:
            FloatDistribution(*interval)
        except ValueError as error:
            raise UserError(f"{line}: {error}") from error
        return Dimension(name, interval=interval)
    if not isinstance(sweep, Glob):
        sweep.shuffle = False  # a study needs a fixed order of choices, and a grid runs them all
    try:
        texts = [*itertools.islice(override.sweep_string_iterator(), MAX_JOBS + 1)]
    except (ValueError, TypeError) as error:
        raise UserError(f"{line}: {error}") from error
    check_sweep_size(line, len(texts))
    if not texts:
        raise UserError(f"{line}: has no values to try")
    return Dimension(name, {text: [f"{name}={text}"] for text in texts})


def check_sweep_size(what: str, num: float) -> None:
    """Raise a `UserError` if a number of jobs exceeds `MAX_JOBS`, before they are composed."""
    if num > MAX_JOBS:
        raise UserError(
            f"{what}: a sweep has {MAX_JOBS:,} jobs at most; a search (sweep=tpe) draws some"
        )

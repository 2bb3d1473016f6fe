"""The identity of a run: the settings that determine its result."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import MISSING, DictConfig

from leyden.config.checks import Objective, objective_of, prepare
from leyden.config.values import differing, flatten
from leyden.run.keys import PLACES, Role, has, is_display

LIMIT_OF_VALIDATION = "trainer.limit_val_batches"


def is_launch_option(key: str) -> bool:
    """Return whether a key only controls how and where a run starts, not its identity."""
    return not has(key, Role.NAMED)


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.lstrip("+~").partition("=")[0]


def path_of(override: str) -> str:
    """Return the dotted key of an override, also of the choice of a file."""
    return key_of(override).partition("@")[0].replace("/", ".")


def is_set(key: str, keys: Collection[str]) -> bool:
    """Return whether one of these keys is the key, a part that contains it, or a part of it."""
    for each in keys:
        if f"{key}.".startswith(f"{each}.") or f"{each}.".startswith(f"{key}."):
            return True
    return False


def typed_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides by key, without launch options.

    Example:
        >>> typed_overrides(["optimizer.lr=0.1", "+model.depth=3", "run_dir=x"])
        {'optimizer.lr': '0.1', 'model.depth': '3'}
    """
    found = {}
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if not is_launch_option(key):
            found[key] = value
    return found


def has_length(config: Mapping[str, Any]) -> bool:
    """Return whether the schedule is made for a number of steps, so the run can't be longer."""
    return MISSING in (config.get("scheduler") or {}).values()


@dataclass(frozen=True)
class RunIdentity:
    """The configuration of a run, compared with others to decide whether they are the same run.

    Args:
        config: Resolved configuration, as plain values.
        overrides: The overrides that it was composed by.
        groups: The chosen option of each config group.
    """

    config: dict[str, Any]
    overrides: Collection[str] = ()
    groups: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cfg: DictConfig, overrides: Collection[str], run_dir: Any = None, groups: Any = None
    ) -> "RunIdentity":
        """Create the identity from a composed configuration.

        Check it, and make its paths absolute in place.

        Args:
            cfg: The configuration.
            overrides: The overrides that it was composed by.
            run_dir: The run directory of a sweep's job; None to use `cfg.run_dir`.
            groups: The chosen option of each config group; None if they are unknown.

        Raises:
            UserError: The configuration is wrong.
        """
        return cls(prepare(cfg, run_dir), overrides, groups or {})

    @property
    def saved_config(self) -> dict[str, Any]:
        """The part of the configuration that is recorded; groups come last, as in the record."""
        values: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        for key, value in self.config.items():
            if has(key, Role.RECORDED):
                part = values
                if isinstance(value, dict):
                    part = groups
                part[key] = value
        return values | groups

    @property
    def objective(self) -> Objective | None:
        """The run's objective, without a value; None if it has none."""
        return objective_of(self.config["objective"])

    @property
    def max_epochs(self) -> Any:
        """The maximum number of epochs, `trainer.max_epochs`."""
        return self.config["trainer"]["max_epochs"]

    def is_longer_than(self, there: dict[str, Any]) -> bool:
        """Return whether this run has more epochs than a stored configuration.

        Null and -1 mean no limit.
        """
        old = dict(flatten(there)).get("trainer.max_epochs")
        limits = []
        for num in (old, self.max_epochs):
            limits.append(math.inf if num in (None, -1) else num)
        are_numbers = all(isinstance(limit, int | float) for limit in limits)
        return are_numbers and limits[1] > limits[0]

    def differences(
        self, there: dict[str, Any], started_by: Collection[str] = (), *, all_keys: bool = False
    ) -> list[str]:
        """Return the differences from a stored configuration that make this another run.

        A key that only this configuration has is ignored, since `conf/` may have got it since,
        unless an override that the stored run was not started by sets it, or one that it was
        started by deletes it. More epochs are ignored as well, unless there is a learning rate
        schedule that is made for the original number of epochs.

        Args:
            there: The stored configuration.
            started_by: The overrides of the stored run.
            all_keys: Whether to report all keys that only this configuration has.
        """
        old = identity_values(dict(flatten(there)))
        new = identity_values(dict(flatten(self.config)))
        if not has_length(self.config) and self.is_longer_than(there):
            old["trainer.max_epochs"] = new["trainer.max_epochs"]
        keys = [path_of(each) for each in self.overrides if each not in started_by]
        for each in started_by:
            if each.startswith("~") and each not in self.overrides:
                keys.append(path_of(each))
        found = []
        for key, (a, b) in differing(old, new).items():
            if key in old or all_keys or is_set(key, keys):
                found.append(f"{key}: {a!r} there, {b!r} here")
        return found


def hydra_value(value: Any) -> str:
    """Return a plain value in Hydra's override syntax.

    Example:
        >>> hydra_value([None, True, 1e-3, "a b", "x.y/z"])
        '[null,true,0.001,"a b","x.y/z"]'
    """
    if isinstance(value, str):
        return QuotedString(value.replace("${", "\\${"), Quote.double).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(hydra_value, value))}]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def identity_values(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a flat configuration that can change a run's weights or metrics.

    Example:
        >>> identity_values({"optimizer.lr": 0.1, "logger": None, "trainer.profiler": "simple"})
        {'optimizer.lr': 0.1}
    """
    return {key: value for key, value in flat.items() if is_identity_key(key, flat)}


def is_identity_key(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a flat configuration has a key that can change weights or metrics."""
    if key not in flat or not has(key, Role.BITS):
        return False
    if key in PLACES and flat.get("trainer.strategy") == "elastic":
        return False
    group, *rest = key.split(".")
    if group != "callbacks" or not rest:
        return True
    is_off = len(rest) == 1 and not flat[key]
    class_path = flat.get(f"callbacks.{rest[0]}._target_")
    return not is_off and not is_display(str(class_path))


def shown_value(key: str, value: Any) -> Any:
    """Return a setting's value as it is shown, where 1 and 1.0 differ as a text.

    Example:
        >>> [shown_value("trainer.limit_val_batches", value) for value in (1, 1.0, 0.25)]
        [1, '1.0', 0.25]
    """
    if has(key, Role.LIMIT) and isinstance(value, float) and value.is_integer():
        return str(value)
    return value


def shown_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by key with their values as they are shown, by `shown_value`."""
    return {key: shown_value(key, value) for key, value in choices.items()}


def is_data_key(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a flat configuration has a key that can change what is evaluated on.

    Example:
        >>> flat = {"data._target_": "mine.Birds", "data.val_size": 10, "data.batch_size": 2}
        >>> [key for key in flat if is_data_key(key, flat)]
        ['data._target_', 'data.val_size']
    """
    return has(key, Role.SAMPLES) and is_identity_key(key, flat)

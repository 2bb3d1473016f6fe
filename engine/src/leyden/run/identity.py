"""The identity of a run: the settings that determine its result, and distinguish it from other runs."""

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import MISSING, DictConfig

from leyden.config.checks import Objective, objective_of, prepare
from leyden.config.values import differing, flatten, is_limit

# Keys that control a start of the program and are not part of a run's identity.
CONTROL_KEYS = (
    "run_dir",
    "sweep_name",
    "outputs",
    "resume",
    "exact",
    "test",
    "dry_run",
    "trust",
    "cluster",
    "sweep",
)
NOTES = ("note", "tags")  # what the user says of a run
# Keys of the same kind that stay in the record; they may change when a run is resumed.
START_KEYS = ("data.root", "data.download", "data.num_workers", "picture_format", *NOTES)
# Keys of names, logs and displays, which do not change a run's weights and metrics.
DISPLAY_KEYS = (
    "name",
    "logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)
# Parts of keys of `data` that concern inputs and batches, and not the samples and targets that metrics are computed on.
INPUT_PARTS = {
    "batch_size",
    "eval_batch_size",
    "shuffle",
    "pin_memory",
    "prefetch_factor",
    "persistent_workers",
}
INPUT_PARTS |= {
    "num_workers",
    "augment",
    "normalize",
    "image_size",
    "channels",
    "inputs",
    "categories",
}
# Keys of the trainer that choose the validation samples.
LIMIT_OF_VALIDATION = "trainer.limit_val_batches"
VALIDATION_LIMITS = (LIMIT_OF_VALIDATION, "trainer.overfit_batches")
# Callbacks that never change weights or metrics: all of these modules, and these classes of Lightning's.
DISPLAY_MODULES = ("leyden.callbacks.checkpoint", "leyden.callbacks.display", "leyden.pictures")
OWN_DISPLAY_CALLBACKS = ("Fingerprints", "Progress", "RunCheckpoint", "Summary")
DISPLAY_CALLBACKS = (
    "RichProgressBar",
    "TQDMProgressBar",
    "RichModelSummary",
    "ModelSummary",
    "LearningRateMonitor",
    "DeviceStatsMonitor",
)


@functools.cache  # thousands of runs have the same keys
def is_launch_option(key: str) -> bool:
    """Return whether a key only controls how and where a run is started, and is not part of its identity."""
    return key.split(".")[0] in CONTROL_KEYS or key in START_KEYS


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.lstrip("+~").partition("=")[0]


def path_of(override: str) -> str:
    """Return the dotted key of an override, also of the choice of a file."""
    return key_of(override).partition("@")[0].replace("/", ".")


def is_set(key: str, keys: Collection[str]) -> bool:
    """Return whether one of these dotted keys is the key, a part that contains it, or a part of it."""
    return any(
        key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in keys
    )


def typed_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """Return the values of overrides by key, without launch options.

    Example:
        >>> typed_overrides(["optimizer.lr=0.1", "+model.depth=3", "run_dir=x"])
        {'optimizer.lr': '0.1', 'model.depth': '3'}
    """
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs if not is_launch_option(key)}


def has_length(config: Mapping[str, Any]) -> bool:
    """Return whether a configuration's schedule is made for a number of steps, so that the run can't train longer."""
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
        """Create the identity from a composed configuration; check it, and make its paths absolute in place.

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
        """The part of the configuration that is saved in the run directory, in the order of the record: groups come last."""
        saved = {key: value for key, value in self.config.items() if key not in CONTROL_KEYS}
        return dict(sorted(saved.items(), key=lambda item: isinstance(item[1], dict)))

    @property
    def objective(self) -> Objective | None:
        """The run's objective, without a value; None if it has none."""
        return objective_of(self.config["objective"])

    @property
    def max_epochs(self) -> Any:
        """The maximum number of epochs, `trainer.max_epochs`."""
        return self.config["trainer"]["max_epochs"]

    def is_longer_than(self, there: dict[str, Any]) -> bool:
        """Return whether this run has more epochs than a stored configuration; null and -1 mean no limit."""
        values = (dict(flatten(there)).get("trainer.max_epochs"), self.max_epochs)
        old, new = (math.inf if epochs in (None, -1) else epochs for epochs in values)
        return all(isinstance(epochs, int | float) for epochs in (old, new)) and new > old

    def differences(
        self, there: dict[str, Any], started_by: Collection[str] = (), *, all_keys: bool = False
    ) -> list[str]:
        """Return the differences from a stored configuration that make this another run.

        A key that only this configuration has is ignored, since `conf/` may have got it since, unless an override that the
        stored run was not started by sets it, or one that it was started by deletes it. More epochs are ignored as
        well, unless there is a learning rate schedule that is made for the original number of epochs.

        Args:
            there: The stored configuration.
            started_by: The overrides of the stored run.
            all_keys: Whether to report all keys that only this configuration has.
        """
        old, new = (identity_values(dict(flatten(config))) for config in (there, self.config))
        may_grow = not has_length(self.config) and self.is_longer_than(there)
        typed = [each for each in self.overrides if each not in started_by]
        typed += [
            each for each in started_by if each.startswith("~") and each not in self.overrides
        ]
        keys = [path_of(each) for each in typed]
        return [
            f"{key}: {a!r} there, {b!r} here"
            for key, (a, b) in differing(old, new).items()
            if not (may_grow and key == "trainer.max_epochs")
            and (key in old or all_keys or is_set(key, keys))
        ]


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
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )


def identity_values(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a flat configuration that can change a run's weights or metrics.

    Example:
        >>> identity_values({"optimizer.lr": 0.1, "logger": None, "trainer.profiler": "simple"})
        {'optimizer.lr': 0.1}
    """
    return {key: value for key, value in flat.items() if is_identity_key(key, flat)}


def is_identity_key(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a flat configuration has a key that can change the run's weights or metrics."""
    return (
        key in flat
        and not is_launch_option(key)
        and not any(key == shown or key.startswith(f"{shown}.") for shown in DISPLAY_KEYS)
        and not (
            key.split(".")[0] == "callbacks"
            and (_is_display_callback(key, flat) or (key.count(".") < 2 and not flat[key]))
        )
    )


def shown_value(key: str, value: Any) -> Any:
    """Return a setting's value as it is shown, where 1 and 1.0 differ as a text.

    Example:
        >>> [shown_value("trainer.limit_val_batches", value) for value in (1, 1.0, 0.25)]
        [1, '1.0', 0.25]
    """
    if is_limit(key) and isinstance(value, float) and value.is_integer():
        return str(value)
    return value


def shown_choices(choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by key with their values as they are shown, by `shown_value`."""
    return {key: shown_value(key, value) for key, value in choices.items()}


def is_data_key(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a flat configuration has a key that can change the data that metrics are computed on.

    Example:
        >>> flat = {"data._target_": "mine.Birds", "data.val_size": 10, "data.batch_size": 2, "seed": 0}
        >>> [key for key in flat if is_data_key(key, flat)]
        ['data._target_', 'data.val_size']
    """
    first, *parts = key.split(".")
    if key in VALIDATION_LIMITS:
        return key in flat
    return first == "data" and not INPUT_PARTS & {*parts} and is_identity_key(key, flat)


def _is_display_callback(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a key belongs to a callback that never changes weights or metrics."""
    module, _, name = str(flat.get(".".join([*key.split(".")[:2], "_target_"]))).rpartition(".")
    if module.startswith("lightning.pytorch.callbacks"):
        return name in DISPLAY_CALLBACKS
    if module == "leyden.callbacks":
        return name in OWN_DISPLAY_CALLBACKS
    return module in DISPLAY_MODULES

"""The identity of a run: the settings that decide its result, and by which two runs are the same."""

import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig

from leyden.config.checks import prepare
from leyden.config.hydra import default_value
from leyden.config.objective import Objective, objectives
from leyden.config.values import flatten

# Keys that steer a start of the program and are no part of what a run is.
CONTROL = ("run_dir", "sweep_name", "outputs", "resume", "exact", "test", "dry_run", "cluster", "sweep")
PLACES = ("data.root", "data.download", "data.num_workers")  # may differ from start to start
# What is said of a run and shown of it changes no bit of its weights and metrics.
SHOWN = (
    "name",
    "logger",
    "trainer.log_every_n_steps",
    "trainer.profiler",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
)
# Callbacks that change no bit: all of `leyden.pictures`, and these.
WATCHING_MODULES = ("leyden.callbacks.checkpoint", "leyden.callbacks.display", "leyden.callbacks.fingerprint")
WATCHING = (
    "RichProgressBar",
    "TQDMProgressBar",
    "RichModelSummary",
    "ModelSummary",
    "LearningRateMonitor",
    "DeviceStatsMonitor",
)


def is_launch_option(key: str) -> bool:
    """Whether a key says how and where a start is made, and is no part of what a run is."""
    return key.split(".")[0] in CONTROL or key in PLACES


def typed_overrides(overrides: Sequence[str]) -> dict[str, str]:
    """What somebody has typed, by key, less what steers a start.

    Example:
        >>> typed_overrides(["optimizer.lr=0.1", "+model.depth=3", "run_dir=x"])
        {'optimizer.lr': '0.1', 'model.depth': '3'}
    """
    pairs = (override.lstrip("+~").partition("=") for override in overrides)
    return {key: value for key, _, value in pairs if not is_launch_option(key)}


@dataclass(frozen=True)
class RunIdentity:
    """The configuration of a run.

    Args:
        config: Resolved, as plain values.
        default: The value of a key in `conf/`, to be asked for one that an older run does not have.
    """

    config: dict[str, Any]
    default: Callable[[str], Any]

    @classmethod
    def of(cls, cfg: DictConfig, groups: Any, run_dir: Any = None) -> "RunIdentity":
        """Those of a composed configuration, which is checked, and whose paths become absolute.

        Args:
            cfg: The configuration.
            groups: The choice of each group, as Hydra's `runtime.choices`.
            run_dir: The run directory of a job of a sweep; None: `cfg` names it.

        Raises:
            UserError: The configuration is wrong.
        """
        config = prepare(cfg, run_dir)
        return cls(config, functools.partial(default_value, cfg, dict(groups)))

    @property
    def kept(self) -> dict[str, Any]:
        """What `config.yaml` holds."""
        return {key: value for key, value in self.config.items() if key not in CONTROL}

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """What the run is selected on."""
        return objectives(self.config["objective"])

    @property
    def max_epochs(self) -> Any:
        """Of the training."""
        return self.config["trainer"]["max_epochs"]

    def is_longer_than(self, there: dict[str, Any]) -> bool:
        """Whether more epochs are asked for than in another run's configuration; null and -1 stand for no end."""
        values = (dict(flatten(there)).get("trainer.max_epochs"), self.max_epochs)
        old, new = (math.inf if epochs in (None, -1) else epochs for epochs in values)
        return all(isinstance(epochs, int | float) for epochs in (old, new)) and new > old

    def differences(
        self, there: dict[str, Any], *, defaults_count: bool = False, deleted: Collection[str] = ()
    ) -> list[str]:
        """What makes this another run than that of a stored configuration.

        A key that only this one has is no difference while it has its default. More epochs are none either, unless a
        schedule of the learning rate ends with the run that it was made for.

        Args:
            there: The stored configuration.
            defaults_count: Whether keys that only this one has count though they have their defaults.
            deleted: Keys that were deleted there on purpose, which a default is no excuse for.
        """
        old, new = (identity_values(dict(flatten(config))) for config in (there, self.config))
        found = []
        for key in [*old, *(key for key in new if key not in old)]:
            may_grow = key == "trainer.max_epochs" and not self.config.get("scheduler")
            if (may_grow and self.is_longer_than(there)) or (
                key not in old
                and not defaults_count
                and not any(key == each or key.startswith(f"{each}.") for each in deleted)
                and self._is_default(key, new[key])
            ):
                continue
            # As they are written: 1 is one batch and 1.0 all of them, true is neither.
            a, b = (repr(flat[key]) if key in flat else "absent" for flat in (old, new))
            if a != b:
                found.append(f"{key}: {a} there, {b} here")
        return found

    def corrections(self, there: dict[str, Any]) -> list[str]:
        """What is to be typed besides, so that nothing makes this another run than that of a stored configuration."""
        old, new = (dict(flatten(config)) for config in (there, self.config))
        keys = [difference.partition(":")[0] for difference in self.differences(there)]
        return [
            f"~{key}" if key not in old else f"{'' if key in new else '+'}{key}={hydra_value(old[key])}"
            for key in keys
        ]

    def _is_default(self, key: str, value: Any) -> bool:
        try:
            return repr(self.default(key)) == repr(value)
        except (KeyError, HydraException):  # there is none, or `conf/` has changed under a job that waits
            return False


def hydra_value(value: Any) -> str:
    """A plain value as Hydra reads it.

    Example:
        >>> hydra_value([None, True, 1e-3, "a b", "x.y/z"])
        '[null,true,0.001,"a b","x.y/z"]'
    """
    if isinstance(value, str):
        return QuotedString(value.replace("${", "\\${"), Quote.double).with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(hydra_value, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def identity_values(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What of a configuration, which is given flat, can change a bit of weights or metrics.

    Example:
        >>> identity_values({"optimizer.lr": 0.1, "logger": None, "callbacks.x._target_": "leyden.pictures.classification.Errors"})
        {'optimizer.lr': 0.1}
    """
    return {
        key: value
        for key, value in flat.items()
        if not is_launch_option(key)
        and not any(key == shown or key.startswith(f"{shown}.") for shown in SHOWN)
        and not (key.split(".")[0] == "callbacks" and (_watches(key, flat) or (key.count(".") < 2 and not value)))
    }


def _watches(key: str, flat: Mapping[str, Any]) -> bool:
    """Return whether a key is that of a callback which changes no bit of a run."""
    module, _, name = str(flat.get(".".join([*key.split(".")[:2], "_target_"]))).rpartition(".")
    if module.startswith("lightning.pytorch.callbacks"):
        return name in WATCHING
    return module.rpartition(".")[0] == "leyden.pictures" or module in WATCHING_MODULES

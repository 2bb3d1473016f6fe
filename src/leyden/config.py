"""The root of the configuration: types of its keys, and checks. Values stand in `conf/`, none here."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"


class UserError(Exception):
    """A mistake of the user: its one or two lines are all that is printed, without a traceback."""


@dataclass
class TrainConfig:
    """Root keys of `conf/train.yaml`, where their meaning stands."""

    data: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    callbacks: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    cluster: dict[str, Any] = MISSING
    name: str = MISSING
    seed: int = MISSING
    objective: Any = MISSING
    label_smoothing: float = MISSING
    compile: bool = MISSING
    test: Any = MISSING
    resume: str = MISSING
    outputs: str = MISSING
    run_dir: str = MISSING
    sweep_name: str = MISSING
    dry_run: bool = MISSING


@dataclass
class EvaluateConfig:
    """Root keys of `conf/evaluate.yaml`."""

    run: str = MISSING
    checkpoint: str = MISSING
    accelerator: str = MISSING
    data_root: str | None = MISSING
    outputs: str = MISSING


@dataclass
class PredictConfig:
    """Root keys of `conf/predict.yaml`."""

    run: str = MISSING
    images: Any = MISSING
    invert: bool = MISSING
    output: str | None = MISSING
    picture: str | None = MISSING
    checkpoint: str = MISSING


@dataclass
class ExportConfig:
    """Root keys of `conf/export.yaml`."""

    run: str = MISSING
    output: str = MISSING
    checkpoint: str = MISSING
    data_root: str | None = MISSING


SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig, "predict": PredictConfig, "export": ExportConfig}

for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(f"{_name}_schema", _schema)
# `${project:data}` is the folder data/ of this project, wherever the command is started.
OmegaConf.register_new_resolver("project", lambda path: str(ROOT / path), replace=True)
# `${short:leyden.models.mlp.MLP}` is mlp.
OmegaConf.register_new_resolver("short", lambda target: target.rpartition(".")[2].lower(), replace=True)


def check(cfg: DictConfig) -> None:
    """Find mistakes in the values of a training config that no constructor reports.

    Raises:
        UserError: Names the key, the value found and what is allowed.
    """
    unknown = set(map(str, cfg)) - {field.name for field in fields(TrainConfig)}
    if unknown:
        raise UserError(f"{min(unknown)}: no such key; the root has {', '.join(map(str, set(cfg) - unknown))}")
    choice(cfg, "resume", "auto", "never", "must")
    choice(cfg, "test", "auto", True, False)
    for objective in objectives(cfg.objective):
        if objective["mode"] not in ("min", "max"):
            raise UserError(f"objective.mode={objective['mode']}: must be one of min, max")
    for key in ("name", "sweep_name"):
        if not re.fullmatch(r"[\w.-]+", cfg[key]) or set(cfg[key]) == {"."}:
            raise UserError(f"{key}={cfg[key]}: must be letters, digits, '_', '-' and '.', it names a folder")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: must be a whole number from 0 to {2**32 - 1}")
    if not 0 <= cfg.label_smoothing < 1:
        raise UserError(f"label_smoothing={cfg.label_smoothing}: must be a number in [0, 1)")
    lr = cfg.optimizer.get("lr", 1.0)
    if not isinstance(lr, int | float) or isinstance(lr, bool) or not 0 < lr < math.inf:
        raise UserError(f"optimizer.lr={lr}: must be a positive number")
    for key in ("max_epochs", "log_every_n_steps"):
        value = cfg.trainer[key]
        if type(value) is not int or value < 1:
            raise UserError(f"trainer.{key}={value}: must be a whole number, 1 or larger")
    for key in ("limit_train_batches", "limit_val_batches", "limit_test_batches"):
        value = cfg.trainer[key]
        if not isinstance(value, int | float) or not value > 0:
            raise UserError(
                f"trainer.{key}={value}: must be a part (0.1) or a number (10) of the batches, not none"
            )


def prepare(cfg: DictConfig, run_dir: str | Path) -> dict[str, Any]:
    """Check a training config, make its paths absolute in place, and return it resolved, as plain values.

    Raises:
        UserError: Names the key, the value found and what is allowed.
    """
    check(cfg)
    cfg.run_dir = str(run_dir)
    cfg.outputs, cfg.data.root = (str(Path(path).absolute()) for path in (cfg.outputs, cfg.data.root))
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    return config


def objectives(objective: Any) -> Sequence[Any]:
    """What is selected on, as it stands in a configuration or a result, as pairs of metric and mode.

    Raises:
        UserError: It has not as many modes as metrics.

    Example:
        >>> objectives({"metric": ["val/acc", "num_parameters"], "mode": ["max", "min"]})
        [{'metric': 'val/acc', 'mode': 'max'}, {'metric': 'num_parameters', 'mode': 'min'}]
        >>> objectives(None)
        []
    """
    if objective is None or isinstance(objective, list):
        return objective or []
    if "value" in objective:
        return [objective]
    metrics, modes = (
        list(values) if isinstance(values, list | ListConfig) else [values]
        for values in (objective["metric"], objective["mode"])
    )
    if not metrics or len(metrics) != len(modes):
        raise UserError(f"objective.mode={modes}: must be as many as objective.metric={metrics}")
    return [{"metric": metric, "mode": mode} for metric, mode in zip(metrics, modes, strict=True)]


def choice(cfg: DictConfig, key: str, *allowed: object) -> None:
    """Raise a `UserError` unless the value at `key` is one of those allowed."""
    value = OmegaConf.select(cfg, key)
    if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        raise UserError(f"{key}={value}: must be one of {', '.join(str(a).lower() for a in allowed)}")

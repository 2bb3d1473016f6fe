"""The objective, and checks of a training configuration's values before anything is instantiated from it."""

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.config.errors import UserError
from leyden.config.schema import CHOICES, TrainConfig
from leyden.config.values import is_plain


@dataclass(frozen=True)
class Objective:
    """A metric to minimize or maximize, and a run's value of it.

    Args:
        metric: Name of the metric, such as `val/acc`.
        mode: `min` or `max`.
        value: The run's value; None if it is not known (yet).
    """

    metric: str
    mode: str
    value: float | None = None


def objective_of(node: Any) -> Objective | None:
    """Return the objective of the config node `objective`; None for null.

    Raises:
        UserError: The node is malformed.

    Example:
        >>> objective_of({"metric": "val/acc", "mode": "max"})
        Objective(metric='val/acc', mode='max', value=None)
    """
    if node is None:
        return None
    if not isinstance(node, dict | DictConfig):
        raise UserError(f"objective={node}: must be null, or set by objective.metric and objective.mode")
    if set(node) != {"metric", "mode"}:
        raise UserError(f"objective: has {', '.join(map(str, node)) or 'nothing'}; must have metric and mode")
    metric, mode = node["metric"], node["mode"]
    if not isinstance(metric, str) or not metric:
        raise UserError(
            f"objective.metric={metric}: must be one metric, such as val/acc; leyden runs sort=KEY lists runs by another"
        )
    if mode not in ("min", "max"):
        raise UserError(f"objective.mode={mode}: must be one of min, max")
    return Objective(metric, mode)


MAX_JOBS = 100_000  # per sweep; all are composed and checked before the first one starts
# Root keys that are config groups.
PARTS = {"data", "model", "task", "optimizer", "scheduler", "trainer", "callbacks", "logger", "cluster"}
# Numbers that Lightning would accept, or reject only in training.
SIZES = ("optimizer.lr", "trainer.gradient_clip_val")
COUNTS = ("max_epochs", "num_nodes", "accumulate_grad_batches", "check_val_every_n_epoch", "log_every_n_steps")


def validate_values(cfg: DictConfig) -> None:
    """Check those values of a training config that constructors check too late or not at all.

    Raises:
        UserError: A value is wrong; the message names the key, the value and the allowed values.
    """
    known = {field.name for field in fields(TrainConfig)}
    if unknown := set(map(str, cfg)) - known:
        raise UserError(f"{min(unknown)}: no such key; the root has {', '.join(sorted(known))}")
    if missing := known - set(map(str, cfg)):
        raise UserError(f"~{min(missing)}: can't be removed")
    for key in known & PARTS:
        if not isinstance(cfg[key], DictConfig):
            raise UserError(
                f"{key}={cfg[key]}: must be a choice of conf/{key}/; its keys are set by {key}.KEY=VALUE"
            )
    for name in ("resume", "exact", "test", "sweep.pictures", "picture_format"):
        require_choice(cfg, name, *CHOICES[f"train.{name}"])
    objective_of(cfg.objective)
    for key in ("name", "sweep_name"):
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", cfg[key]) or set(cfg[key]) == {"."}:
            raise UserError(f"{key}={cfg[key]}: must be letters, digits, '_', '-' and '.', since it names a folder")
    for key in ("outputs", "run_dir", "data.root"):
        if OmegaConf.select(cfg, key) in (None, "") and (key != "data.root" or "root" in cfg.data):
            raise UserError(f"{key}: is empty; must be the path of a folder")
    for key in ("init_from", "fork"):
        if cfg[key] == "":
            raise UserError(f"{key}: is empty; must be a run directory, or null")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: must be a whole number from 0 to {2**32 - 1}")
    require_choice(cfg, "trainer.deterministic", True, False, "warn", None)
    require_choice(cfg, "data.download", True, False, None)
    check_num_jobs(cfg.cluster.get("num_jobs"))
    _check_counts(cfg)


def check_num_jobs(num_jobs: Any) -> None:
    """Raise a `UserError` unless the number of parallel jobs is a positive integer or null (no limit)."""
    if num_jobs is not None and (type(num_jobs) is not int or not 1 <= num_jobs <= MAX_JOBS):
        allowed = f"a positive whole number, {MAX_JOBS} at most, or null"
        raise UserError(f"cluster.num_jobs={_as_yaml(num_jobs)}: must be {allowed}")


def _check_counts(cfg: DictConfig) -> None:
    """Raise a `UserError` unless each of `COUNTS` is a positive whole number, and none of `SIZES` is negative or a boolean."""
    for name in COUNTS:
        if name == "num_nodes" and "nodes" in cfg.cluster:  # it follows from the cluster
            continue
        value = cfg.trainer.get(name)
        if (value is not None or name == "max_epochs") and (type(value) is not int or value < 1):
            raise UserError(f"trainer.{name}={_as_yaml(value)}: must be a whole number, 1 or larger")
    for name in SIZES:
        value = OmegaConf.select(cfg, name)
        if type(value) is bool or (isinstance(value, int | float) and value < 0):
            raise UserError(f"{name}={_as_yaml(value)}: must be a number, 0 or larger")


def _as_yaml(value: Any) -> str:
    return "null" if value is None else str(value)


def prepare(cfg: DictConfig, run_dir: str | Path | None) -> dict[str, Any]:
    """Check a training config, make its paths absolute in place, and return it resolved as plain values.

    Args:
        cfg: The configuration.
        run_dir: The run directory of a sweep's job; None to use `cfg.run_dir`.

    Raises:
        UserError: A value is wrong; the message names the key, the value and the allowed values.
    """
    validate_values(cfg)
    cfg.run_dir = str(run_dir or Path(cfg.run_dir).absolute())
    cfg.outputs = str(Path(cfg.outputs).absolute())
    for key in ("init_from", "fork"):
        if cfg[key] is not None:
            cfg[key] = str(Path(cfg[key]).absolute())
    if "root" in cfg.data:
        cfg.data.root = str(Path(cfg.data.root).absolute())
    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    if not is_plain(config):
        raise UserError(
            "the configuration can't be saved: it holds a value that is not a number, text, list or dictionary with texts as keys"
        )
    return config


def require_choice(cfg: DictConfig, key: str, *allowed: object) -> None:
    """Raise a `UserError` unless the value at `key` is one of `allowed`."""
    value = OmegaConf.select(cfg, key)
    if not any(value is a or (isinstance(a, str) and value == a) for a in allowed):
        raise UserError(f"{key}={value}: must be one of {', '.join(str(a).lower() for a in allowed)}")


def check_folder(key: str, path: str) -> None:
    """Check that there is a folder, which a download would create.

    Raises:
        UserError: There is none.
    """
    if not Path(path).is_dir():
        raise UserError(f"{key}={path}: no such folder")

"""Root keys of a training, whose defaults are in `conf/`, and checks of their values.

It is checked before anything is instantiated from it.
"""

import inspect
import re
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import setup_globals
from omegaconf import MISSING, DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.base.paths import choices, conf_files, root
from leyden.config.values import is_plain


@dataclass
class TrainConfig:
    """Root keys of a training run, which the library's `conf/run_defaults.yaml` documents."""

    data: dict[str, Any] = MISSING
    model: dict[str, Any] = MISSING
    task: dict[str, Any] = MISSING
    optimizer: dict[str, Any] = MISSING
    scheduler: dict[str, Any] = MISSING
    trainer: dict[str, Any] = MISSING
    callbacks: dict[str, Any] = MISSING
    logger: dict[str, Any] = MISSING
    cluster: dict[str, Any] = MISSING
    name: str = MISSING
    note: str | None = MISSING
    tags: list[str] = MISSING
    seed: int = MISSING
    init_from: str | None = MISSING
    init_exclude: list[str] = MISSING
    fork: str | None = MISSING
    freeze: list[str] = MISSING
    objective: Any = MISSING
    compile: bool = MISSING
    test: Any = MISSING
    resume: str = MISSING
    exact: str = MISSING
    outputs: str = MISSING
    run_dir: str = MISSING
    sweep_name: str = MISSING
    sweep: dict[str, Any] = MISSING
    picture_format: str = MISSING
    dry_run: bool = MISSING
    trust: bool = False


ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
# Allowed values of keys that have a fixed set.
CHOICES: dict[str, tuple[Any, ...]] = {
    "resume": ("auto", "never", "must", "changed"),
    "test": ("auto", True, False),
    "exact": ("report", "require", "off", "test"),
    "sweep.pictures": ("all", "none"),
    "picture_format": ("png", "pdf"),
    "trainer.deterministic": (True, False, "warn", None),
    "data.download": (True, False, None),
}
ConfigStore.instance().store("train_schema", TrainConfig)


def _config_groups() -> str:
    """Return a paragraph per config group: choices in `conf/` and, after `|`, the library's."""
    lines = []
    for group in sorted({name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}):
        if not group.startswith("hydra/"):
            own, library = map(", ".join, choices(group))
            line = " ".join(filter(None, [f"{group}:", own, library and f"| {library}"]))
            lines.append(textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines) + "\n"


def _name_of_model(_root_: Any) -> str:
    """Return the class name of the network, or else the task, in lower case.

    For `${name_of_model:}`.
    """
    targets = (OmegaConf.select(_root_, f"{key}._target_") for key in ("model", "task"))
    return _last_word(next(filter(None, targets), None))


def _last_word(target: object) -> str:
    return str(target).rpartition(".")[2].lower()


def _name_of_data(data: Any) -> str:
    """Return the dataset's class name or else its folder's name, for `${name_of_data:${data}}`."""
    for part in ("dataset", "train"):
        node = data.get(part)
        if isinstance(node, DictConfig) and node.get("_target_"):
            return _last_word(node["_target_"])
    folder = data.get("root")
    name = Path(folder).absolute().name if folder else _last_word(data.get("_target_"))
    return re.sub("[^A-Za-z0-9_.-]", "-", name)


def register_resolvers() -> None:
    """Register the functions that `conf/` calls.

    Not at import, as another Hydra program may have its own by these names.
    """
    setup_globals()  # Hydra's own, such as `now`
    # OmegaConf 2.4 warns of the function that 2.3 has, and gives its arguments to one that 2.3
    # warns of.
    is_renamed = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register: Any = OmegaConf.register_resolver if is_renamed else OmegaConf.register_new_resolver
    register("config_groups", _config_groups, replace=True)
    # `${project:data}` is the project's folder data/, whatever the working directory.
    register("project", lambda path: str(root() / path), replace=True)
    register("name_of_model", _name_of_model, replace=True)
    register("name_of_data", _name_of_data, replace=True)


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
        raise UserError(
            f"objective={node}: must be null, or set by objective.metric and objective.mode"
        )
    if set(node) != {"metric", "mode"}:
        raise UserError(
            f"objective: has {', '.join(map(str, node)) or 'nothing'}; must have metric and mode"
        )
    metric, mode = node["metric"], node["mode"]
    if not isinstance(metric, str) or not metric:
        raise UserError(
            f"objective.metric={metric}: must be one metric, such as val/acc; leyden runs sort=KEY "
            "lists runs by another"
        )
    if mode not in ("min", "max"):
        raise UserError(f"objective.mode={mode}: must be one of min, max")
    return Objective(metric, mode)


MAX_JOBS = 100_000  # per sweep; all are composed and checked before the first one starts
# Root keys that are config groups.
PARTS = {
    "data",
    "model",
    "task",
    "optimizer",
    "scheduler",
    "trainer",
    "callbacks",
    "logger",
    "cluster",
}
# Numbers that Lightning would accept, or reject only in training.
SIZES = ("optimizer.lr", "trainer.gradient_clip_val")
COUNTS = (
    "max_epochs",
    "num_nodes",
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "log_every_n_steps",
)


def validate_values(cfg: DictConfig) -> None:
    """Check those values of a training config that constructors check too late or not at all.

    Raises:
        UserError: A value is wrong; the message names the key, the value and the allowed values.
    """
    known = {field.name for field in fields(TrainConfig)}
    there = {*map(str, cfg)}
    unknown = there - known
    if unknown:
        raise UserError(f"{min(unknown)}: no such key; the root has {', '.join(sorted(known))}")
    missing = known - there
    if missing:
        raise UserError(f"~{min(missing)}: can't be removed")
    for key in PARTS:
        if not isinstance(cfg[key], DictConfig):
            allowed = f"must be a choice of conf/{key}/; its keys are set by {key}.KEY=VALUE"
            raise UserError(f"{key}={cfg[key]}: {allowed}")
    for name, values in CHOICES.items():
        require_choice(cfg, name, *values)
    objective_of(cfg.objective)
    for key in ("name", "sweep_name"):
        if not re.fullmatch(r"(?!\.+$)[A-Za-z0-9_.-]{1,200}", cfg[key]):
            allowed = "must be letters, digits, '_', '-' and '.', since it names a folder"
            raise UserError(f"{key}={cfg[key]}: {allowed}")
    paths = {"outputs": cfg.outputs, "run_dir": cfg.run_dir}
    if "root" in cfg.data:
        paths["data.root"] = cfg.data.root
    for key, path in paths.items():
        if not path:
            raise UserError(f"{key}: is empty; must be the path of a folder")
    for key in ("init_from", "fork"):
        if cfg[key] == "":
            raise UserError(f"{key}: is empty; must be a run directory, or null")
    if not 0 <= cfg.seed < 2**32:
        raise UserError(f"seed={cfg.seed}: must be a whole number from 0 to {2**32 - 1}")
    check_num_jobs(cfg.cluster.get("num_jobs"))
    _check_counts(cfg)


def check_num_jobs(num_jobs: Any) -> None:
    """Raise a `UserError` unless `num_jobs` is a positive integer or null (no limit)."""
    if num_jobs is not None and (type(num_jobs) is not int or not 1 <= num_jobs <= MAX_JOBS):
        raise UserError(
            f"cluster.num_jobs={_as_yaml(num_jobs)}: must be a positive whole number, {MAX_JOBS} "
            "at most, or null"
        )


def _check_counts(cfg: DictConfig) -> None:
    """Raise a `UserError` unless `COUNTS` are positive whole numbers, and `SIZES` not negative."""
    for name in COUNTS:
        if name == "num_nodes" and "nodes" in cfg.cluster:  # it follows from the cluster
            continue
        value = cfg.trainer.get(name)
        if (value is not None or name == "max_epochs") and (type(value) is not int or value < 1):
            raise UserError(
                f"trainer.{name}={_as_yaml(value)}: must be a whole number, 1 or larger"
            )
    for name in SIZES:
        value = OmegaConf.select(cfg, name)
        if type(value) is bool or (isinstance(value, int | float) and value < 0):
            raise UserError(f"{name}={_as_yaml(value)}: must be a number, 0 or larger")


def _as_yaml(value: Any) -> str:
    if value is None:
        return "null"
    return str(value)


def prepare(cfg: DictConfig, run_dir: str | Path | None) -> dict[str, Any]:
    """Check a training config, make its paths absolute in place, and return it as plain values.

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
            "the configuration can't be saved: it holds a value that is not a number, text, list "
            "or dictionary with texts as keys"
        )
    return config


def require_choice(cfg: DictConfig, key: str, *allowed: object) -> None:
    """Raise a `UserError` unless the value at `key` is one of `allowed`."""
    value = OmegaConf.select(cfg, key)
    for each in allowed:
        if value is each or (isinstance(each, str) and value == each):
            return
    names = ", ".join(str(each).lower() for each in allowed)
    raise UserError(f"{key}={value}: must be one of {names}")


def check_folder(key: str, path: str) -> None:
    """Check that there is a folder, which a download would create.

    Raises:
        UserError: There is none.
    """
    if not Path(path).is_dir():
        raise UserError(f"{key}={path}: no such folder")

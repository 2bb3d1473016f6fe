"""Types of the root keys of each command's configuration; their default values are in `conf/`."""

import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import setup_globals
from omegaconf import MISSING, DictConfig, OmegaConf

from leyden.config.paths import ROOT, choices, conf_files


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


@dataclass
class EvaluateConfig:
    """Root keys of `conf/evaluate.yaml`."""

    run: str | None = MISSING
    runs: str | None = MISSING
    row: int = MISSING
    checkpoint: str = MISSING
    accelerator: str | None = MISSING
    data_root: str | None = MISSING
    outputs: str = MISSING
    trust: bool = False
    format: str = "table"


@dataclass
class PredictConfig:
    """Root keys of `conf/predict.yaml`."""

    run: str = MISSING
    images: Any = MISSING
    table: str | None = MISSING
    invert: bool = MISSING
    output: str | None = MISSING
    checkpoint: str = MISSING
    accelerator: str | None = None  # has a default, since a project's own conf/predict.yaml may lack the key
    trust: bool = False


@dataclass
class ExportConfig:
    """Root keys of `conf/export.yaml`."""

    run: str = MISSING
    output: str | None = MISSING
    checkpoint: str = MISSING
    data_root: str | None = MISSING
    trust: bool = False


# Allowed values of `accelerator`, for training and for using a trained run.
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
# Allowed values of keys that have a fixed set.
CHOICES: dict[str, tuple[Any, ...]] = {
    "train.resume": ("auto", "never", "must", "changed"),
    "train.test": ("auto", True, False),
    "train.exact": ("report", "require", "off", "test"),
    "train.sweep.pictures": ("all", "none"),
    "train.picture_format": ("png", "pdf"),
    "evaluate.format": ("table", "json"),
}
SCHEMAS = {"train": TrainConfig, "evaluate": EvaluateConfig, "predict": PredictConfig, "export": ExportConfig}

for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(f"{_name}_schema", _schema)


def _config_groups() -> str:
    """Return a paragraph per config group: its choices in the project's `conf/` and, after `|`, the library's."""
    lines = []
    for group in sorted({name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}):
        if not group.startswith("hydra/"):
            own, library = map(", ".join, choices(group))
            line = " ".join(filter(None, [f"{group}:", own, library and f"| {library}"]))
            lines.append(textwrap.fill(line, 80, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join(lines) + "\n"


def _name_of_model(_root_: Any) -> str:
    """Return the network's class name or else the task's, in lower case, for `${name_of_model:}`."""
    targets = (OmegaConf.select(_root_, f"{key}._target_") for key in ("model", "task"))
    return _last_word(next(filter(None, targets), None))


def _last_word(target: object) -> str:
    return str(target).rpartition(".")[2].lower()


def _name_of_data(data: Any) -> str:
    """Return the dataset's class name or else its folder's name, for `${name_of_data:${data}}`."""
    for part in ("dataset", "train"):
        if isinstance(node := data.get(part), DictConfig) and node.get("_target_"):
            return _last_word(node["_target_"])
    root = data.get("root")
    name = Path(root).absolute().name if root else _last_word(data.get("_target_"))
    return re.sub("[^A-Za-z0-9_.-]", "-", name)


def register_resolvers() -> None:
    """Register the functions that `conf/` calls; not at import, as another Hydra program may have its own by these names."""
    setup_globals()  # Hydra's own, such as `now`
    # OmegaConf 2.4 warns of the function that 2.3 has, and gives its arguments to one that 2.3 warns of.
    is_renamed = "replace" in inspect.signature(OmegaConf.register_resolver).parameters
    register: Any = OmegaConf.register_resolver if is_renamed else OmegaConf.register_new_resolver
    register("config_groups", _config_groups, replace=True)
    # `${project:data}` is the project's folder data/, whatever the working directory.
    register("project", lambda path: str(ROOT / path), replace=True)
    register("name_of_model", _name_of_model, replace=True)
    register("name_of_data", _name_of_data, replace=True)

"""Hydra, by its public modules alone: composition, instantiation, and what its command line shows.

Leyden's commands compose by themselves. `hydra.main` would create directories, set up logging, call
launchers and end the process in ways of its own.
"""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.base.errors import UserError
from leyden.base.paths import conf
from leyden.config.checks import register_resolvers
from leyden.config.values import leaves

SINCE_1_4 = hasattr(hydra.utils, "execution_whitelist")
# Before 1.4, Hydra's defaults are those of an old version unless a newer one is named.
HYDRA_DEFAULTS: dict[str, Any] = {} if SINCE_1_4 else {"version_base": "1.3"}
# Keys of Hydra that have no effect here, since no code of Hydra's runs a job; `conf/` may not set
# them either.
UNUSED = ("callbacks", "job.chdir", "job.env_copy", "job.env_set", "verbose")


class LibrarySearchPath(SearchPathPlugin):
    """Search path of Hydra: `conf/`, then the library's, then a folder of the command line."""

    config_dir: Path | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folders."""
        search_path.append("leyden", "pkg://leyden.conf")
        if self.config_dir:
            search_path.append("command-line", f"file://{self.config_dir}")


@contextlib.contextmanager
def composing(config_dir: Path | None = None, *, job_name: str = "train") -> Iterator[None]:
    """Context in which Hydra is initialized with `conf/`, for `hydra.compose("train")`.

    Args:
        config_dir: A further folder of config files.
        job_name: Value of `hydra.job.name`.
    """
    register_resolvers()
    logging.getLogger("hydra").addHandler(logging.NullHandler())  # its errors are raised, too
    LibrarySearchPath.config_dir = config_dir and config_dir.absolute()
    Plugins.instance().register(LibrarySearchPath)
    with hydra.initialize_config_dir(str(conf()), job_name=job_name, **HYDRA_DEFAULTS):
        LibrarySearchPath.config_dir = None
        yield


def initialized() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which Hydra is initialized: by the command, or with `conf/`."""
    if GlobalHydra.instance().is_initialized():
        return contextlib.nullcontext()
    return composing()


def compose_command(config_name: str, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of a command, including the node `hydra`.

    Overrides of a sweep are only recorded.

    Raises:
        HydraException: An override is wrong.
        UserError: `conf/` sets a key of Hydra that has no effect.
    """
    loader = GlobalHydra.instance().config_loader()
    # `hydra.compose` refuses the overrides of a sweep.
    cfg = loader.load_configuration(
        config_name, list(overrides), run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
    )
    for key in UNUSED:
        value = OmegaConf.select(cfg.hydra, key)
        if value:
            raise UserError(
                f"hydra.{key}={value}: has no effect in Leyden, which runs jobs itself; remove it"
            )
    HydraConfig.instance().set_config(cfg.copy())  # it makes its own read-only
    return cfg


def is_sweep(cfg: Any) -> bool:
    """Return whether a configuration is that of a sweep, or of one of its jobs."""
    return bool(cfg.hydra.mode == RunMode.MULTIRUN)


def without_hydra(cfg: DictConfig) -> DictConfig:
    """Return a copy of a configuration without the node `hydra`."""
    cfg = cfg.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def run_task(task: Callable[[DictConfig], Any], cfg: DictConfig) -> Any:
    """Call a command's function with a configuration.

    The node `hydra` is removed, and found by `HydraConfig.get()`.
    """
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return task(cfg)


def targets(config: Any) -> list[str]:
    """Return all values of `_target_`, each once: the network's, data's and task's first."""
    plain: Any = OmegaConf.to_container(config) if isinstance(config, DictConfig) else config
    parts = {key: plain[key] for key in ("model", "data", "task") if key in plain} | plain
    found = {}
    for path, value in leaves(parts):
        if path and path[-1] == "_target_" and isinstance(value, str) and value != "???":
            found[value] = True
    return [*found]


def call_target(node: Any, *, partial: bool = False) -> Any:
    """Return what Hydra makes of a node of plain values; with `partial`, a function that makes it.

    From version 1.4 on, Hydra wants to be given what may be called. A configuration is instantiated
    here if its owner has written it (docs/security.md), so its targets are, and what they return;
    of the standard library nothing else is.
    """
    # In the node, as Hydra would copy the node once more to merge keyword arguments into it.
    node = {**node, "_convert_": "all"}
    if partial:
        node["_partial_"] = True
    if not SINCE_1_4:
        return hydra.utils.instantiate(node)
    allowed = targets(node)
    packages = {name.partition(".")[0] for name in (*allowed, *sys.modules)}
    for package in packages - sys.stdlib_module_names:
        if package.isidentifier():
            allowed.append(f"{package}.*")
    return hydra.utils.instantiate(node, _execution_whitelist_=allowed)


def shown_config(cfg: DictConfig, kind: str, *, resolve: bool) -> str:
    """Return what `--cfg` shows of a configuration, as YAML.

    Args:
        cfg: The configuration, including the node `hydra`.
        kind: `job` for the command's own keys, `hydra` for Hydra's, `all` for both.
        resolve: Whether interpolations are resolved.
    """
    shown: Any = cfg
    if kind == "job":
        shown = without_hydra(cfg)
    if kind == "hydra":
        shown = OmegaConf.create({"hydra": cfg.hydra})
    return OmegaConf.to_yaml(shown, resolve=resolve)


def chosen_options(hydra_cfg: Any) -> dict[str, str | None]:
    """Return the option of each config group, as files, defaults and overrides have chosen it.

    Without Hydra's own groups.

    Args:
        hydra_cfg: The node `hydra` of the configuration.
    """
    found = {}
    for group, option in hydra_cfg.runtime.choices.items():
        if not group.startswith("hydra/"):
            found[group] = None if option is None else str(option)
    return found


def task_overrides(hydra_cfg: Any) -> list[str]:
    """Return a command's overrides of the configuration, as given.

    Hydra keeps them unescaped, so reading one that names another key, as `"${data.batch_size}"`,
    would give its value.

    Args:
        hydra_cfg: The node `hydra` of the configuration.
    """
    typed: Any = OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False)
    return list(typed)

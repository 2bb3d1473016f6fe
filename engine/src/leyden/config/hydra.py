"""Hydra's command-line parser and composition, and the default value of each key."""

import argparse
import contextlib
import functools
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra
import hydra._internal.utils
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.config.paths import CONF
from leyden.config.schema import register_resolvers
from leyden.config.values import flatten

VERSION_BASE = "1.3"  # Hydra version whose defaults apply


class _ArgumentParser(argparse.ArgumentParser):
    """Hydra's parser, extended to allow options between overrides and to work with Python 3.14.

    Python 3.14 rejects a `help` that is not a string, and Hydra passes an object that is converted only when shown.
    """

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.get("help") is not None:
            settings["help"] = str(settings["help"])
        return super().add_argument(*names, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def _mode(app: Hydra, config_name: str | None, overrides: list[str]) -> RunMode | None:
    """Return the value of `hydra.mode`, as Hydra's method does, but raise the errors that it ignores.

    Hydra composes the configuration once more afterwards, and would only then report a mistyped key.
    """
    cfg = app.compose_config(config_name, overrides, RunMode.MULTIRUN, validate_sweep_overrides=False)
    mode: RunMode | None = cfg.hydra.mode
    return mode


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Context in which Hydra uses this module's parser and mode; for commands only, as other programs use Hydra, too.

    Hydra creates its parser itself, so `argparse` is replaced in its module.
    """
    utils: Any = hydra._internal.utils
    before = utils.argparse, Hydra.get_mode
    utils.argparse = SimpleNamespace(**{**vars(argparse), "ArgumentParser": _ArgumentParser})
    Hydra.get_mode = _mode  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        utils.argparse, Hydra.get_mode = before  # type: ignore[method-assign]


def parse_options(argv: Sequence[str], refuse: Callable[[str], NoReturn]) -> argparse.Namespace:
    """Parse Hydra's own options as Hydra does; on an error call `refuse` instead of printing argparse's usage."""
    parser = hydra._internal.utils.get_args_parser()  # Hydra has no public function for it
    parser.error = refuse  # type: ignore[method-assign, assignment]
    return parser.parse_intermixed_args(argv)


def help_text(options: argparse.Namespace, config_name: str) -> str | None:
    """Return what Hydra prints for `--help`; None if it needs more than the configuration.

    Hydra collects the choices of all groups for it, its own ones included, which takes longer than the rest together.

    Args:
        options: Options of the command line, as from `parse_options`.
        config_name: Name of the command's config file.
    """
    if options.config_path or options.config_name or options.config_dir or options.resolve:
        return None
    with composing():
        cfg = hydra.compose(config_name, options.overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(cfg)
        template = string.Template(cfg.hydra.help.template)
        with open_dict(cfg):
            del cfg["hydra"]
        with contextlib.suppress(KeyError):  # such as $APP_CONFIG_GROUPS in a help of the project's own
            return template.substitute(CONFIG=OmegaConf.to_yaml(cfg))
    return None


def task_overrides(hydra_cfg: Any) -> list[str]:
    """Return a command's overrides of the configuration, as given.

    Hydra keeps them unescaped, so reading one that names another key, as `"${data.batch_size}"`, would give its value.

    Args:
        hydra_cfg: The node `hydra` of the configuration.
    """
    return list(OmegaConf.to_container(hydra_cfg.overrides.task, resolve=False))  # type: ignore[arg-type]


def composing() -> contextlib.AbstractContextManager[Any]:
    """Return a context manager that initializes Hydra with `conf/`, for `hydra.compose("train")`."""
    register_resolvers()
    return hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE)


def initialized() -> contextlib.AbstractContextManager[Any]:
    """Return a context manager in which Hydra is initialized: by the command, or else with `conf/`."""
    return contextlib.nullcontext() if GlobalHydra.instance().is_initialized() else composing()


def default_value(cfg: DictConfig, groups: Mapping[str, str | None], key: str) -> Any:
    """Return the default value of a key in `conf/` for these group choices; interpolations are resolved with `cfg`.

    Args:
        cfg: A composed training configuration.
        groups: The choice for each config group, as in Hydra's `runtime.choices`.
        key: Dotted key, as returned by `flatten`.

    Raises:
        KeyError: There is no such key.
    """
    chosen = {group: name for group, name in groups.items() if name is not None and not group.startswith("hydra/")}
    _, known = _composed(())
    overrides = [f"{group}={name}" for group, name in chosen.items() if group in known]
    _, known = _composed(tuple(overrides))
    # A group that is still unknown was added on the command line.
    overrides += [f"+{group}={name}" for group, name in chosen.items() if group not in known]
    values, _ = _composed(tuple(overrides))
    here = cfg.copy()
    OmegaConf.update(here, key, values[key], force_add=True)
    return dict(flatten(OmegaConf.to_container(here, resolve=True)))[key]


def composed_values(groups: Sequence[str]) -> dict[str, Any]:
    """Return the flat configuration that these group choices compose to, with interpolations unresolved."""
    return _composed(tuple(groups))[0]


@functools.cache  # slow, and called for each key that an older run lacks
def _composed(overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the flat, unresolved configuration for these overrides, and the choice for each config group."""
    with initialized():  # by a command, not by a sweep's job
        composed = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    return dict(flatten(OmegaConf.to_container(composed))), choices

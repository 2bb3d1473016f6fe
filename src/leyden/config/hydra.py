"""Hydra's command line and composition as Leyden uses them, and the default value of each key."""

import argparse
import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import hydra
import hydra._internal.utils
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from leyden.config.paths import CONF
from leyden.config.values import flatten

VERSION_BASE = "1.3"  # the defaults that Hydra is asked for


class _ArgumentParser(argparse.ArgumentParser):
    """Hydra's parser with two things that it lacks: options after and between overrides, and Python 3.14.

    That refuses a help that is no string, and Hydra gives it one that becomes a string when it is shown.
    """

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        if settings.get("help") is not None:
            settings["help"] = str(settings["help"])
        return super().add_argument(*names, **settings)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


# Hydra makes its parser itself, so this is what it finds under the name of the module.
hydra._internal.utils.argparse = SimpleNamespace(  # type: ignore[attr-defined, assignment]
    **{**vars(argparse), "ArgumentParser": _ArgumentParser}
)


def parse_options(argv: Sequence[str], refuse: Callable[[str], NoReturn]) -> None:
    """Look at Hydra's own options as Hydra will, but say what is wrong by `refuse`, where argparse would print all options."""
    parser = hydra._internal.utils.get_args_parser()  # there is no public one
    parser.error = refuse  # type: ignore[method-assign, assignment]
    parser.parse_intermixed_args(argv)


def composing() -> contextlib.AbstractContextManager[Any]:
    """Within it `hydra.compose("train")` composes what `conf/` holds."""
    return hydra.initialize_config_dir(str(CONF), version_base=VERSION_BASE)


def default_value(cfg: DictConfig, groups: Mapping[str, str | None], key: str) -> Any:
    """The value of a key in `conf/`, for these choices of groups; what it takes from other keys is as in `cfg`.

    Args:
        cfg: A composed training configuration.
        groups: The choice of each group, as Hydra's `runtime.choices`.
        key: As `flatten` names it.

    Raises:
        KeyError: There is no such key.
    """
    chosen = {group: name for group, name in groups.items() if name is not None and not group.startswith("hydra/")}
    _, known = _composed(())
    overrides = [f"{group}={name}" for group, name in chosen.items() if group in known]
    _, known = _composed(tuple(overrides))
    # What no other choice brings with it was added on the command line.
    overrides += [f"+{group}={name}" for group, name in chosen.items() if group not in known]
    values, _ = _composed(tuple(overrides))
    here = cfg.copy()
    OmegaConf.update(here, key, values[key], force_add=True)
    return dict(flatten(OmegaConf.to_container(here, resolve=True)))[key]


def composed_values(groups: Sequence[str]) -> dict[str, Any]:
    """Return what `conf/` holds for these choices of its files, flat, with its interpolations."""
    return _composed(tuple(groups))[0]


def keys_set_by(group: str, name: str) -> set[str]:
    """Return the keys that a file of `conf/` sets, dotted."""
    with contextlib.nullcontext() if GlobalHydra.instance().is_initialized() else composing():
        loader: Any = GlobalHydra.instance().config_loader()
        found = loader.repository.load_config(f"{group}/{name}")  # Hydra has no public way to read one file
    package = found.header.get("package") or group.replace("/", ".")
    values = flatten(OmegaConf.to_container(found.config))
    prefix = "" if package == "_global_" else f"{package}."
    return {f"{prefix}{key}" for key, _ in values}


def composed_choices(groups: Sequence[str]) -> dict[str, str]:
    """Return the choice of each group where these files are chosen."""
    return {group: name for group, name in _composed(tuple(groups))[1].items() if name is not None}


@functools.cache  # it takes a while, an older run can lack many keys, and `conf/` is what it was when the process began
def _composed(overrides: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `conf/` holds for these choices, flat and as it is written there, and the choice of each group."""
    is_composing = GlobalHydra.instance().is_initialized()  # in a command; not in a job of a sweep
    with contextlib.nullcontext() if is_composing else composing():
        composed = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    return dict(flatten(OmegaConf.to_container(composed))), choices

"""What a key is where nobody has typed anything for it."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from leyden.config.hydra import in_conf
from leyden.config.values import flatten


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


def written_by(group: str, name: str) -> set[str]:
    """Return the keys that a file of `conf/` sets, dotted."""
    with contextlib.nullcontext() if GlobalHydra.instance().is_initialized() else in_conf():
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
    with contextlib.nullcontext() if is_composing else in_conf():
        composed = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    choices: Any = OmegaConf.to_container(composed.hydra.runtime.choices)
    return dict(flatten(OmegaConf.to_container(composed))), choices

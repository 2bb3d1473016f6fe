"""What a fork takes from its parent's record beside the overrides, and a check that these still mean the same."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.config.errors import UserError
from leyden.config.hydra import initialized
from leyden.config.terminal import some_of
from leyden.config.values import flatten
from leyden.run.directory import RunContents
from leyden.run.fork import inherited_overrides, key_of, settings_source
from leyden.run.identity import RunIdentity

# Values that a fork has from its parent unless they are typed, whatever they follow from: the folder of the data, the
# seed of the splits if another `seed` is typed, and the number of workers, on which data of one's own may depend.
RECORDED = ("data.root", "data.split_seed", "data.num_workers")


def inherit_settings(cfg: DictConfig, overrides: Sequence[str], run_dir: Path) -> None:
    """Set what a fork takes from its parent's record, in place; a run that is no fork stays as it is.

    Args:
        cfg: The composed configuration, with its interpolations.
        overrides: The overrides that it was composed by, as of `with_parent`.
        run_dir: The fork's run directory.

    Raises:
        UserError: The parent can't be read, or its overrides lead to other settings than it had.
    """
    if not cfg.fork:
        return
    source = settings_source(cfg.fork, run_dir, trust=cfg.trust)
    inherited = inherited_overrides(source)
    own = [key_of(each).partition("@")[0].replace("/", ".") for each in overrides if each not in inherited]
    _set_recorded(cfg, source.config, own)
    if (
        source.directory == Path(run_dir).absolute()
    ):  # it was started before, and is compared as any run that resumes
        return
    changed = [
        each for each in _changes_of_conf(str(source.directory)) if not _is_typed(each.partition(":")[0], own)
    ]
    if changed:
        raise UserError(
            f"fork: {source.directory}: its overrides lead to other settings now than it had: {some_of(changed)}; set these, "
            f"such as {changed[0].partition(':')[0]}=..."
        )


def _set_recorded(cfg: DictConfig, config: dict[str, Any], own: Sequence[str]) -> None:
    """Set the values of a record that no key of one's own sets, for data of the same class."""
    recorded = dict(flatten(config))
    if OmegaConf.select(cfg, "data._target_") != recorded.get("data._target_"):
        return
    for key in RECORDED:
        if key in recorded and key.partition(".")[2] in cfg.data and not _is_typed(key, own):
            OmegaConf.update(cfg, key, recorded[key])


def _is_typed(key: str, own: Sequence[str]) -> bool:
    """Return whether one of these keys sets a key, a part that contains it, or a part of it."""
    return any(key == each or key.startswith(f"{each}.") or each.startswith(f"{key}.") for each in own)


@functools.cache  # asked for each job of a sweep
def _changes_of_conf(directory: str) -> list[str]:
    """Return the settings in which a run differs from what its overrides compose to, as after an edit of `conf/`."""
    run = RunContents(directory, trust=True)  # its owner was asked for
    config = run.config
    found = composed_identity(inherited_overrides(run), config, Path(directory)).differences(config)
    return [each for each in found if not each.startswith("fork:")]


def composed_identity(overrides: Sequence[str], recorded: dict[str, Any], run_dir: Path) -> RunIdentity:
    """Return the identity that a start by these overrides would have, with the values that a fork takes from a record.

    Raises:
        HydraException: `conf/` has changed, so that the overrides don't compose.
        UserError: The configuration is wrong.
    """
    with initialized():
        cfg: Any = hydra.compose("train", overrides=list(overrides), return_hydra_config=True)
    groups = OmegaConf.to_container(cfg.hydra.runtime.choices)
    with open_dict(cfg):
        del cfg["hydra"]
    _set_recorded(cfg, recorded, ())
    return RunIdentity.of(cfg, groups, run_dir=run_dir)

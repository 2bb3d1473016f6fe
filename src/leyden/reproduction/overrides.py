"""What one types to go on with a run that was made anew: that was given a whole configuration, and no overrides."""

import json
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.config.hydra import in_conf
from leyden.config.mistakes import UserError
from leyden.config.values import flatten
from leyden.run.choices import Choices, as_typed
from leyden.run.contents import RunContents
from leyden.run.directory import Run
from leyden.run.files import write_whole
from leyden.run.fork import group_choices


def keep_overrides(there: RunContents, here: Run) -> bool:
    """Write down for a run made anew what it can be resumed with: the overrides of the first one, if they lead to it.

    They are kept only where `conf/` and they give the configuration of this run, which was checked before it trained.

    Args:
        there: The run that was first.
        here: The one that was made anew.

    Returns:
        Whether they lead to it.
    """
    starts, overrides = here.starts, _leading_to(here, there.overrides)
    if not starts or overrides is None:
        return False
    starts[-1]["overrides"] = overrides
    write_whole(here.directory / "provenance.json", json.dumps(starts, indent=2) + "\n")
    return True


def _leading_to(run: Run, given: list[str]) -> list[str] | None:
    """Overrides that lead to a run's configuration; None if there are none known.

    Of those that were given at first the choices of files in `conf/` count, letter by letter; all others are made of the
    configuration's values, so that nothing of a stranger's text is parsed.
    """
    kept = [each for each in given if each in group_choices()]
    try:
        if root := dict(flatten(run.config)).get("data.root"):
            kept.append(f"data.root={as_typed(root)}")
        kept += _choices(run, kept).corrections(run.config)
        if any({*"$\\"} & {*each} for each in kept):  # a text that Hydra could read as something else
            return None
        return kept if not _choices(run, kept).differences(run.config) else None
    except (HydraException, OmegaConfBaseException, UserError, ValueError):  # of another conf/ than there is now
        return None


def _choices(run: Run, overrides: list[str]) -> Choices:
    """Those that a command with overrides would have."""
    with in_conf():
        cfg: Any = hydra.compose("train", overrides=overrides, return_hydra_config=True)
    groups = OmegaConf.to_container(cfg.hydra.runtime.choices)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return Choices.of(cfg, groups, run_dir=Path(run.directory))

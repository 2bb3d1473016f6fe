"""The configuration for reproducing a run with its own code, and the overrides for resuming the reproduced run."""

from pathlib import Path
from typing import Any

import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.config.errors import UserError
from leyden.config.paths import LIBRARY, ROOT
from leyden.config.terminal import one_line
from leyden.config.values import flatten
from leyden.run.directory import Run, RunContents
from leyden.run.files import sha256_of
from leyden.run.fork import composed_identity, key_of
from leyden.run.identity import CONTROL_KEYS, hydra_value, is_launch_option
from leyden.run.record import RECORD


def keep_overrides(there: RunContents, here: Run) -> bool:
    """Record overrides with which a reproduced run can be resumed, if there are any.

    They must compose, together with `conf/`, to the reproduced run's configuration, which `recipe` has checked.

    Args:
        there: The original run.
        here: The reproduced run.

    Returns:
        Whether overrides were recorded.
    """
    if not here.starts or (overrides := _overrides_for(here, there.overrides)) is None:
        return False
    here.set_overrides(overrides)
    return True


def _overrides_for(run: Run, original: list[str]) -> list[str] | None:
    """Return overrides that compose to a run's configuration; None if there are none, as after an edit of `conf/`."""
    config = run.config
    kept = [each for each in original if not is_launch_option(key_of(each))]
    try:
        found = composed_identity(kept, config, run.directory)
    except (HydraException, OmegaConfBaseException, UserError, ValueError):
        return None
    root = dict(flatten(config)).get("data.root")
    return None if found.differences(config) else [*kept, *([f"data.root={hydra_value(root)}"] if root else [])]


def recipe(run: RunContents, tree: Path, data_root: str) -> dict[str, Any]:
    """Return the root of a Hydra configuration that reproduces a run.

    All settings are as recorded, except loggers, which are the project's own.

    Args:
        run: The run to reproduce.
        tree: The project at the run's commit.
        data_root: Replacement for `data.root`; empty for the recorded one.

    Raises:
        UserError: The configuration is invalid.
    """
    config = {key: value for key, value in run.recorded.items() if key not in (*CONTROL_KEYS, "logger")}
    where = run.directory / RECORD
    if not isinstance(config.get("trainer"), dict):
        raise UserError(f"{where}: trainer is missing")
    if unknown := [key for key in config if not str(key).isidentifier() or key in ("defaults", "hydra")]:
        raise UserError(f"{where}: {one_line(unknown[0])} is not a key of a run")
    if data_root and isinstance(data := config.get("data"), dict) and "root" in data:
        data["root"] = str(Path(data_root).absolute())
    # Keys that the run did not record come from `conf/train.yaml`. For a config group that the run did record, no
    # file is used, since it could add keys that the run did not have.
    places = (tree / "conf", tree / "engine" / "src" / "leyden" / "conf", LIBRARY / "conf")
    groups = [key for key in config if any((place / key).is_dir() for place in places)]
    result = run.result
    return {
        "defaults": ["train", *({f"override {group}": None} for group in groups), "_self_"],
        **config,
        "resume": "never",
        "outputs": str(ROOT / "outputs"),
        "test": bool(result and result.is_tested),
    }


class _Dumper(yaml.SafeDumper):
    """A dumper that quotes all strings: a bare 1e5 is a string for PyYAML, but a number for OmegaConf."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def write_config(root: dict[str, Any], path: Path) -> None:
    """Write a configuration to a YAML file, and check that OmegaConf reads it back unchanged.

    Raises:
        UserError: OmegaConf reads a different configuration.
    """
    path.write_text(yaml.dump(root, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if repr(OmegaConf.to_container(OmegaConf.load(path))) != repr(root):
        raise UserError("the configuration of the run can't be written so that Hydra reads it unchanged")


def check_parent_checkpoint(run: RunContents) -> None:
    """Check that the checkpoint that a run started from (`fork` or `init_from`) exists and is unchanged.

    Raises:
        UserError: The checkpoint is unknown, missing or changed.
    """
    keys = [key for key in ("fork", "init_from") if run.recorded.get(key) is not None]
    if not keys:
        return
    key = keys[0]  # a fork inherits `init_from`, which only its parent used
    parents = [parent for start in run.starts if isinstance(parent := start.get("parent"), dict)]
    if not parents:
        raise UserError(
            f"{run.directory}/{RECORD}: does not record the checkpoint from which the run started ({key})"
        )
    path = Path(str(parents[0].get("checkpoint")))
    if not path.is_file():
        raise UserError(f"{key}: {path}, from which the run started, does not exist")
    with path.open("rb") as file:
        is_same = sha256_of(file) == parents[0].get("sha256")
    if not is_same:
        raise UserError(f"{key}: {path} is not the checkpoint from which the run started")

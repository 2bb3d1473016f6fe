"""The configuration for reproducing a run with its own code, and the overrides for resuming the reproduced run."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.config.errors import UserError
from leyden.config.hydra import composing
from leyden.config.paths import LIBRARY, ROOT, environment_of
from leyden.config.terminal import one_line, warn
from leyden.config.values import flatten
from leyden.run.directory import Run, RunContents
from leyden.run.files import sha256_of
from leyden.run.fork import group_choices
from leyden.run.identity import CONTROL_KEYS, RunIdentity, hydra_value
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
    """Return overrides that compose to a run's configuration; None if there are none.

    Of the original overrides, those that choose a file in `conf/` are used literally. All others are derived from
    the configuration's values, so that no untrusted text is parsed.
    """
    kept = [each for each in original if each in group_choices()]
    try:
        if root := dict(flatten(run.config)).get("data.root"):
            kept.append(f"data.root={hydra_value(root)}")
        kept += _identity(run, kept).corrections(run.config)
        if any({*"$\\"} & {*each} for each in kept):  # a text that Hydra could interpret
            return None
        return kept if not _identity(run, kept).differences(run.config) else None
    except (HydraException, OmegaConfBaseException, UserError, ValueError):  # `conf/` has changed
        return None


def _identity(run: Run, overrides: list[str]) -> RunIdentity:
    """Return the identity that a start with these overrides would have."""
    with composing():
        cfg: Any = hydra.compose("train", overrides=overrides, return_hydra_config=True)
    groups = OmegaConf.to_container(cfg.hydra.runtime.choices)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return RunIdentity.of(cfg, groups, run_dir=Path(run.directory))


def recipe(run: RunContents, tree: Path, data_root: str, *, trust: bool) -> dict[str, Any]:
    """Return the root of a Hydra configuration that reproduces a run.

    All settings are as recorded, except folders and loggers, which are the project's own.

    Args:
        run: The run to reproduce.
        tree: The project at the run's commit.
        data_root: Replacement for `data.root`; empty for the project's `data/`.
        trust: Whether the user trusts all classes and functions in the configuration, whatever their role.

    Raises:
        UserError: The configuration is invalid, or names a class or function that is not allowed at that place (see
            `leyden.assembly.roles`).
    """
    config = {key: value for key, value in run.recorded.items() if key not in (*CONTROL_KEYS, "logger")}
    where = run.directory / RECORD
    if not isinstance(config.get("trainer"), dict):
        raise UserError(f"{where}: trainer is missing")
    if unknown := [key for key in config if not str(key).isidentifier() or key in ("defaults", "hydra")]:
        raise UserError(f"{where}: {one_line(unknown[0])} is not a key of a run")
    for value in _keys_and_values(config):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{where}: {one_line(value)} holds an interpolation, which a saved configuration never does"
            )
    if not trust and (problem := _trust_problem(config, tree)):
        raise UserError(
            f"{where}: {one_line(problem)}. This command would execute what the configuration "
            "names; if you trust all of it, set trust=true"
        )
    if isinstance(data := config.get("data"), dict) and "root" in data:
        data["root"] = _data_root(str(data["root"]), data_root)
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


def _data_root(recorded: str, replacement: str) -> str:
    """Return the data folder: the user's or the project's own; the recorded path is untrusted."""
    own = str(ROOT / "data")
    if not replacement and recorded != own:
        warn(f"data.root={recorded} is not used: {own} is used instead; data_root=DIR selects another folder")
    return str(Path(replacement).absolute()) if replacement else own


def _keys_and_values(node: Any) -> Iterator[Any]:
    """Yield all keys and plain values of a configuration."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _keys_and_values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _keys_and_values(value)
    else:
        yield node


def _trust_problem(config: dict[str, Any], tree: Path) -> str:
    """Return the first class or function that is not allowed at its place, as an error message; empty if none.

    The project's classes are imported from the run's code, in a subprocess.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_config(config, path := Path(folder) / "config.yaml")  # check exactly the file that is used later
        command = [sys.executable, "-m", "leyden.reproduction.verify", str(path)]
        # PYTHONPATH stays as it is, so that the roles are those of the library installed here; the project's
        # classes come from the run's code.
        environment = {**os.environ, **environment_of(tree), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"the code of the run can't be imported: {(done.stderr.strip() or 'killed').splitlines()[-1]}"
        )
    return done.stdout.strip()

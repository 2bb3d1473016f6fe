"""The configuration of a run as one that `leyden.train` of its own code takes, and the overrides that resume it."""

import json
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
from leyden.config.paths import ROOT
from leyden.config.terminal import one_line, warn
from leyden.config.values import flatten
from leyden.run.directory import Run, RunContents
from leyden.run.files import sha256_of, write_whole
from leyden.run.fork import group_choices
from leyden.run.identity import CONTROL_KEYS, RunIdentity, hydra_value


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
            kept.append(f"data.root={hydra_value(root)}")
        kept += _choices(run, kept).corrections(run.config)
        if any({*"$\\"} & {*each} for each in kept):  # a text that Hydra could read as something else
            return None
        return kept if not _choices(run, kept).differences(run.config) else None
    except (HydraException, OmegaConfBaseException, UserError, ValueError):  # of another conf/ than there is now
        return None


def _choices(run: Run, overrides: list[str]) -> RunIdentity:
    """Those that a command with overrides would have."""
    with composing():
        cfg: Any = hydra.compose("train", overrides=overrides, return_hydra_config=True)
    groups = OmegaConf.to_container(cfg.hydra.runtime.choices)
    OmegaConf.set_struct(cfg, False)
    del cfg["hydra"]
    return RunIdentity.of(cfg, groups, run_dir=Path(run.directory))


def recipe(run: RunContents, tree: Path, data_root: str, *, trust: bool) -> dict[str, Any]:
    """The root of a configuration that makes the run anew, for Hydra to compose.

    All is as it was recorded, but for what says where. What logs is the project's own.

    Args:
        run: That is to be made anew.
        tree: The project with the run's code.
        data_root: Takes the place of `data.root`; empty for the recorded one.
        trust: Whether the user trusts all that is made, whatever role it has.

    Raises:
        UserError: The configuration is none, or makes what its roles do not allow.
    """
    config = {key: value for key, value in run.recorded.items() if key not in (*CONTROL_KEYS, "logger")}
    where = run.directory / "config.yaml"
    if not isinstance(config.get("trainer"), dict):
        raise UserError(f"{where}: trainer is missing")
    if strange := [key for key in config if not str(key).isidentifier() or key in ("defaults", "hydra")]:
        raise UserError(f"{where}: {one_line(strange[0])} is no key of a run")
    for value in _plain_values(config):
        if isinstance(value, str) and "${" in value:
            raise UserError(
                f"{where}: {one_line(value)} holds an interpolation, and a configuration that is kept is resolved"
            )
    if not trust and (problem := _problem(config, tree)):
        raise UserError(
            f"{where}: {one_line(problem)}; it would be executed: say trust=true if you trust all of this configuration"
        )
    if isinstance(data := config.get("data"), dict) and "root" in data:
        data["root"] = _root(str(data["root"]), data_root)
    # `conf/train.yaml` gives what is not recorded; its groups would add keys to those that are.
    groups = [key for key in config if (tree / "conf" / key).is_dir()]
    result = run.result
    return {
        "defaults": ["train", *({f"override {group}": None} for group in groups), "_self_"],
        **config,
        "resume": "never",
        "outputs": str(ROOT / "outputs"),
        "test": bool(result and result.is_tested),
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts in quotes: by its own rules a bare 1e5 is a text, by those of who reads it a number."""


_Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


def write_config(root: dict[str, Any], path: Path) -> None:
    """Write a configuration to a file, of which OmegaConf reads the same.

    Raises:
        UserError: It would read something else.
    """
    path.write_text(yaml.dump(root, Dumper=_Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if repr(OmegaConf.to_container(OmegaConf.load(path))) != repr(root):
        raise UserError("the configuration of the run can't be written so that Hydra reads the same")


def check_parent_checkpoint(run: RunContents) -> None:
    """Make sure that the checkpoint that a run has started from, or is a fork of, is there, and still the same.

    Raises:
        UserError: It is not.
    """
    keys = [key for key in ("fork", "init_from") if run.recorded.get(key) is not None]
    if not keys:
        return
    key = keys[0]  # a fork can have the `init_from` of its parent, which that has dealt with
    parents = [parent for start in run.starts if isinstance(parent := start.get("parent"), dict)]
    if not parents:
        raise UserError(f"{run.directory}/provenance.json: does not tell which checkpoint {key} was")
    path = Path(str(parents[0].get("checkpoint")))
    if not path.is_file():
        raise UserError(f"{key}: {path}, from which the run started, is not there")
    with path.open("rb") as file:
        is_same = sha256_of(file) == parents[0].get("sha256")
    if not is_same:
        raise UserError(f"{key}: {path} is another checkpoint than the one from which the run started")


def _root(recorded: str, typed: str) -> str:
    """Return the folder of the data: the project's own or one that is typed, since anybody may have named the recorded one."""
    own = str(ROOT / "data")
    if not typed and recorded != own:
        warn(f"data.root={recorded} is not taken over: {own} takes its place, data_root=DIR names another")
    return str(Path(typed).absolute()) if typed else own


def _plain_values(node: Any) -> Iterator[Any]:
    """All keys and values."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield key
            yield from _plain_values(value)
    elif isinstance(node, list):
        for value in node:
            yield from _plain_values(value)
    else:
        yield node


def _problem(config: dict[str, Any], tree: Path) -> str:
    """Return what a configuration names that no role allows, with the classes of the run's own code; empty for nothing."""
    with tempfile.TemporaryDirectory() as folder:
        write_config(config, path := Path(folder) / "config.yaml")  # what is checked is what will be read
        command = [sys.executable, "-m", "leyden.reproduction.verify", str(tree), str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(
            f"the code of the run can't be imported: {(done.stderr.strip() or 'killed').splitlines()[-1]}"
        )
    return done.stdout.strip()

"""Composition by a record: recorded overrides of a resumed run or a parent, then typed ones.

They become arguments of the command itself, so that nothing else has to know of it.
"""

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from leyden.base.errors import UserError
from leyden.base.paths import conf_files
from leyden.base.terminal import warn
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.identity import hydra_value, key_of, path_of
from leyden.run.keys import Role, has
from leyden.run.lock import list_files
from leyden.run.process import is_main_process
from leyden.run.record import RECORD


def parse_parent(text: str, default: str = "last", *, trust: bool = False) -> tuple[Run, str]:
    """Parse a value of `fork` or `init_from` into the parent run and the name of its checkpoint.

    Example:
        >>> [parse_parent(text)[1] for text in ("outputs/a", "outputs/a@3", "outputs/a@step_900")]
        ['last', 'epoch_3', 'step_900']
    """
    directory, _, name = text.rpartition("@")
    if re.fullmatch("[1-9][0-9]*", name):
        name = f"epoch_{name}"
    if not directory or not re.fullmatch("last|best|(epoch|step)_[0-9]+", name):
        directory, name = text, default
    return Run(directory, trust=trust), name


KEY_OF_SPLITS = "data.split_seed"  # follows from `seed`, unless it is set
# What a new run in an empty folder may be typed with, and yet be meant to resume one.
OF_A_RUN_THERE = {"run_dir", "trainer.max_epochs"}


def recorded_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments, after those recorded for the run it resumes or forks.

    What says how a start is made, such as `cluster`, is not recorded for the next one. The other
    processes of a run call this with what it returned for the first one, which stays as it is.

    Raises:
        UserError: The record can't be read or is not the user's own; several parents are named, or
            no run is there.
    """
    overrides = []
    for each in arguments:
        has_value = "=" in each and not each.startswith("-")
        if has_value or each.startswith("~"):
            overrides.append(each)
    directory = _text(overrides, "run_dir")
    fork = _text(overrides, "fork")
    trust = any(key_of(each) == "trust" and each.lower().endswith("=true") for each in overrides)
    if directory and (Path(directory) / RECORD).exists():
        run = Run(directory, trust=trust)
        run.check_owner()
        there = recorded_overrides(run, Role.RESUMED)
    elif fork:
        parent, _ = parse_parent(fork, trust=trust)
        parent.check_owner()
        there = _of_parent(parent)
    else:
        if directory:
            _warn_of_new_run(Path(directory), overrides)
        return list(arguments)
    recorded = _before(there, overrides)
    if recorded and not fork and is_main_process():
        warn(f"{directory}: as recorded, with {shlex.join(recorded)}")
    first = arguments.index(overrides[0])
    others = [each for each in arguments[first:] if each not in overrides]
    return [*arguments[:first], *recorded, *overrides, *others]


def _warn_of_new_run(directory: Path, overrides: Sequence[str]) -> None:
    """Warn that a new run begins where one may be meant to resume.

    What holds something else is refused later.
    """
    if not OF_A_RUN_THERE.issuperset(map(key_of, overrides)) or not is_main_process():
        return
    if not directory.is_file() and not list_files(directory):
        warn(
            f"{directory.absolute()}: holds no run, so a new one begins; resume=must would refuse "
            "this"
        )


def _text(overrides: Sequence[str], key: str) -> str | None:
    """Return the text to which overrides set a key.

    None if none does, or if Hydra will report an error.

    Raises:
        UserError: Several parents are named.
    """
    typed = [each for each in overrides if key_of(each) == key and each[0] != "~"]
    if not typed:
        return None
    try:
        parsed = OverridesParser.create().parse_override(typed[-1])
    except HydraException:
        return None
    if parsed.is_sweep_override():
        if key == "fork":
            raise UserError(
                f"{typed[-1]}: the jobs of a sweep have one parent; start a sweep for each parent"
            )
        return None
    value = parsed.value()
    if isinstance(value, str) and value:
        return value
    return None


def recorded_overrides(run: Run, role: Role) -> list[str]:
    """Return those overrides of the last start whose keys have a role; it repeats the first's."""
    if not run.starts:
        return []
    start = run.starts[-1]
    config = dict(flatten(run.config))
    kept = [each for each in start["overrides"] if has(key_of(each), role)]
    return [_with_whole_path(each, config, start) for each in kept]


def _with_whole_path(override: str, config: Mapping[str, Any], start: Mapping[str, Any]) -> str:
    """Return a start's override, with a path that depends on no working directory."""
    key = key_of(override)
    if not has(key, Role.PATH) or override[0] == "~":
        return override
    path = config.get(key)
    if not has(key, Role.RECORDED):
        typed, folder = _text([override], key), start.get("directory")
        if typed and folder and "$" not in typed:
            path = str(Path(folder, typed))
    if not isinstance(path, str):
        return override
    quoted = path
    if not re.fullmatch("[A-Za-z0-9_./@-]+", path):
        quoted = hydra_value(path)
    return f"{override.partition('=')[0]}={quoted}"


def _of_parent(parent: Run) -> list[str]:
    """Return the overrides that a fork repeats, with the seed of its parent's splits."""
    there = recorded_overrides(parent, Role.FORKED)
    seed = dict(flatten(parent.config)).get(KEY_OF_SPLITS)
    if seed is not None and KEY_OF_SPLITS not in map(path_of, there):
        there.append(f"{KEY_OF_SPLITS}={seed}")
    return there


def _before(there: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return recorded overrides without those typed anew, and those of groups chosen anew."""
    replaced = set()
    groups = []
    for each in overrides:
        if each[0] != "~":
            replaced.add(each.partition("=")[0])
            group = key_of(each).partition("@")[0]
            if each not in there and group in _groups():
                groups.append(f"{path_of(each)}.")
    found = []
    for each in there:
        is_anew = each in overrides or each.partition("=")[0] in replaced
        if not is_anew and not f"{path_of(each)}.".startswith(tuple(groups)):
            found.append(each)
    return found


@functools.cache
def _groups() -> set[str]:
    """Return the names of the groups in `conf/`, such as `model` and `callbacks/stopping`."""
    return {name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}

"""Composition by a record: a run that is resumed by its recorded overrides, a fork by its parent's, then by those typed.

They become arguments of the command itself, so that nothing else has to know of it. A check holds that the overrides of a
fork's parent still mean what they did.
"""

import functools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from leyden.config.errors import UserError
from leyden.config.hydra import initialized
from leyden.config.paths import conf_files
from leyden.config.terminal import some_of, warn
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.identity import CONTROL_KEYS, NOTES, RunIdentity, is_set, key_of, path_of
from leyden.run.process import is_main_process
from leyden.run.record import RECORD


def parse_fork(text: str, *, trust: bool = False) -> tuple[Run, str]:
    """Parse a value of `fork` into the parent run and the name of its checkpoint.

    Example:
        >>> [parse_fork(text)[1] for text in ("outputs/a", "outputs/a@3", "outputs/a@step_900")]
        ['last', 'epoch_3', 'step_900']
    """
    directory, _, name = text.rpartition("@")
    if re.fullmatch("[1-9][0-9]*", name):
        name = f"epoch_{name}"
    if not directory or not re.fullmatch("last|best|(epoch|step)_[0-9]+", name):
        directory, name = text, "last"
    return Run(directory, trust=trust), name


OF_A_START = {"fork", *NOTES, *CONTROL_KEYS} - {"test"}  # keys that name, note, place or limit a start
# Of these, what a run that is resumed keeps.
OF_A_RUN = {"fork", "exact", "outputs"}
PATHS = ("data.root", "init_from", "fork")  # may have been typed relative to another working directory


def recorded_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments, those recorded for the run that it resumes or forks before those typed.

    What says how a start is made, such as `cluster`, is not recorded for the next one. The other processes of a run call
    this with what it returned for the first one, which stays as it is.

    Raises:
        UserError: The record can't be read or is not the user's own; a recipe is chosen, several parents, or no run is there.
    """
    overrides = [each for each in arguments if each[:1] == "~" or ("=" in each and each[0] != "-")]
    directory, fork = _text(overrides, "run_dir"), _text(overrides, "fork")
    trust = any(key_of(each) == "trust" and each.lower().endswith("=true") for each in overrides)
    if directory and (Path(directory) / RECORD).exists():
        run, is_fork = Run(directory, trust=trust), False
    elif fork:
        run, is_fork = parse_fork(fork, trust=trust)[0], True
    else:
        if directory:
            _announce_new(Run(directory), overrides)
        return list(arguments)
    run.check_owner()
    there = _recorded_overrides(run, OF_A_START if is_fork else OF_A_START - OF_A_RUN)
    if any(key_of(each) == "experiment" and each not in there for each in overrides):
        raise UserError(
            f"{run.directory}: a recipe (experiment=...) sets what that run has set; set the keys that are to change"
        )
    if is_fork:
        there = _with_parents_splits(there, run.config, overrides)
        _check_conf(run, there, overrides)
    composed = _composed_by(there, overrides)
    recorded = composed[: len(composed) - len(overrides)]
    if recorded and not is_fork and is_main_process():
        warn(f"{directory}: as recorded, with {shlex.join(recorded)}")
    position = list(arguments).index(overrides[0])
    return [*arguments[:position], *composed, *(each for each in arguments[position:] if each not in overrides)]


def _announce_new(run: Run, overrides: Sequence[str]) -> None:
    """Announce that a new run begins, where the command looks as if one was to be resumed.

    Raises:
        UserError: The directory is one of a sweep, whose runs begin by the sweep's command.
    """
    if run.is_of_sweep:
        raise UserError(
            f"{run.directory}: is in the folder of a sweep, and holds no run; leyden runs lists those that are there"
        )
    if {key_of(each) for each in overrides} <= {"run_dir", "trainer.max_epochs"} and is_main_process():
        warn(f"{run.directory}: holds no run, so a new one begins; resume=must would refuse this")


def _text(overrides: Sequence[str], key: str) -> str | None:
    """Return the text to which overrides set a key; None if none does, or if Hydra will report an error.

    Raises:
        UserError: Several parents are named.
    """
    typed = [each for each in overrides if key_of(each) == key and each[0] != "~"]
    try:
        parsed = OverridesParser.create().parse_override(typed[-1]) if typed else None
    except HydraException:
        return None
    if parsed is None or parsed.is_sweep_override():
        if parsed and key == "fork":
            raise UserError(f"{typed[-1]}: the jobs of a sweep have one parent; start a sweep for each parent")
        return None
    value = parsed.value()
    return value if isinstance(value, str) and value else None


def _recorded_overrides(run: Run, without: set[str]) -> list[str]:
    """Return the overrides of a run's last start, which repeats those of the first one, without some root keys."""
    config = dict(flatten(run.config))
    found = []
    for each in (override for start in run.starts[-1:] for override in start["overrides"]):
        key = key_of(each)
        if key.split(".")[0] in without:
            continue
        is_path = key in PATHS and each[0] != "~" and isinstance(config.get(key), str)
        found.append(f"{each.partition('=')[0]}={_quoted(config[key])}" if is_path else each)
    return found


def _with_parents_splits(there: Sequence[str], config: dict[str, Any], overrides: Sequence[str]) -> list[str]:
    """Return a parent's overrides with the seed of its splits, which would follow from another `seed`."""
    key = "data.split_seed"
    value = dict(flatten(config)).get(key)
    own = [path_of(each) for each in overrides if each not in there]
    is_kept = value is None or any(path_of(each) == key for each in there) or is_set(key, own)
    return [*there] if is_kept or "data._target_" in own else [*there, f"{key}={value}"]


def _check_conf(run: Run, there: Sequence[str], overrides: Sequence[str]) -> None:
    """Check that the overrides of a fork's parent lead to the settings that it had, also after an edit of `conf/`.

    Raises:
        UserError: They don't, for a setting that is not typed.
    """
    own = [path_of(each) for each in overrides if each not in there]
    with initialized():
        identity = RunIdentity.of(hydra.compose("train", overrides=list(there)), (), run_dir=run.directory)
    found = [(each.partition(":")[0], each) for each in identity.differences(run.config)]
    if changed := [(key, each) for key, each in found if key != "fork" and not is_set(key, own)]:
        raise UserError(
            f"fork: {run.directory}: its overrides lead to other settings now than it had: "
            f"{some_of([each for _, each in changed])}; set these, such as {changed[0][0]}=..."
        )


def _composed_by(there: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return recorded overrides, then those typed now; a file that is chosen now replaces what was typed of its group."""
    chosen = {
        key_of(each).partition("@")[0] for each in overrides if each not in there and each[0] != "~"
    } & _groups()
    replaced = {each.partition("=")[0] for each in overrides if each[:1] != "~"}
    inherited = [each for each in there if each not in overrides and each.partition("=")[0] not in replaced]
    kept = [each for each in inherited if not any(_is_in(path_of(each), group) for group in chosen)]
    added = {key_of(each) for each in there if each.startswith("+")} & chosen  # the defaults choose none there
    own = [f"+{each}" if key_of(each) in added and each[0] not in "+~" else each for each in overrides]
    return [*kept, *own]


@functools.cache
def _groups() -> set[str]:
    """Return the names of the groups in `conf/`, such as `model` and `callbacks/stopping`."""
    return {name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}


def _is_in(key: str, group: str) -> bool:
    """Return whether a dotted key names a group or something below it."""
    place = group.replace("/", ".")
    return key == place or key.startswith(f"{place}.")


def _quoted(text: str) -> str:
    """Return a text as a Hydra value, quoted if necessary."""
    return text if re.fullmatch(r"[A-Za-z0-9_./@-]+", text) else QuotedString(text, Quote.double).with_quotes()

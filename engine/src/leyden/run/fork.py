"""Composition by a record: a run that is resumed by its recorded overrides, a fork by its parent's, then by those typed.

They become arguments of the command itself, so that nothing else has to know of it.
"""

import functools
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from leyden.config.errors import UserError
from leyden.config.paths import conf_files
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.identity import CONTROL_KEYS, NOTES, hydra_value, key_of, path_of
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


OF_A_START = {"fork", *NOTES, *CONTROL_KEYS} - {
    "test"
}  # keys that name, note, place or limit a start
# Of these, what a run that is resumed keeps.
OF_A_RUN = {"fork", "exact", "outputs"}
PATHS = (
    "data.root",
    "init_from",
    "fork",
)  # may have been typed relative to another working directory
SPLITS = "data.split_seed"  # follows from `seed`, unless it is set


def recorded_arguments(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments, those recorded for the run that it resumes or forks before those typed.

    What says how a start is made, such as `cluster`, is not recorded for the next one. The other processes of a run call
    this with what it returned for the first one, which stays as it is.

    Raises:
        UserError: The record can't be read or is not the user's own; several parents are named, or no run is there.
    """
    overrides = [each for each in arguments if each[:1] == "~" or ("=" in each and each[0] != "-")]
    directory, fork = _text(overrides, "run_dir"), _text(overrides, "fork")
    trust = any(key_of(each) == "trust" and each.lower().endswith("=true") for each in overrides)
    if directory and (Path(directory) / RECORD).exists():
        run = Run(directory, trust=trust)
        run.check_owner()
        there = recorded_overrides(run, OF_A_START - OF_A_RUN)
    elif fork:
        run = parse_parent(fork, trust=trust)[0]
        run.check_owner()
        there = recorded_overrides(run, OF_A_START)
        seed = dict(flatten(run.config)).get(SPLITS)
        if seed is not None and SPLITS not in map(path_of, there):
            there.append(
                f"{SPLITS}={seed}"
            )  # the fork is not validated on what its parent was trained on
    else:
        is_alone = {*map(key_of, overrides)} <= {
            "run_dir",
            "trainer.max_epochs",
        } and is_main_process()
        # What holds something else is refused.
        if (
            directory
            and is_alone
            and not (Path(directory).is_file() or list_files(Path(directory)))
        ):
            warn(
                f"{Path(directory).absolute()}: holds no run, so a new one begins; resume=must would refuse this"
            )
        return list(arguments)
    recorded = _before(there, overrides)
    if recorded and not fork and is_main_process():
        warn(f"{directory}: as recorded, with {shlex.join(recorded)}")
    position = list(arguments).index(overrides[0])
    others = [each for each in arguments[position:] if each not in overrides]
    return [*arguments[:position], *recorded, *overrides, *others]


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
    if parsed and parsed.is_sweep_override() and key == "fork":
        raise UserError(
            f"{typed[-1]}: the jobs of a sweep have one parent; start a sweep for each parent"
        )
    value = None if parsed is None or parsed.is_sweep_override() else parsed.value()
    return value if isinstance(value, str) and value else None


def recorded_overrides(run: Run, without: set[str]) -> list[str]:
    """Return the overrides of a run's last start, which repeats those of the first one, without some root keys."""
    config = dict(flatten(run.config))
    found = []
    for each in (override for start in run.starts[-1:] for override in start["overrides"]):
        key = key_of(each)
        if key.split(".")[0] not in without:
            is_path = key in PATHS and each[0] != "~" and isinstance(config.get(key), str)
            found.append(f"{each.partition('=')[0]}={_quoted(config[key])}" if is_path else each)
    return found


def _before(there: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return recorded overrides without those that are typed anew, and without those of a group whose file is chosen anew."""
    chosen = {
        key_of(each).partition("@")[0] for each in overrides if each not in there and each[0] != "~"
    }
    groups = [group.replace("/", ".") for group in chosen & _groups()]
    replaced = {each.partition("=")[0] for each in overrides if each[0] != "~"}
    return [
        each
        for each in there
        if each not in overrides
        and each.partition("=")[0] not in replaced
        and not any(f"{path_of(each)}.".startswith(f"{group}.") for group in groups)
    ]


@functools.cache
def _groups() -> set[str]:
    """Return the names of the groups in `conf/`, such as `model` and `callbacks/stopping`."""
    return {name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}


def _quoted(path: str) -> str:
    """Return a path as a Hydra value, quoted if necessary."""
    return path if re.fullmatch("[A-Za-z0-9_./@-]+", path) else hydra_value(path)

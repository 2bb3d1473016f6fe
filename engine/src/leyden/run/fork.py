"""Composition by a record: a run that is resumed by its recorded overrides, a fork by its parent's, then by those typed.

A few values of a fork are as in its parent's record. A check holds that the overrides still mean what they did.
"""

import functools
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.config.errors import UserError
from leyden.config.hydra import composed_values, initialized
from leyden.config.paths import conf_files
from leyden.config.terminal import some_of, warn
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.identity import CONTROL_KEYS, NOTES, RunIdentity, key_of
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


def settings_source(fork: str, run_dir: Path | None, *, trust: bool) -> Run:
    """Return the run whose settings a fork inherits: the fork itself if it was started before, else its parent.

    Raises:
        UserError: It is not the user's own, or can't be read.
    """
    parent = parse_fork(fork, trust=trust)[0]
    has_begun = run_dir is not None and (run_dir / RECORD).exists()
    source = Run(run_dir, trust=trust) if run_dir and has_begun else parent
    source.check_owner()
    return source


OF_A_START = {"fork", *NOTES, *CONTROL_KEYS} - {"test"}  # keys that name, note, place or limit a start


def inherited_overrides(source: Run, kept: Collection[str] = ()) -> list[str]:
    """Return the overrides of a run's last start, without those `OF_A_START` that are not to be kept.

    The last start repeats the overrides of the first one, and may add some.
    """
    found = [each for start in source.starts[-1:] for each in start["overrides"]]
    return [each for each in found if key_of(each).split(".")[0] not in OF_A_START - {*kept}]


def _chooses_recipe(overrides: Sequence[str], there: Sequence[str]) -> bool:
    """Return whether a recipe is among overrides, other than one of these."""
    return any(key_of(each) == "experiment" and each not in there for each in overrides)


def resumed_overrides(overrides: Sequence[str], run: Run) -> list[str]:
    """Return the overrides that a run is resumed by: those of its record, then those typed now.

    What says how a start is made, such as `cluster`, is not recorded for the next one. A recipe that the run was not
    started with makes another run, and is composed as it is typed.

    Raises:
        UserError: The record can't be read, or is not the user's own.
    """
    run.check_owner()
    there = inherited_overrides(run, kept=("fork", "exact", "outputs", *NOTES))
    if _chooses_recipe(overrides, there):
        return list(overrides)
    config = dict(flatten(run.config))
    return _composed_by([_as_recorded(each, config) for each in there], overrides)


def _as_recorded(override: str, config: dict[str, Any]) -> str:
    """Return an override; of a path that was relative to another working directory, the absolute one."""
    key = key_of(override)
    path = config.get(key) if key in ("data.root", "init_from") else None
    return f"{key}={_quoted(path)}" if isinstance(path, str) and Path(path.partition("@")[0]).exists() else override


def with_parent(overrides: Sequence[str], run_dir: Path | None) -> list[str]:
    """Return the overrides that a fork is composed by: its parent's, then its own; those of another run are its own.

    A file that a fork chooses takes the place of all that its parent's overrides say of that group.

    Args:
        overrides: The fork's own overrides.
        run_dir: The fork's run directory; None for a new one.

    Raises:
        UserError: The parent can't be read or is not the user's own, or a recipe is chosen.
    """
    if len(values := _texts(overrides, "fork")) != 1:
        return list(overrides)
    source = settings_source(values[0], run_dir, trust=_is_trusted(overrides))
    there = inherited_overrides(source)
    if _chooses_recipe(overrides, there):
        raise UserError(
            "fork: a recipe (experiment=...) sets what the parent has set; set the keys that are to change"
        )
    return _composed_by(there, overrides)


def _composed_by(there: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """Return recorded overrides, then those typed now; a file that is chosen now replaces what was typed of its group."""
    chosen = {
        key_of(each).partition("@")[0] for each in overrides if each not in there and each[0] != "~"
    } & _groups()
    replaced = {each.partition("=")[0] for each in overrides if each[:1] != "~"}
    inherited = [each for each in there if each not in overrides and each.partition("=")[0] not in replaced]
    kept = [each for each in inherited if not any(_is_in(key_of(each), group) for group in chosen)]
    added = {key_of(each) for each in there if each.startswith("+")} & chosen  # the defaults choose none there
    own = [f"+{each}" if key_of(each) in added and each[0] not in "+~" else each for each in overrides]
    return [*kept, *own]


def recorded_arguments(arguments: Sequence[str], *, is_sweep: bool) -> list[str]:
    """Return a command's arguments with the recorded overrides of the run that it resumes or forks.

    Each job of a sweep has its own parent's overrides (`with_parent`). Keys that only parents have are added by `++`, since
    Hydra composes a sweep without them first.

    Raises:
        UserError: As of `with_parent` and `resumed_overrides`.
    """
    values = _texts(arguments, "fork")
    run_dir = next((Path(text) for text in _texts(arguments, "run_dir")), None)
    fork = f"fork={','.join(_quoted(str(Path(value).absolute())) for value in values)}"
    typed = [fork if values and key_of(each) == "fork" else each for each in arguments]
    if is_sweep:
        records = [parse_fork(value)[0].record for value in values]
        there = {key for record in records if record for key, _ in flatten(record.config)}
        files = [each for each in typed if key_of(each) in _groups() and "," not in each]
        return [_added(each, there, composed_values(files)) if "=" in each else each for each in typed]
    overrides = [each for each in typed if each[:1] == "~" or ("=" in each and each[0] != "-")]
    if run_dir and (run_dir / RECORD).exists():
        composed = resumed_overrides(overrides, Run(run_dir, trust=_is_trusted(overrides)))
        recorded = composed[: len(composed) - len(overrides)]
        if recorded and is_main_process():
            warn(f"{run_dir}: as recorded, with {shlex.join(recorded)}")
    elif values:
        composed = with_parent(overrides, run_dir)
    else:
        if run_dir and Run(run_dir).is_of_sweep:
            raise UserError(
                f"{run_dir}: is in the folder of a sweep, and holds no run; leyden runs lists those that are there"
            )
        if (
            run_dir
            and {key_of(each) for each in overrides} <= {"run_dir", "trainer.max_epochs"}
            and is_main_process()
        ):
            warn(f"{run_dir}: holds no run, so a new one begins; resume=must would refuse this")
        return list(arguments)
    position = typed.index(overrides[0])
    options = [each for each in typed[position:] if each not in overrides]
    return [*typed[:position], *composed, *options]


def _texts(overrides: Sequence[str], key: str) -> list[str]:
    """Return the texts to which overrides set a key; empty if none does, or if Hydra will report an error."""
    typed = [each for each in overrides if key_of(each) == key and each[0] != "~"]
    try:
        parsed = OverridesParser.create().parse_override(typed[-1]) if typed else None
        values: list[Any] = []
        if parsed:
            values = list(parsed.sweep_iterator()) if parsed.is_sweep_override() else [parsed.value()]
    except (HydraException, ValueError):
        return []
    return values if all(isinstance(value, str) and value for value in values) else []


def _is_trusted(overrides: Sequence[str]) -> bool:
    return any(key_of(each) == "trust" and each.lower().endswith("=true") for each in overrides)


@functools.cache
def _groups() -> set[str]:
    """Return the names of the groups in `conf/`, such as `model` and `callbacks/stopping`."""
    return {name.parent.as_posix() for name, _ in conf_files("*/**/*.yaml")}


def _is_in(key: str, group: str) -> bool:
    """Return whether an override's key names a group or something below it."""
    key, place = key.partition("@")[0].replace("/", "."), group.replace("/", ".")
    return key == place or key.startswith(f"{place}.")


def _added(override: str, there: set[str], known: dict[str, Any]) -> str:
    """Return an override that adds its key if parents have it and these settings don't."""
    key = key_of(override)
    if override[0] in "+~-" or key in _groups():
        return override
    in_conf, in_parents = (
        any(name == key or name.startswith(f"{key}.") for name in names) for names in (known, there)
    )
    return f"++{override}" if in_parents and not in_conf else override


def _quoted(text: str) -> str:
    """Return a text as a Hydra value, quoted if necessary."""
    return text if re.fullmatch(r"[A-Za-z0-9_./@-]+", text) else QuotedString(text, Quote.double).with_quotes()


# Values that a fork has from its parent unless they are typed, whatever they follow from: the folder of the data, the
# seed of the splits if another `seed` is typed, and the number of workers, on which data of one's own may depend.
RECORDED = ("data.root", "data.split_seed", "data.num_workers")


def inherit_settings(cfg: DictConfig, overrides: Sequence[str], run_dir: Path | str) -> None:
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
    source = settings_source(cfg.fork, Path(run_dir), trust=cfg.trust)
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
    run = Run(directory, trust=True)  # its owner was asked for
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

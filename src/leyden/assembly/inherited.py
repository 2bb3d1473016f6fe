"""Settings that a fork takes over from its parent, whose directory anybody may have made: plain values, set as data.

They are set key by key in what was composed here. What a role allows (`roles.py`) is taken over as it is. Of anything
else, classes must be those that are composed here, and numbers alone are taken over: no number names a file or a class.
"""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.assembly.roles import ROLES
from leyden.assembly.trust import problem_of
from leyden.config.defaults import composed_values
from leyden.config.mistakes import UserError
from leyden.config.values import dotted
from leyden.run.choices import deciding
from leyden.run.contents import RunContents
from leyden.run.fork import group_choices, key_of, parent_groups, settings_source

Keys = tuple[Any, ...]  # from the root of a configuration to one of its values
DATA_ROOT, DOWNLOAD = ("data", "root"), ("data", "download")
SPLIT = ("data", "split_seed")  # what the parent was trained on stays in the training split, whatever the seed
# Keys of a node that say what is made and how it is called; all others are arguments.
OF_HYDRA = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}


def inherit_settings(cfg: DictConfig, overrides: Sequence[str], run_dir: Path) -> None:
    """Set a fork's configuration, in place, to the settings of its parent, but for those that were typed for the fork.

    Settings that change no bit of weights or metrics (the logger, pictures, intervals of checkpoints) are the fork's own.

    Args:
        cfg: As it was composed, with its interpolations.
        overrides: That it was composed by.
        run_dir: Of the fork.

    Raises:
        UserError: The parent can't be read; or was set to something that can't be taken over.
    """
    if not cfg.fork:
        return
    source = settings_source(cfg.fork, run_dir)
    config = source.config
    if wrong := next((part for part in ROLES if not isinstance(config.get(part), dict)), None):
        raise UserError(
            f"fork: {source.directory}/config.yaml: {wrong}={config.get(wrong)}: must have keys of its own"
        )
    there = _settings(config)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    raw: Any = OmegaConf.to_container(own)
    written, here = dict(_values(raw)), dict(_values(OmegaConf.to_container(own, resolve=True)))
    typed = _Typed(source, overrides)
    differing = [keys for keys, value in there.items() if not _same(written, keys, value)]
    for keys in differing:
        if any(map(_is_interpolation, _texts(there[keys]))):
            raise _refusal(
                source, keys, there[keys], "it holds an interpolation, and a configuration that is kept is resolved"
            )
    following = _following(raw, here, {keys: there[keys] for keys in differing})
    changed = [keys for keys in differing if keys not in following and not typed(keys)]
    _check(source, changed, there)
    replaced = {keys[:-1] for keys in changed if keys[-1] == "_target_"}
    deleted = {key_of(each) for each in _typed_for(source) if each.startswith("~")}
    for keys in here.keys() - there.keys():
        is_of_another = any(keys[:n] in replaced for n in range(1, len(keys)))
        if (is_of_another or {dotted(keys[:n]) for n in range(1, len(keys) + 1)} & deleted) and not typed(keys):
            _node(raw, keys[:-1]).pop(keys[-1], None)
    for keys in changed:
        _node(raw, keys[:-1])[keys[-1]] = there[keys]
    if DATA_ROOT in changed and DOWNLOAD in here and not typed(DOWNLOAD):
        raw["data"]["download"] = False  # nothing is fetched to a folder that somebody else has named
    for key in {keys[0] for keys in changed} | {*ROLES}:
        try:
            cfg[key] = raw[key]
        except OmegaConfBaseException as error:
            raise _refusal(source, (key,), raw[key], " ".join(str(error.args[0]).split())) from error


def _check(source: RunContents, changed: Sequence[Keys], there: dict[Keys, Any]) -> None:
    """Make sure that settings make nothing that no role allows, and lead nowhere.

    Raises:
        UserError: One does.
    """
    for part, role in ROLES.items():
        of_part = [keys for keys in changed if keys[0] == part]
        node = source.config.get(part)
        if part == "callbacks" and isinstance(node, dict):  # those that only watch are not taken over
            node = {name: inner for name, inner in node.items() if any(keys[:2] == (part, name) for keys in there)}
        if of_part and (problem := problem_of(node, part, role)):
            for keys in of_part:
                if {*keys} & OF_HYDRA or not _is_number(there[keys]):
                    raise _refusal(source, keys, there[keys], problem)
    if DATA_ROOT in changed and not Path(str(there[DATA_ROOT])).is_dir():
        raise _refusal(source, DATA_ROOT, there[DATA_ROOT], "there is no such folder")


def _refusal(source: RunContents, keys: Keys, value: Any, why: str) -> UserError:
    return UserError(
        f"fork: {source.directory} was set to {dotted(keys)}={value}, which is not taken over: {why}\n"
        f"type {dotted(keys)}=..., that or something else"
    )


def _settings(config: dict[str, Any]) -> dict[Keys, Any]:
    """The settings that make a run another one, and the place of its data."""
    values = dict(_values(config))
    kept = deciding({dotted(keys): value for keys, value in values.items()})
    return {
        keys: value
        for keys, value in values.items()
        if keys == DATA_ROOT or (dotted(keys) in kept and keys != ("fork",))
    }


def _values(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """The values of a configuration; a list is one value, whatever it holds."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _values(value, (*keys, key))
    else:
        yield keys, node


def _same(values: dict[Keys, Any], keys: Keys, value: Any) -> bool:
    """Whether there is this value: 1 is one batch, and 1.0 all of them."""
    return keys in values and repr(values[keys]) == repr(value)


def _following(raw: Any, here: dict[Keys, Any], there: dict[Keys, Any]) -> set[Keys]:
    """The settings that are interpolations here, and have their parent's value wherever all other settings are its, too."""
    interpolated = {keys for keys, value in _values(raw) if not _same(here, keys, value)}
    as_there = copy.deepcopy(raw)
    for keys, value in there.items():
        if keys not in interpolated:
            _node(as_there, keys[:-1])[keys[-1]] = value
    found = dict(_values(OmegaConf.to_container(OmegaConf.create(as_there), resolve=True)))
    return {keys for keys in interpolated & there.keys() if keys != SPLIT and _same(found, keys, there[keys])}


def _is_number(value: Any) -> bool:
    """Whether a value is a number, true, false, null, or a list of such."""
    return (
        all(map(_is_number, value)) if isinstance(value, list) else value is None or isinstance(value, int | float)
    )


def _node(root: Any, keys: Keys) -> Any:
    """The dictionary at these keys, which is made if it is not there."""
    for key in keys:
        if not isinstance(root.get(key), dict):
            root[key] = {}
        root = root[key]
    return root


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value."""
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
    if isinstance(value, str):
        yield value


def _is_interpolation(text: str) -> bool:
    """Whether OmegaConf would put something else in the place of a text."""
    return OmegaConf.is_interpolation(OmegaConf.create([text]), 0)


def _typed_for(source: RunContents) -> list[str]:
    """The overrides of a run's last start, which repeats those of the first one, and may go further."""
    return [override for start in source.starts[-1:] for override in start["overrides"]]


class _Typed:
    """Whether a setting was typed for the fork: itself, a part that holds it, or a file of `conf/` that sets it."""

    def __init__(self, source: RunContents, overrides: Sequence[str]) -> None:
        inherited = parent_groups(source)
        typed = [each for each in overrides if each not in inherited]
        self.keys = [tuple(key_of(each).partition("@")[0].replace("/", ".").split(".")) for each in typed]
        self.of_files: set[str] = set()
        if files := [each for each in typed if each in group_choices()]:
            groups = {group_choices()[each] for each in files}
            others = [each for each in inherited if group_choices()[each] not in groups]
            before, after = composed_values(inherited), composed_values([*others, *files])
            self.of_files = {key for key in {**before, **after} if repr(before.get(key)) != repr(after.get(key))}

    def __call__(self, keys: Keys) -> bool:
        below_or_above = any(keys[: len(key)] == key or key[: len(keys)] == keys for key in self.keys)
        return below_or_above or dotted(keys) in self.of_files

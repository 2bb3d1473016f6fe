"""Settings that a fork takes over from its parent, whose directory anybody may have made: plain values, set as data.

They are set key by key in what was composed here. A part that its role then allows (`roles.py`) is as in the parent. Of any
other part, classes must be those that are composed here, and numbers of keys that are there alone are taken over.
"""

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.assembly.instantiate import argument_names, target
from leyden.assembly.roles import ROLES
from leyden.assembly.trust import problem_of
from leyden.config.errors import UserError
from leyden.config.hydra import composed_choices, composed_values, keys_set_by
from leyden.config.schema import TrainConfig
from leyden.config.terminal import one_line, warn
from leyden.config.values import dotted
from leyden.data.contract import divides_batches
from leyden.run.directory import RunContents
from leyden.run.fork import group_choices, key_of, parent_groups, settings_source
from leyden.run.identity import identity_values
from leyden.run.process import is_main_process

Keys = tuple[Any, ...]  # from the root of a configuration to one of its values
DATA_ROOT = ("data", "root")
WORKERS = ("data", "num_workers")
SPLIT = ("data", "split_seed")  # what the parent was trained on stays in the training split, whatever the seed
# Keys of a node that say what is made and how it is called; all others are arguments.
OF_HYDRA = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}


def inherit_settings(cfg: DictConfig, overrides: Sequence[str], run_dir: Path) -> None:
    """Set a fork's configuration, in place, to the settings of its parent, but for those that were typed for the fork.

    Settings that change no bit of weights or metrics (the logger, pictures, intervals of checkpoints) are the fork's own,
    and so is the folder of its data.

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
    _check_parts(source, config)
    there = _settings(config)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    raw: Any = OmegaConf.to_container(own)
    written, here = dict(_values(raw)), dict(_values(OmegaConf.to_container(own, resolve=True)))
    typed = _Typed(source, overrides)
    differing = [keys for keys, value in there.items() if not _same(written, keys, value)]
    for keys in differing:
        if any(map(_is_interpolation, _texts(there[keys]))):
            raise _refusal(
                source, keys, there[keys], "it holds an interpolation, and a kept configuration is resolved"
            )
        if isinstance(there[keys], list) and typed.below(keys):
            raise UserError(f"fork: {dotted(keys)} is a list: type all of it, as {dotted(keys)}={there[keys]}")
    following = _following(raw, here, {keys: there[keys] for keys in differing})
    changed = [keys for keys in differing if keys not in following and not typed(keys)]
    for keys in changed:
        _node(raw, keys[:-1])[keys[-1]] = there[keys]
    _check(source, changed, there, here, raw)
    _remove_others(raw, here, config, typed)
    _keep_root(config, here, typed)
    _take_workers(config, raw, typed)
    for key in sorted({str(keys[0]) for keys in changed} | {*ROLES}):
        try:
            cfg[key] = raw[key]
        except OmegaConfBaseException as error:
            raise _refusal(source, (key,), raw[key], " ".join(str(error.args[0]).split())) from error


def _check_parts(source: RunContents, config: dict[str, Any]) -> None:
    """Make sure that a parent's configuration has the parts of one, and no other root keys.

    Raises:
        UserError: It has not.
    """
    where = f"fork: {source.directory}/config.yaml"
    for part in ROLES:
        if not isinstance(config.get(part), dict):
            raise UserError(f"{where}: {part}={one_line(config.get(part))}: must have keys of its own")
    known = {field.name for field in fields(TrainConfig)}
    if unknown := [key for key in config if key not in known]:
        raise UserError(f"{where}: {one_line(unknown[0])} is no key of a run")


def _check(
    source: RunContents, changed: Sequence[Keys], there: dict[Keys, Any], here: dict[Keys, Any], raw: Any
) -> None:
    """Make sure that what is made by the settings together is what roles allow.

    Raises:
        UserError: It is not.
    """
    config: Any = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    for part, role in ROLES.items():
        of_part = [keys for keys in changed if keys[0] == part]
        node = config[part]
        if part == "callbacks":  # those that only watch are as they are composed here
            node = {name: inner for name, inner in node.items() if any(keys[1:2] == (name,) for keys in of_part)}
        if of_part and (problem := problem_of(node, part, role)):
            for keys in of_part:
                if {*keys} & OF_HYDRA or keys not in here or not _is_number(there[keys]):
                    raise _refusal(source, keys, there[keys], problem)


def _remove_others(raw: Any, here: dict[Keys, Any], config: dict[str, Any], typed: "_Typed") -> None:
    """Remove what is composed here and the parent did not have: it was made by the defaults of its classes.

    An argument without a default stays: the parent's class did not have it yet.
    """
    there = dict(_values(config))
    for keys in _settings(raw):
        node = functools.reduce(lambda above, key: (above or {}).get(key), keys[:-1], raw)
        if keys in there or keys[0] not in ROLES or typed(keys) or keys not in here or keys[-1] not in (node or {}):
            continue
        if keys[-1] == "_target_":  # the parent had nothing of the kind
            above = _node(raw, keys[:-2])
            if keys[0] == "callbacks":
                above[keys[-2]] = None
            elif len(keys) > 2:
                above.pop(keys[-2])
        elif not isinstance(node.get("_target_"), str) or keys[-1] not in _needed(node, keys):
            node.pop(keys[-1])
            for n in range(len(keys) - 1, 1, -1):  # what is empty by that
                if _node(raw, keys[:n]) == {} and keys[:n] not in there:
                    _node(raw, keys[: n - 1]).pop(keys[n - 1])


def _needed(node: dict[str, Any], keys: Keys) -> set[str]:
    """The arguments that what a node names must be given."""
    return argument_names(target(OmegaConf.create({"_target_": node["_target_"]}), dotted(keys[:-1])), needed=True)


def _keep_root(config: dict[str, Any], here: dict[Keys, Any], typed: "_Typed") -> None:
    """Say that data are read from the fork's own folder, where the parent's is another one: anybody may have named that.

    Raises:
        UserError: The fork has none.
    """
    there, own = config["data"].get("root"), here.get(DATA_ROOT)
    if not isinstance(there, str) or there == own or typed(DATA_ROOT):
        return
    if own in (None, "???"):
        raise UserError(
            f"fork: data.root={one_line(there)} is not taken over, as anybody may have named it; type data.root=DIR"
        )
    if is_main_process():
        warn(
            f"fork: data are read from {own}; the parent's were in {one_line(there)}, which data.root=DIR would name"
        )


def _take_workers(config: dict[str, Any], raw: Any, typed: "_Typed") -> None:
    """Take over the number of worker processes of data of one's own: what they draw and count in a worker depends on it.

    The engine's data are the same with any number.
    """
    num_workers = config["data"].get(WORKERS[1])
    if typed(WORKERS) or type(num_workers) is not int or not isinstance(raw["data"].get("_target_"), str):
        return
    if not divides_batches(target(OmegaConf.create({"_target_": raw["data"]["_target_"]}), "data")):
        raw["data"][WORKERS[1]] = num_workers


def _refusal(source: RunContents, keys: Keys, value: Any, why: str) -> UserError:
    key = one_line(dotted(keys))
    return UserError(
        f"fork: {source.directory} was set to {key}={one_line(value)}, which is not taken over: {one_line(why)}\n"
        f"type {key}=..., that or something else"
    )


def _settings(config: dict[str, Any]) -> dict[Keys, Any]:
    """The settings that make a run another one."""
    values = dict(_values(config))
    kept = identity_values({dotted(keys): value for keys, value in values.items()})
    places = (("fork",), DATA_ROOT)
    return {
        keys: value
        for keys, value in values.items()
        if dotted(keys) in kept and not any(keys[: len(each)] == each for each in places)
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
    """Whether a value is a number, null, or a list of such; true and false can switch something on."""
    if isinstance(value, list):
        return all(map(_is_number, value))
    return value is None or type(value) in (int, float)


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


class _Typed:
    """Whether a setting was typed for the fork: itself, a part that holds it, or a file of `conf/` that sets it.

    The file that the parent was composed by is nothing new.
    """

    def __init__(self, source: RunContents, overrides: Sequence[str]) -> None:
        inherited = parent_groups(source)
        chosen = {
            f"{plus}{group}={name}" for group, name in composed_choices(inherited).items() for plus in ("", "+")
        }
        typed = [each for each in overrides if each not in chosen]
        self.keys = [tuple(key_of(each).partition("@")[0].replace("/", ".").split(".")) for each in typed]
        self.of_files: set[str] = set()
        if files := [each for each in typed if each in group_choices()]:
            groups = {group_choices()[each] for each in files}
            others = [each for each in inherited if group_choices()[each] not in groups]
            before, after = composed_values(inherited), composed_values([*others, *files])
            self.of_files = {key for key in {**before, **after} if repr(before.get(key)) != repr(after.get(key))}
            self.of_files |= {
                key for each in files for key in keys_set_by(group_choices()[each], each.partition("=")[2])
            }

    def __call__(self, keys: Keys) -> bool:
        is_above = any(keys[: len(key)] == key for key in self.keys)
        return is_above or self.below(keys) or dotted(keys) in self.of_files

    def below(self, keys: Keys) -> bool:
        """Whether a key within this setting was typed."""
        return any(len(key) > len(keys) and key[: len(keys)] == keys for key in self.keys)

"""Settings that a fork inherits from its parent.

The parent's directory may come from a stranger, so its settings are treated as data: they are set key by key in the
fork's composed configuration. A part, such as the model, is inherited completely if `roles.py` allows its classes.
From any other part, only numbers are inherited, for keys that the composed configuration has; and the part's classes
must be those of the composed configuration.
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
from leyden.assembly.trust import importing_for, problem_of
from leyden.config.errors import UserError
from leyden.config.hydra import composed_choices, composed_values, keys_set_by
from leyden.config.schema import TrainConfig
from leyden.config.terminal import one_line, warn
from leyden.config.values import differing, dotted
from leyden.exact.first_batches import divides_batches
from leyden.run.directory import RunContents
from leyden.run.fork import group_choices, key_of, parent_groups, settings_source
from leyden.run.identity import identity_values
from leyden.run.process import is_main_process

Keys = tuple[Any, ...]  # the path from the root of a configuration to one of its values
DATA_ROOT = ("data", "root")
NUM_WORKERS = ("data", "num_workers")
SPLIT_SEED = ("data", "split_seed")  # inherited even if the seed changes: the training split stays the parent's
# Keys of a node that Hydra interprets; all others are arguments.
HYDRA_KEYS = {"_target_", "_args_", "_partial_", "_recursive_", "_convert_"}


def inherit_settings(cfg: DictConfig, overrides: Sequence[str], run_dir: Path) -> None:
    """Set a fork's configuration, in place, to its parent's settings, except for the fork's own overrides.

    Settings that change no bit of weights or metrics (loggers, pictures, checkpoint intervals) are not inherited,
    and neither is the folder of the data.

    Args:
        cfg: The composed configuration, with its interpolations.
        overrides: The overrides that it was composed with.
        run_dir: The fork's run directory.

    Raises:
        UserError: The parent can't be read, or has a setting that can't be inherited.
    """
    if not cfg.fork:
        return
    source = settings_source(cfg.fork, run_dir)
    config = source.config
    _check_parts(source, config)
    parent_values = _identity_settings(config)
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    raw: Any = OmegaConf.to_container(own)
    unresolved, fork_values = dict(_leaves(raw)), dict(_leaves(OmegaConf.to_container(own, resolve=True)))
    overridden = _OverriddenKeys(source, overrides)
    different = [keys for keys in differing(parent_values, unresolved) if keys in parent_values]
    for keys in different:
        if any(map(_is_interpolation, _strings(parent_values[keys]))):
            raise _refusal(
                source,
                keys,
                parent_values[keys],
                "it holds an interpolation, which a saved configuration never does",
            )
        if isinstance(parent_values[keys], list) and overridden.below(keys):
            raise UserError(
                f"fork: {dotted(keys)} is a list: override all of it, such as {dotted(keys)}={parent_values[keys]}"
            )
    following = _following_interpolations(raw, fork_values, {keys: parent_values[keys] for keys in different})
    changed = [keys for keys in different if keys not in following and not overridden(keys)]
    for keys in changed:
        _node_at(raw, keys[:-1])[keys[-1]] = parent_values[keys]
    _check_roles(source, changed, parent_values, fork_values, raw)
    _remove_absent_keys(raw, fork_values, config, overridden)
    _check_data_root(config, fork_values, overridden)
    _inherit_num_workers(config, raw, overridden)
    for key in sorted({str(keys[0]) for keys in changed} | {*ROLES}):
        try:
            cfg[key] = raw[key]
        except OmegaConfBaseException as error:
            raise _refusal(source, (key,), raw[key], " ".join(str(error.args[0]).split())) from error


def _check_parts(source: RunContents, config: dict[str, Any]) -> None:
    """Check that a parent's configuration has all parts of a run, and no unknown root keys.

    Raises:
        UserError: A part is missing, or a key is unknown.
    """
    where = f"fork: {source.directory}/run.json"
    for part in ROLES:
        if not isinstance(config.get(part), dict):
            raise UserError(f"{where}: {part}={one_line(config.get(part))}: must be a mapping")
    known = {field.name for field in fields(TrainConfig)}
    if unknown := [key for key in config if key not in known]:
        raise UserError(f"{where}: {one_line(unknown[0])} is not a key of a run")


def _check_roles(
    source: RunContents,
    changed: Sequence[Keys],
    parent_values: dict[Keys, Any],
    fork_values: dict[Keys, Any],
    raw: Any,
) -> None:
    """Check that the roles allow each part with its inherited settings.

    Raises:
        UserError: A part's class is not allowed, and something else than a number of an existing key would be
            inherited.
    """
    config: Any = OmegaConf.to_container(OmegaConf.create(raw), resolve=True)
    for part, role in ROLES.items():
        of_part = [keys for keys in changed if keys[0] == part]
        node = config[part]
        if part == "callbacks":  # only callbacks with inherited settings are checked
            node = {name: inner for name, inner in node.items() if any(keys[1:2] == (name,) for keys in of_part)}
        with importing_for(config.get("seed")):
            problem = problem_of(node, part, role) if of_part else ""
        if problem:
            for keys in of_part:
                if {*keys} & HYDRA_KEYS or keys not in fork_values or not _is_number(parent_values[keys]):
                    raise _refusal(source, keys, parent_values[keys], problem)


def _remove_absent_keys(
    raw: Any, fork_values: dict[Keys, Any], config: dict[str, Any], overridden: "_OverriddenKeys"
) -> None:
    """Remove composed keys that the parent's configuration lacks: it used the defaults of its classes.

    Required arguments stay, since nothing can be created without them; the parent's version of the class lacked them.
    """
    parent_values = dict(_leaves(config))
    for keys in _identity_settings(raw):
        node = functools.reduce(lambda above, key: (above or {}).get(key), keys[:-1], raw)
        if (
            keys in parent_values
            or keys[0] not in ROLES
            or overridden(keys)
            or keys not in fork_values
            or keys[-1] not in (node or {})
        ):
            continue
        if keys[-1] == "_target_":  # the parent had no such part
            above = _node_at(raw, keys[:-2])
            if keys[0] == "callbacks":
                above[keys[-2]] = None
            elif len(keys) > 2:
                above.pop(keys[-2])
        elif not isinstance(node.get("_target_"), str) or keys[-1] not in _required_arguments(node, keys):
            node.pop(keys[-1])
            for n in range(len(keys) - 1, 1, -1):  # remove nodes that are now empty
                if _node_at(raw, keys[:n]) == {} and keys[:n] not in parent_values:
                    _node_at(raw, keys[: n - 1]).pop(keys[n - 1])


def _required_arguments(node: dict[str, Any], keys: Keys) -> set[str]:
    """Return the required arguments of a node's target."""
    return argument_names(target(OmegaConf.create({"_target_": node["_target_"]}), dotted(keys[:-1])), needed=True)


def _check_data_root(config: dict[str, Any], fork_values: dict[Keys, Any], overridden: "_OverriddenKeys") -> None:
    """Warn if the fork reads its data from another folder than its parent.

    `data.root` is never inherited: the parent's directory may come from a stranger.

    Raises:
        UserError: The fork has no `data.root`.
    """
    parent_root, own_root = config["data"].get("root"), fork_values.get(DATA_ROOT)
    if not isinstance(parent_root, str) or parent_root == own_root or overridden(DATA_ROOT):
        return
    if own_root in (None, "???"):
        raise UserError(
            f"fork: data.root={one_line(parent_root)} of the parent is not inherited, as anybody may have set it; set data.root=DIR"
        )
    if is_main_process():
        warn(
            f"fork: data are read from {own_root}; the parent's were in {one_line(parent_root)}; data.root=DIR selects a folder"
        )


def _inherit_num_workers(config: dict[str, Any], raw: Any, overridden: "_OverriddenKeys") -> None:
    """Set the parent's number of worker processes for the user's own data, which may depend on it.

    Data modules that divide batches themselves yield the same data with any number.
    """
    num_workers = config["data"].get(NUM_WORKERS[1])
    if overridden(NUM_WORKERS) or type(num_workers) is not int or not isinstance(raw["data"].get("_target_"), str):
        return
    if not divides_batches(target(OmegaConf.create({"_target_": raw["data"]["_target_"]}), "data")):
        raw["data"][NUM_WORKERS[1]] = num_workers


def _refusal(source: RunContents, keys: Keys, value: Any, why: str) -> UserError:
    key = one_line(dotted(keys))
    return UserError(
        f"fork: {source.directory} was set to {key}={one_line(value)}, which is not inherited: {one_line(why)}\n"
        f"set {key}=... to this or another value"
    )


def _identity_settings(config: dict[str, Any]) -> dict[Keys, Any]:
    """Return the settings that identify a run, without `fork` and `data.root`."""
    values = dict(_leaves(config))
    kept = identity_values({dotted(keys): value for keys, value in values.items()})
    places = (("fork",), DATA_ROOT)
    return {
        keys: value
        for keys, value in values.items()
        if dotted(keys) in kept and not any(keys[: len(each)] == each for each in places)
    }


def _leaves(node: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield the path and value of each leaf of a configuration; a list is one value."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, (*keys, key))
    else:
        yield keys, node


def _following_interpolations(raw: Any, fork_values: dict[Keys, Any], parent_values: dict[Keys, Any]) -> set[Keys]:
    """Return the interpolated settings that get their parent's value once all other settings are inherited."""
    own = dict(_leaves(raw))
    interpolated = {keys for keys in differing(own, fork_values) if keys in own}
    as_there = copy.deepcopy(raw)
    for keys, value in parent_values.items():
        if keys not in interpolated:
            _node_at(as_there, keys[:-1])[keys[-1]] = value
    found = dict(_leaves(OmegaConf.to_container(OmegaConf.create(as_there), resolve=True)))
    return (interpolated & parent_values.keys()) - {SPLIT_SEED} - {*differing(found, parent_values)}


def _is_number(value: Any) -> bool:
    """Return whether a value is a number, null, or a list of these; not a boolean, which could enable a feature."""
    if isinstance(value, list):
        return all(map(_is_number, value))
    return value is None or type(value) in (int, float)


def _node_at(root: Any, keys: Keys) -> Any:
    """Return the dictionary at a path, created if it is missing."""
    for key in keys:
        if not isinstance(root.get(key), dict):
            root[key] = {}
        root = root[key]
    return root


def _strings(value: Any) -> Iterator[str]:
    """Yield all strings in a nested value."""
    for inner in [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
    if isinstance(value, str):
        yield value


def _is_interpolation(text: str) -> bool:
    """Return whether OmegaConf would resolve a string as an interpolation."""
    return OmegaConf.is_interpolation(OmegaConf.create([text]), 0)


class _OverriddenKeys:
    """Predicate: True for a setting that an override of the fork sets.

    The override names the setting itself, a part that contains it, or a file of `conf/` that sets it. An override
    that chooses a file which the parent chose, too, does not count.
    """

    def __init__(self, source: RunContents, overrides: Sequence[str]) -> None:
        inherited = parent_groups(source)
        chosen = {
            f"{plus}{group}={name}" for group, name in composed_choices(inherited).items() for plus in ("", "+")
        }
        new_overrides = [each for each in overrides if each not in chosen]
        self.keys = [tuple(key_of(each).partition("@")[0].replace("/", ".").split(".")) for each in new_overrides]
        self.set_by_files: set[str] = set()
        if files := [each for each in new_overrides if each in group_choices()]:
            groups = {group_choices()[each] for each in files}
            others = [each for each in inherited if group_choices()[each] not in groups]
            self.set_by_files = {*differing(composed_values(inherited), composed_values([*others, *files]))}
            self.set_by_files |= {
                key for each in files for key in keys_set_by(group_choices()[each], each.partition("=")[2])
            }

    def __call__(self, keys: Keys) -> bool:
        is_above = any(keys[: len(key)] == key for key in self.keys)
        return is_above or self.below(keys) or dotted(keys) in self.set_by_files

    def below(self, keys: Keys) -> bool:
        """Return whether an override sets a key below this setting."""
        return any(len(key) > len(keys) and key[: len(keys)] == keys for key in self.keys)

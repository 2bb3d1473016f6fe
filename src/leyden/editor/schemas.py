"""A JSON schema per group of `conf/` and per file at its root, from the constructors of what is made there."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from leyden.config.paths import CONF
from leyden.config.schema import SCHEMAS
from leyden.editor.classes import PLACES, Groups, choices, known
from leyden.editor.document import Document, is_one_of
from leyden.editor.parameters import Schema, needed


def schemas() -> dict[str, Schema]:
    """All of them, by the names of their files: that of a group is its folder, as `callbacks.averaging`."""
    groups = choices()
    made = {group.replace("/", "."): _of_group(groups, group) for group in groups}
    return made | {name: _of_root(groups, name) for name in SCHEMAS}


def _of_root(groups: Groups, name: str) -> Schema:
    document = Document(groups, "")
    return _finished(document, [document.root(name)], _defaults(groups, ""))


def _of_group(groups: Groups, group: str) -> Schema:
    """The schema of the files of a group; their packages say where their keys land."""
    packages = sorted({choice["@package"] for choice in groups[group].values()})
    document = Document(groups, "" if "" in packages else group)
    parts = [document.at(package) for package in packages]
    rules = [parts[0] if len(parts) == 1 else {"anyOf": parts}]
    if "" in packages:
        rules += _of_chosen(document, groups, group)
    elif packages[0] in PLACES and not PLACES[packages[0]].named:
        rules += _of_inherited(document, groups, group, packages[0])
    return _finished(document, rules, _defaults(groups, group))


def _finished(document: Document, rules: list[Schema], defaults: Schema) -> Schema:
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"defaults": defaults},
        "allOf": rules,
        "definitions": document.definitions,
    }


def _defaults(groups: Groups, group: str) -> Schema:
    """The schema of a list of defaults: files of the same group, and choices of others."""
    entries: Schema = {}
    for name, files in groups.items():
        chosen: Schema = {"anyOf": [{"enum": [*files, None]}, {"type": "array", "items": {"enum": [*files]}}]}
        if name.startswith("hydra/"):  # which has some itself
            chosen["anyOf"].append({"type": "string"})
        below = name.removeprefix(f"{group}/") if group else name
        for key in (f"/{name}", *([below] if below != name or not group else [])):
            entries |= {key: chosen, f"override {key}": chosen}
    names = {"enum": ["_self_", *groups.get(group, ())]} if group else {"type": "string"}
    further: Schema = {"^(optional|override hydra/)|@|\\$\\{": {}}
    other = {"type": "object", "properties": entries, "patternProperties": further, "additionalProperties": False}
    return {"type": "array", "items": {"anyOf": [names, other]}}


def _of_inherited(document: Document, groups: Groups, group: str, place: str) -> Iterator[Schema]:
    """A file without a `_target_` has that of the file in its defaults; one without defaults has all that is needed."""
    for name in groups[group]:
        if target := _target(groups, group, name):
            inherits = {"required": ["defaults"], "properties": {"defaults": {"contains": {"const": name}}}}
            yield {"if": inherits, "then": document.unless_named(place, target)}
    role, given = PLACES[place].role, PLACES[place].given
    incomplete = {"anyOf": [{"required": ["defaults"]}, {"required": ["_partial_"]}]}
    for name, made in known(document.folder, role).items():
        if names := needed(made, (*given, *role.not_its)):
            yield {"if": {**is_one_of(name, made), "not": incomplete}, "then": {"required": names}}


def _of_chosen(document: Document, groups: Groups, of: str) -> Iterator[Schema]:
    """A part without a `_target_` has that of the choice in the defaults, or else of the choice in `conf/train.yaml`."""
    usual: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]:
        usual |= entry if isinstance(entry, dict) else {}
    for place in PLACES:
        group = place.replace(".", "/")
        keys = [f"{sign}{group}" for sign in ("override /", "/", "override ")]
        inherit_one = {"enum": [name for name in groups[of] if _chooses(groups[of], name, keys)]}
        for name in groups.get(group, ()):
            if target := _target(groups, group, name):
                made = document.unless_named(place, target)
                for part in reversed(place.split(".")):
                    made = {"properties": {part: {**made, "doNotSuggest": True}}}  # it is suggested already
                yield {"if": _has([_entry(key, {"const": name}) for key in keys]), "then": made}
                if usual.get(group) == name:
                    yield {"if": {"not": _has([*(_entry(key, {}) for key in keys), inherit_one])}, "then": made}


def _chooses(files: Mapping[str, Any], name: str, keys: list[str]) -> bool:
    """Whether a file has one of these keys in its defaults, or another one that stands there."""
    entries = files[name].get("defaults", ())
    inherited = [entry for entry in entries if isinstance(entry, str) and entry in files]
    return any({*entry} & {*keys} for entry in entries if isinstance(entry, dict)) or any(
        _chooses(files, entry, keys) for entry in inherited
    )


def _entry(key: str, chosen: Schema) -> Schema:
    return {"type": "object", "required": [key], "properties": {key: chosen}}


def _has(entries: list[Schema]) -> Schema:
    """The schema of a file whose defaults have one of some entries."""
    return {"required": ["defaults"], "properties": {"defaults": {"contains": {"anyOf": entries}}}}


def _target(groups: Groups, group: str, name: str) -> str | None:
    """What a choice of a group makes; None where that is not known."""
    held = groups[group].get(name, {})
    node = held
    if not held.get("@package"):
        for part in group.split("/"):
            node = node.get(part) or {}
    if target := node.get("_target_"):
        return None if target == "???" else str(target)
    below = (_target(groups, group, each) for each in held.get("defaults", ()) if each in groups[group])
    return next(filter(None, below), None)

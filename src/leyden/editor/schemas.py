"""A JSON schema per group of `conf/` and per file at its root, from the constructors of what is made there."""

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import yaml

from leyden.assembly.roles import PARTS, Role
from leyden.config.paths import CONF
from leyden.config.schema import CHOICES, SCHEMAS
from leyden.editor.classes import (
    FACTS,
    LATER,
    PLACES,
    PLAIN,
    Groups,
    Schema,
    aliases,
    find,
    group_files,
    known,
    needed,
    schema_of,
    value,
)

ANY = Role(object, packages=())
KINDS = {**PLAIN, list: "array", dict: "object"}
MODE = {"enum": ["min", "max"]}
OBJECTIVE = {
    "type": ["object", "string", "null"],
    "properties": {
        "metric": {"type": ["string", "array"], "items": {"type": "string"}},
        "mode": {"anyOf": [MODE, {"type": "array", "items": MODE}, LATER]},
    },
    "additionalProperties": False,
}


class Document:
    """One schema in the making.

    Args:
        groups: What `conf/` holds, as `choices` gives it.
        folder: Of `conf/`: what its files name is known, too.
    """

    def __init__(self, groups: Groups, folder: str) -> None:
        self.groups, self.folder = groups, folder
        self.definitions: dict[str, Schema] = {}
        self.keys: dict[int, str] = {}  # of the definition of each role

    def at(self, key: str) -> Schema:
        """The schema of what stands at a key of the whole configuration; an empty one where nothing is known."""
        above = key.rpartition(".")[0]
        if not key:
            return self.root("train")
        if key in PLACES:
            place = PLACES[key]
            node = self.node(key, place.role, place.given)
            return self.named(key, node) if place.named else node
        if above in PLACES and PLACES[above].named:
            return self.node(above, PLACES[above].role, PLACES[above].given)
        return {}

    def named(self, key: str, node: Schema) -> Schema:
        """The schema of nodes by names; what the files of the group name so, needs no `_target_`."""
        nothing = {"type": "null"}
        properties: Schema = {"defaults": {}}
        for held in self.groups.get(key.replace(".", "/"), {}).values():
            for name, part in held.items():
                if isinstance(part, dict) and (target := part.get("_target_")):
                    properties[name] = {"anyOf": [{"allOf": [node, self.unless_named(key, target)]}, nothing]}
        return {"type": "object", "properties": properties, "additionalProperties": {"anyOf": [node, nothing]}}

    def unless_named(self, key: str, target: str) -> Schema:
        """The schema of a node that is of this class if it has no `_target_` itself."""
        place = PLACES[key]
        made = self.made(key, place.role, target, find(target), place.given)
        return {"if": {"not": {"required": ["_target_"]}}, "then": made}

    def root(self, name: str) -> Schema:
        """The schema of the whole configuration of a command, or of a part of it, as recipes are."""
        text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
        told = comments(text)
        properties: Schema = {}
        for key, hint in typing.get_type_hints(SCHEMAS[name]).items():
            allowed = CHOICES.get(f"{name}.{key}")
            properties[key] = {"anyOf": [{"enum": [*allowed]}, LATER]} if allowed else value(hint, {})
            if key in told:
                properties[key]["description"] = told[key]
        if name == "train":
            properties |= {key: self.at(key) for key in PLACES if "." not in key}
            texts = [
                path.read_text(encoding="utf-8") for path in sorted((CONF / "cluster").glob("*.yaml"), reverse=True)
            ]
            properties |= {"sweep": by_example("sweep", text), "cluster": by_example("cluster", *texts)}
            properties["objective"] = OBJECTIVE
        parts = {
            key.partition(".")[2]: self.at(key) for key in ("hydra.launcher", "hydra.sweeper") if name == "train"
        }
        properties |= {"hydra": {"type": "object", "properties": parts}, "defaults": {}}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def node(self, key: str, role: Role, given: tuple[str, ...]) -> Schema:
        """The schema of a node that makes something, by its `_target_`."""
        key = self.keys.setdefault(id(role), key)  # one role can stand at several places, below itself too
        if key not in self.definitions:
            self.definitions[key] = {}
            found = known(self.folder, role)
            # Of these modules all is known that can be made; of others anything can be.
            modules = {*role.packages, *(name.rpartition(".")[0] for name in found if name.startswith("leyden."))}
            closed = "|".join(re.escape(each) for each in sorted(modules) if not each.startswith("torch"))
            targets = [{"enum": sorted(found)}, {"type": "string", "pattern": f"^(?!({closed or '-'})\\.)"}, LATER]
            self.definitions[key] = {
                "type": "object",
                "properties": {
                    "_target_": {"anyOf": targets, "description": "What is made."},
                    "_partial_": {
                        "type": "boolean",
                        "description": "Whether the program calls it with more arguments.",
                    },
                },
                "allOf": [
                    {"if": is_one_of(name, made), "then": self.made(key, role, name, made, given)}
                    for name, made in found.items()
                ],
            }
        return {"$ref": f"#/definitions/{key}"}

    def made(self, key: str, role: Role, name: str, made: Any, given: tuple[str, ...]) -> Schema:
        """The schema of the arguments of a class or function that plays a role."""
        definition = f"{key}:{name}"
        if definition not in self.definitions:
            self.definitions[definition] = {}
            inner = FACTS if role.base is L.LightningModule else ()
            nested = {
                argument: self.node(f"{key}.{argument}", below, inner)
                for argument, below in role.nested.items()
                if below is not PARTS  # of these the owner can list anything
            }
            node = nested.pop("", None) or self.node("any", ANY, ())
            schema = schema_of(made, node, {*given, *role.not_its}, nested)
            if key == "optimizer":  # that of the engine, not of the class
                schema["properties"]["groups"] = {"type": "object", "additionalProperties": {"type": "object"}}
            self.definitions[definition] = schema
        return {"$ref": f"#/definitions/{definition}"}


def is_one_of(name: str, made: Any) -> Schema:
    """The schema of a node that names this class or function."""
    return {"required": ["_target_"], "properties": {"_target_": {"enum": sorted({name, *aliases(made)})}}}


def by_example(part: str, *texts: str) -> Schema:
    """The schema of a part of the configuration that no class stands for: its keys are those of some files.

    Args:
        part: Its key at the root.
        texts: The files; a value has the type that it has in the first that has one, or is null.
    """
    properties: Schema = {}
    for text in texts:
        told = comments(text)
        for key, found in ((yaml.safe_load(text) or {}).get(part) or {}).items():
            kind = KINDS.get(type(found))
            schema: Schema = (
                {} if found is None else {"anyOf": [{"type": kind}, {"type": "null"}, LATER], "default": found}
            )
            if f"{part}.{key}" in told:
                schema["description"] = told[f"{part}.{key}"]
            properties[key] = {**schema, **properties.get(key, {})}
            if allowed := CHOICES.get(f"train.{part}.{key}"):
                properties[key]["anyOf"] = [{"enum": [*allowed]}, LATER]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def comments(text: str) -> dict[str, str]:
    """What a file says of its keys, at their ends: those at its root, and those below them as `sweep.seeds`."""
    told: dict[str, str] = {}
    above = ""
    for indent, key, comment in re.findall(r"^(  )?(\w+):(?:.*?\s# (.*))?", text, re.M):
        above = above if indent else key
        if comment:
            told[f"{above}.{key}" if indent else key] = comment
    return told


def schemas() -> dict[str, Schema]:
    """All of them, by the names of their files: that of a group is its folder, as `callbacks.averaging`."""
    groups = group_files()
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

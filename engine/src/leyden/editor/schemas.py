"""JSON schemas of the files in `conf/`, from the signatures of the classes that they can name."""

import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import yaml

from leyden.assembly.roles import PARTS, Role
from leyden.config.paths import CONF, choices, conf_files
from leyden.config.schema import CHOICES, SCHEMAS
from leyden.editor.classes import (
    FACTS,
    LATER,
    PLACES,
    PLAIN,
    Groups,
    Schema,
    aliases,
    find_target,
    group_files,
    known_targets,
    required_arguments,
    schema_of,
    value_schema,
)

ANY = Role(object, packages=())
TYPE_NAMES = {**PLAIN, list: "array", dict: "object"}
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
    """A schema document under construction.

    Args:
        groups: Files of each config group, as returned by `group_files`.
        folder: Folder in `conf/`; classes named by its files are known targets as well.
    """

    def __init__(self, groups: Groups, folder: str) -> None:
        self.groups, self.folder = groups, folder
        self.definitions: dict[str, Schema] = {}
        self.keys: dict[int, str] = {}  # name of each role's definition, by the role's id

    def at(self, key: str) -> Schema:
        """Return the schema of the value at a key of the whole configuration; an empty one if nothing is known."""
        above = key.rpartition(".")[0]
        if not key:
            return self.root("train")
        if key in PLACES:
            place = PLACES[key]
            node = self.node(key, place.role, place.given)
            return self.named_nodes(key, node) if place.named else node
        if above in PLACES and PLACES[above].named:
            return self.node(above, PLACES[above].role, PLACES[above].given)
        return {}

    def named_nodes(self, key: str, node: Schema) -> Schema:
        """Return the schema of a mapping of named nodes; a name in the group's files needs no `_target_`."""
        null = {"type": "null"}
        properties: Schema = {"defaults": {}}
        for content in self.groups.get(key.replace(".", "/"), {}).values():
            for name, part in content.items():
                if isinstance(part, dict) and (target := part.get("_target_")):
                    properties[name] = {"anyOf": [{"allOf": [node, self.default_target(key, target)]}, null]}
        return {"type": "object", "properties": properties, "additionalProperties": {"anyOf": [node, null]}}

    def default_target(self, key: str, name: str) -> Schema:
        """Return the schema of a node whose `_target_` is this class unless it sets another one."""
        place = PLACES[key]
        arguments = self.arguments(key, place.role, name, find_target(name), place.given)
        return {"if": {"not": {"required": ["_target_"]}}, "then": arguments}

    def root(self, name: str) -> Schema:
        """Return the schema of a command's whole configuration, or of a part of it, such as an experiment file."""
        text = _text("run_defaults.yaml" if name == "train" else f"{name}.yaml")
        descriptions = key_comments(text)
        properties: Schema = {}
        for key, hint in typing.get_type_hints(SCHEMAS[name]).items():
            allowed = CHOICES.get(f"{name}.{key}")
            properties[key] = {"anyOf": [{"enum": [*allowed]}, LATER]} if allowed else value_schema(hint, {})
            if key in descriptions:
                properties[key]["description"] = descriptions[key]
        if name == "train":
            properties |= {key: self.at(key) for key in PLACES if "." not in key}
            files = sorted(conf_files("cluster/*.yaml"), reverse=True)
            texts = [path.read_text(encoding="utf-8") for _, path in files]
            properties |= {
                "sweep": schema_by_example("sweep", text),
                "cluster": schema_by_example("cluster", *texts),
            }
            properties["objective"] = OBJECTIVE
        parts = {
            key.partition(".")[2]: self.at(key) for key in ("hydra.launcher", "hydra.sweeper") if name == "train"
        }
        properties |= {"hydra": {"type": "object", "properties": parts}, "defaults": {}}
        return {"type": "object", "properties": properties, "additionalProperties": False}

    def node(self, key: str, role: Role, given: tuple[str, ...]) -> Schema:
        """Return the schema of a node with a `_target_` that plays a role."""
        key = self.keys.setdefault(id(role), key)  # a role can occur at several keys, also below itself
        if key not in self.definitions:
            self.definitions[key] = {}
            found = known_targets(self.folder, role)
            # All targets in these modules are known; a name in any other module is allowed.
            modules = {*role.packages, *(name.rpartition(".")[0] for name in found if name.startswith("leyden."))}
            closed = "|".join(re.escape(each) for each in sorted(modules) if not each.startswith("torch"))
            targets = [{"enum": sorted(found)}, {"type": "string", "pattern": f"^(?!({closed or '-'})\\.)"}, LATER]
            self.definitions[key] = {
                "type": "object",
                "properties": {
                    "_target_": {"anyOf": targets, "description": "Class or function to instantiate."},
                    "_partial_": {
                        "type": "boolean",
                        "description": "Pass it as a partial function, to be called with more arguments.",
                    },
                },
                "allOf": [
                    {"if": names_target(name, target), "then": self.arguments(key, role, name, target, given)}
                    for name, target in found.items()
                ],
            }
        return {"$ref": f"#/definitions/{key}"}

    def arguments(self, key: str, role: Role, name: str, target: Any, given: tuple[str, ...]) -> Schema:
        """Return the schema of the arguments of a class or function that plays a role."""
        definition = f"{key}:{name}"
        if definition not in self.definitions:
            self.definitions[definition] = {}
            inner = FACTS if role.base is L.LightningModule else ()
            nested = {
                argument: self.node(f"{key}.{argument}", below, inner)
                for argument, below in role.nested.items()
                if below is not PARTS  # the schema `any` is used instead
            }
            node = nested.pop("", None) or self.node("any", ANY, ())
            schema = schema_of(target, node, {*given, *role.reserved_keys}, nested)
            if key == "optimizer":  # Leyden's own argument
                schema["properties"]["groups"] = {"type": "object", "additionalProperties": {"type": "object"}}
            self.definitions[definition] = schema
        return {"$ref": f"#/definitions/{definition}"}


def names_target(name: str, target: Any) -> Schema:
    """Return the schema of a node whose `_target_` is this class or function."""
    return {"required": ["_target_"], "properties": {"_target_": {"enum": sorted({name, *aliases(target)})}}}


def schema_by_example(part: str, *texts: str) -> Schema:
    """Return the schema of a part of the configuration without a class: its keys are those in some files.

    Args:
        part: Key of the part at the root.
        texts: Contents of the files. A value's type is that in the first file that has the key, or null.
    """
    properties: Schema = {}
    for text in texts:
        descriptions = key_comments(text)
        for key, default in ((yaml.safe_load(text) or {}).get(part) or {}).items():
            type_name = TYPE_NAMES.get(type(default))
            schema: Schema = {}
            if default is not None:
                schema = {"anyOf": [{"type": type_name}, {"type": "null"}, LATER], "default": default}
            if f"{part}.{key}" in descriptions:
                schema["description"] = descriptions[f"{part}.{key}"]
            properties[key] = {**schema, **properties.get(key, {})}
            if allowed := CHOICES.get(f"train.{part}.{key}"):
                properties[key]["anyOf"] = [{"enum": [*allowed]}, LATER]
    return {"type": "object", "properties": properties, "additionalProperties": False}


def key_comments(text: str) -> dict[str, str]:
    """Return the comments at the ends of lines by key, for keys at the root and one level below."""
    found: dict[str, str] = {}
    parent = ""
    for indent, key, comment in re.findall(r"^(  )?(\w+):(?:.*?\s# (.*))?", text, re.M):
        parent = parent if indent else key
        if comment:
            found[f"{parent}.{key}" if indent else key] = comment
    return found


def schemas() -> dict[str, Schema]:
    """Return all schemas by file name; a group's name is its folder with dots, such as `callbacks.averaging`."""
    groups = group_files()
    of_groups = {group.replace("/", "."): _group_schema(groups, group) for group in groups}
    return of_groups | {name: _root_schema(groups, name) for name in SCHEMAS}


def _root_schema(groups: Groups, name: str) -> Schema:
    """Return the schema of a root file of `conf/`."""
    document = Document(groups, "")
    return _whole_schema(document, [document.root(name)], _defaults(groups, ""))


def _group_schema(groups: Groups, group: str) -> Schema:
    """Return the schema of a config group's files, whose packages determine where their keys belong."""
    packages = sorted({choice["@package"] for choice in groups[group].values()})
    document = Document(groups, "" if "" in packages else group)
    parts = [document.at(package) for package in packages]
    rules = [parts[0] if len(parts) == 1 else {"anyOf": parts}]
    if "" in packages:
        rules += _rules_by_chosen_file(document, groups, group)
    elif packages[0] in PLACES and not PLACES[packages[0]].named:
        rules += _rules_by_inherited_file(document, groups, group, packages[0])
    return _whole_schema(document, rules, _defaults(groups, group))


def _whole_schema(document: Document, rules: list[Schema], defaults: Schema) -> Schema:
    """Return the complete schema of a file."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {"defaults": defaults},
        "allOf": rules,
        "definitions": document.definitions,
    }


def _defaults(groups: Groups, group: str) -> Schema:
    """Return the schema of a defaults list: files of the same group, and choices of other groups."""
    entries: Schema = {}
    for name, files in groups.items():
        chosen: Schema = {"anyOf": [{"enum": [*files, None]}, {"type": "array", "items": {"enum": [*files]}}]}
        own, library = map(", ".join, choices(name))
        chosen["description"] = f"In conf/: {own or 'none'}. In the library: {library or 'none'}."
        if name.startswith("hydra/"):  # Hydra has files of its own there
            chosen["anyOf"].append({"type": "string"})
        below = name.removeprefix(f"{group}/") if group else name
        for key in (f"/{name}", *([below] if below != name or not group else [])):
            entries |= {key: chosen, f"override {key}": chosen}
    names = {"enum": ["_self_", *groups.get(group, ())]} if group else {"type": "string"}
    patterns: Schema = {"^(optional|override hydra/)|@|\\$\\{": {}}
    other = {"type": "object", "properties": entries, "patternProperties": patterns, "additionalProperties": False}
    return {"type": "array", "items": {"anyOf": [names, other]}}


def _rules_by_inherited_file(document: Document, groups: Groups, group: str, key: str) -> Iterator[Schema]:
    """Yield rules for a group's files: without a `_target_` they inherit it from the defaults list.

    Without a defaults list, all required arguments must be set.
    """
    for name in groups[group]:
        if target := _target(groups, group, name):
            inherits = {"required": ["defaults"], "properties": {"defaults": {"contains": {"const": name}}}}
            yield {"if": inherits, "then": document.default_target(key, target)}
    role, given = PLACES[key].role, PLACES[key].given
    incomplete = {"anyOf": [{"required": ["defaults"]}, {"required": ["_partial_"]}]}
    for name, target in known_targets(document.folder, role).items():
        if names := required_arguments(target, (*given, *role.reserved_keys)):
            yield {"if": {**names_target(name, target), "not": incomplete}, "then": {"required": names}}


def _text(name: str) -> str:
    """Return the text of a config file, the project's or else the library's."""
    return next(path.read_text(encoding="utf-8") for _, path in conf_files(name))


def _rules_by_chosen_file(document: Document, groups: Groups, of: str) -> Iterator[Schema]:
    """Yield rules for files with several parts: a part without a `_target_` has that of the file chosen for it.

    The file is chosen in the defaults list, or else in `conf/train.yaml`.
    """
    usual: dict[str, str] = {}
    for entry in yaml.safe_load((CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]:
        usual |= entry if isinstance(entry, dict) else {}
    for place in PLACES:
        group = place.replace(".", "/")
        keys = [f"{sign}{group}" for sign in ("override /", "/", "override ")]
        inherit_one = {"enum": [name for name in groups[of] if _chooses(groups[of], name, keys)]}
        for name in groups.get(group, ()):
            if target := _target(groups, group, name):
                rule = document.default_target(place, target)
                for part in reversed(place.split(".")):
                    # Another rule suggests the same keys already.
                    rule = {"properties": {part: {**rule, "doNotSuggest": True}}}
                yield {"if": _has_entry([_entry(key, {"const": name}) for key in keys]), "then": rule}
                if usual.get(group) == name:
                    yield {
                        "if": {"not": _has_entry([*(_entry(key, {}) for key in keys), inherit_one])},
                        "then": rule,
                    }


def _chooses(files: Mapping[str, Any], name: str, keys: list[str]) -> bool:
    """Return whether a file, or a file that it inherits, has one of these keys in its defaults list."""
    entries = files[name].get("defaults", ())
    inherited = [entry for entry in entries if isinstance(entry, str) and entry in files]
    return any({*entry} & {*keys} for entry in entries if isinstance(entry, dict)) or any(
        _chooses(files, entry, keys) for entry in inherited
    )


def _entry(key: str, chosen: Schema) -> Schema:
    """Return the schema of an entry of a defaults list."""
    return {"type": "object", "required": [key], "properties": {key: chosen}}


def _has_entry(entries: list[Schema]) -> Schema:
    """Return the schema of a file whose defaults list has one of the entries."""
    return {"required": ["defaults"], "properties": {"defaults": {"contains": {"anyOf": entries}}}}


def _target(groups: Groups, group: str, name: str) -> str | None:
    """Return the `_target_` of a group's file, its own or an inherited one; None if it is not known."""
    content = groups[group].get(name, {})
    node = content
    if not content.get("@package"):
        for part in group.split("/"):
            node = node.get(part) or {}
    if target := node.get("_target_"):
        return None if target == "???" else str(target)
    below = (_target(groups, group, each) for each in content.get("defaults", ()) if each in groups[group])
    return next(filter(None, below), None)

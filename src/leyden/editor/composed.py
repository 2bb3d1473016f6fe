"""What `conf/` makes of the choices that are typed, near enough for a shell: read in milliseconds, without Hydra."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where it is


class Composed:
    """The configuration of a command.

    Args:
        conf: The folder of the YAML files.
        name: Of the file at its root.
        typed: The choices that are typed, by their groups.

    Attributes:
        values: The configuration.
        chosen: The choice of each group that has one; None where it is `null`.
    """

    def __init__(self, conf: Path, name: str, typed: Mapping[str, str]) -> None:
        self.conf = conf
        self.overrides: dict[str, Any] = dict(typed)
        self.files: dict[str, tuple[str, dict[str, Any]]] = {}
        known = -1
        while known < len(self.overrides):  # a file at the end of a list can choose what stands at its beginning
            known = len(self.overrides)
            self.values: dict[str, Any] = {}
            self.chosen: dict[str, Any] = {}
            self._take("", name)
            for group, choice in [*self.overrides.items()]:
                if group not in self.chosen:  # an addition, or a group that Hydra itself has a choice of
                    self._choose(group, choice)

    def groups(self) -> Iterator[str]:
        """The folders that have files to choose."""
        for folder in sorted(path for path in self.conf.rglob("*") if path.is_dir()):
            if any(folder.glob("*.yaml")):
                yield folder.relative_to(self.conf).as_posix()

    def choices(self, group: str) -> list[str]:
        """The files of a group."""
        return sorted(path.stem for path in (self.conf / group).glob("*.yaml"))

    def at(self, key: str) -> Any:
        """The value of a key; None where there is none."""
        node: Any = self.values
        for part in key.split(".") if key else ():
            node = node.get(part) if isinstance(node, dict) else None
        return node

    def _choose(self, group: str, choice: Any) -> None:
        self.chosen[group] = None if choice in (None, "null") else choice
        for name in choice if isinstance(choice, list) else [self.chosen[group]]:
            if name:
                self._take(group, str(name))

    def _take(self, group: str, name: str) -> None:
        """Add what a file holds, and those that stand in its defaults."""
        package, held = self._read(f"{group}/{name}" if group else name, group)
        defaults = held.get("defaults") or []
        for entry in defaults if "_self_" in defaults else [*defaults, "_self_"]:
            if entry == "_self_":
                node = self.values
                for part in package.split(".") if package else ():
                    node = node.setdefault(part, {})
                _merge(node, {key: value for key, value in held.items() if key != "defaults"})
            elif isinstance(entry, str):
                self._take(group, entry)
            else:
                for key, choice in entry.items():
                    below = re.sub("^(override |optional )*|@.*", "", key)
                    below = below[1:] if below.startswith("/") else f"{group}/{below}" if group else below
                    if key.startswith("override "):
                        self.overrides.setdefault(below, choice)
                    else:
                        self._choose(below, self.overrides.get(below, choice))

    def _read(self, name: str, group: str) -> tuple[str, dict[str, Any]]:
        """The package of a file, empty for the root, and what it holds; nothing where there is no such file."""
        if name not in self.files:
            path = self.conf / f"{name}.yaml"
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            held = yaml.load(text, Loader)
            self.files[name] = package_of(text, group), held if isinstance(held, dict) else {}
        return self.files[name]


def package_of(text: str, group: str) -> str:
    """Where the keys of a file land, by its text and its group; empty for the root."""
    header = re.match(r"# *@package +(\S+)", text)
    package = header[1] if header else group.replace("/", ".")
    return "" if package == "_global_" else package


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, dict) else value

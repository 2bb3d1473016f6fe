"""Configurations of many runs, parsed once where they differ in a few plain values, as those of a sweep do."""

import functools
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from leyden.config.paths import current_target
from leyden.config.values import dotted, flatten
from leyden.run.directory import LOADER, RunContents

# Plain scalars that end where they do in any place of a YAML file, and are no integers that `is_plain` refuses.
PLAIN = re.compile(r"[A-Za-z0-9_.+-]{0,28}[A-Za-z0-9_]")
MAX_PARSED = 8  # configurations per number of lines that later ones are compared with


class Base:
    """A flat configuration that those of other runs differ from in a few values.

    Args:
        recorded: Values by key, exactly as recorded.
    """

    def __init__(self, recorded: dict[str, Any]) -> None:
        self.recorded = recorded
        self.values = _with_current_targets(recorded)

    @functools.cached_property
    def content(self) -> str:
        """The recorded values as JSON."""
        return json.dumps(self.recorded)

    @functools.cached_property
    def name(self) -> str:
        """A digest of the content."""
        return digest(self.content)


def digest(content: str) -> str:
    """Return a digest of a text, in hexadecimal digits."""
    return hashlib.sha256(content.encode()).hexdigest()[:32]


class FlatConfig(Mapping[str, Any]):
    """A flat configuration, with targets under the project package's current name.

    Thousands of runs share the values that they have in common.

    Args:
        base: Values of all keys.
        changed: Values that differ from those, and of further keys.

    Example:
        >>> dict(FlatConfig(Base({"seed": 0, "optimizer.lr": 0.1}), {"seed": 3}))
        {'seed': 3, 'optimizer.lr': 0.1}
    """

    __slots__ = ("base", "changed")

    def __init__(self, base: Base, changed: dict[str, Any]) -> None:
        self.base = base.values
        self.changed = _with_current_targets(changed)

    def __getitem__(self, key: str) -> Any:
        return self.changed[key] if key in self.changed else self.base[key]

    def __contains__(self, key: object) -> bool:
        return key in self.changed or key in self.base

    def __iter__(self) -> Iterator[str]:
        return iter({**self.base, **self.changed})

    def __len__(self) -> int:
        return len({**self.base, **self.changed})


def keys_to_compare(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys of mappings, without those that have the same value in all by a base that they share."""
    flat = [config for config in configs if isinstance(config, FlatConfig)]
    bases = {id(config.base): config.base for config in flat}
    if len(flat) < len(configs) or len(bases) != 1:
        return [*dict.fromkeys(key for config in configs for key in config)]
    (base,) = bases.values()
    changed = dict.fromkeys(key for config in flat for key in config.changed)
    return [*(key for key in base if key in changed), *(key for key in changed if key not in base)]


def _with_current_targets(flat: dict[str, Any]) -> dict[str, Any]:
    """Return a flat configuration with each `_target_` under the project package's current name."""
    current = {
        key: current_target(value)
        for key, value in flat.items()
        if (key == "_target_" or key.endswith("._target_")) and isinstance(value, str)
    }
    return {**flat, **current} if current else flat


class ConfigReader:
    """Reads configurations; one that differs from an earlier one only in plain scalars is not parsed as YAML again."""

    def __init__(self) -> None:
        self._parsed: dict[int, list[_Parsed]] = {}  # by number of lines, latest first

    def read(self, run: RunContents) -> tuple[Base, dict[str, Any], dict[str, Any]]:
        """Return a run's configuration: a base, and the recorded flat values that differ from it.

        The last value is the base as nested dictionaries; its `objective` is the run's, too.

        Raises:
            UserError: The directory is not a run directory.
        """
        text = run.config_text
        lines = text.split("\n")
        similar = self._parsed.setdefault(len(lines), [])
        for parsed in similar:
            if (changed := parsed.changes(lines)) is not None:
                return parsed.base, changed, parsed.config
        similar.insert(0, parsed := _Parsed(lines, *run.parse_config(text)))
        del similar[MAX_PARSED:]
        return parsed.base, {}, parsed.config


class _Place(NamedTuple):
    """The place of a scalar in `config.yaml`.

    Args:
        line: Number of its line.
        start: Column of its first character.
        end: Column after its last character.
        key: Its flat key.
        position: Its position, if the value of the key is a list.
    """

    line: int
    start: int
    end: int
    key: str
    position: int | None


class _Parsed:
    """A parsed configuration, with the places of its plain scalars.

    A text that differs only there has the same structure in YAML: a plain scalar of letters, digits, `_`, `.`, `+`
    and `-` ends where the one that it replaces ends.

    Args:
        lines: Lines of `config.yaml`.
        config: The configuration in them.
        node: The YAML node that it was made from.
    """

    def __init__(self, lines: list[str], config: dict[str, Any], node: yaml.Node) -> None:
        self.lines, self.config = lines, config
        self.base = Base(dict(flatten(config)))
        has_other_ends = any("\r" in line or not line.isascii() for line in lines)  # YAML has more than "\n"
        places = [] if has_other_ends else list(_places(node, ()))
        # An alias and a merged key visit a line twice; and of a repeated key, the last one counts.
        nums = Counter(each for place in places for each in (place.line, (place.key, place.position)))
        self._places = {
            place.line: place
            for place in places
            if nums[place.line] == nums[place.key, place.position] == 1 and self._is_plain(place)
        }

    def _is_plain(self, place: _Place) -> bool:
        """Return whether a scalar is plain, and its value is what the same text means by itself."""
        text = self.lines[place.line][place.start : place.end]
        if place.key not in self.base.recorded or not PLAIN.fullmatch(text):
            return False
        value = self.base.recorded[place.key]
        found = value[place.position] if isinstance(value, list) and place.position is not None else value
        return repr(found) == repr(_plain_value(text))

    def changes(self, lines: list[str]) -> dict[str, Any] | None:
        """Return the flat values in which a text differs; None if it differs in more than plain values.

        Args:
            lines: Lines of the text, as many as these.
        """
        changed: dict[str, Any] = {}
        for number, (own, other) in enumerate(zip(self.lines, lines, strict=True)):
            if own == other:
                continue
            place = self._places.get(number)
            if place is None or other[: place.start] != own[: place.start]:
                return None
            end = len(other) - len(own) + place.end
            text = other[place.start : end]
            if other[end:] != own[place.end :] or not PLAIN.fullmatch(text):
                return None
            value = _plain_value(text)
            if (
                value is INVALID
                or place.key.startswith("objective")
                or (place.key == "name" and type(value) is not str)
            ):
                return None
            if place.position is not None:
                values = list(changed.get(place.key, self.base.recorded[place.key]))
                values[place.position] = value
                value = values
            changed[place.key] = value
        return changed


def _places(node: yaml.Node, path: tuple[Any, ...], index: int | None = None) -> Iterator[_Place]:
    """Yield the places of the scalars below a node that are values of text keys."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:str":
                yield from _places(value, (*path, key.value))
    elif isinstance(node, yaml.SequenceNode):
        is_value = all(isinstance(each, yaml.ScalarNode) for each in node.value)
        for number, each in enumerate(node.value):
            yield from _places(each, path if is_value else (*path, number), number if is_value else None)
    else:
        yield _Place(node.start_mark.line, node.start_mark.column, node.end_mark.column, dotted(path), index)


INVALID = object()


@functools.lru_cache(2**14)
def _plain_value(text: str) -> Any:
    """Return the value of a plain YAML scalar; `INVALID` if it is of no type that a configuration may have."""
    try:
        value = yaml.load(text, LOADER)
    except (ValueError, yaml.YAMLError):
        return INVALID
    return value if value is None or isinstance(value, str | int | float) else INVALID

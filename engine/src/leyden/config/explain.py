"""Explanations of wrong overrides, in one or two lines."""

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from leyden.config.errors import UserError, as_line
from leyden.config.paths import choices
from leyden.config.terminal import quoted_override
from leyden.config.values import MAX_DEPTH


def check_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse the overrides of a command line, and check what Hydra would accept or explain badly.

    Raises:
        UserError: An override is refused; the message names it and what to type instead.
    """
    parser, parsed = OverridesParser.create(), []
    for text in overrides:
        key, has_value, value = text.partition("=")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"{text}: holds bytes that are not UTF-8; rename the file or folder")
        if has_value and not key.lstrip("+~").partition("@")[0]:
            raise UserError(f"{text}: no key is before the =; must be KEY=VALUE, such as seed=1")
        if value.lstrip().startswith("zip("):
            raise UserError(f"{text}: write rows of values as sweep.settings=[{{KEY:VALUE,...}},...]")
        if has_value and value == "{}" and not key.startswith("+"):
            raise UserError(f"{text}: changes nothing; {key}=null or ~{key} removes it, {key}.KEY=... sets a key")
        if max(map(value.count, "([{")) > MAX_DEPTH:
            raise UserError(f"{text[:40]}...: is nested too deeply")
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise UserError(_explain_syntax(text, str(error))) from error
        _check_choice(override, text)
        parsed.append(override)
    return parsed


def _check_choice(override: Override, text: str) -> None:
    """Refuse a choice of a group that Hydra reads as a number or null."""
    names = _choices(group := override.key_or_group)
    if not names or override.is_delete() or override.is_sweep_override():
        return
    if not isinstance(override.value(), str | list | dict):
        name = text.partition("=")[2]
        if name in names:
            raise UserError(
                f"{text}: is read as a number or null; quote it: {quoted_override(group, name, quoted=True)}"
            )
        if override.value() is not None:
            raise UserError(f"{text}: no such choice; there are {', '.join(names)}")


def refuse_sweep(overrides: Sequence[Override]) -> None:
    """Refuse the overrides that make a sweep, for a command that is none.

    Raises:
        UserError: There is such an override.
    """
    for override in overrides:
        if override.is_sweep_override():
            text = override.input_line or ""
            key, _, value = text.partition("=")
            raise UserError(
                f"{text}: several values make a sweep, which needs -m; quote a text with a comma: {quoted_override(key, value)}"
            )


def explain(error: Exception) -> str:
    """Return an explanation, in one or two lines, of an error of Hydra or OmegaConf about the configuration."""
    text, cause = str(error).strip(), error.__cause__
    first = text.splitlines()[0] if text else type(error).__name__
    if isinstance(error, MissingConfigException) and error.options is not None and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such choice; there are {_sources(group)}"
    # The class of these two is that of all errors of composition, and only their texts name the override.
    if found := re.search(r"Could not override '(.+)'", text):
        key, within = found[1], getattr(cause, "full_key", None) or ""
        if within.startswith(f"{key}."):  # a key inside a value that is a mapping
            return f"{within}: no such key; +{within}=... adds one"
        if _choices(key):
            return f"{key}: no choice is selected yet; +{key}=CHOICE adds one of {_sources(key)}"
        return f"{key}: no such key{_nearest(key, _known_keys(cause))}"
    if found := re.search(r"Error merging override (.+)", text):
        return f"{found[1]}: {str(cause).splitlines()[0]}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=... must be given; --help lists the keys"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {first}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return f"{first} ({str(cause).splitlines()[0]})" if cause and str(cause) else first
    return as_line(error)


def _explain_syntax(override: str, found: str) -> str:
    override = override.replace("\n", "\\n")
    key, has_value, value = override.partition("=")
    if not has_value:
        return f"{override}: must be key=value"
    strange = "".join(dict.fromkeys(re.findall(r"[^\w.,:/@%+*?|$\[\]{}()\s-]|[^\x00-\x7f]", value)))
    if strange:
        return f"{override}: {strange} must be quoted, in a shell as: {quoted_override(key, value)}"
    return f"{override}: {found.splitlines()[0]}"


def _choices(group: str) -> list[str]:
    """Return the names of a config group's files; empty if there is no such group."""
    group = group.lstrip("+~").partition("@")[0]
    own, library = choices(group) if re.fullmatch(r"\w+(/\w+)*", group) else ([], [])  # no pattern, no other folder
    return [*own, *library]


def _sources(group: str) -> str:
    """Return the choices of a config group, with the folder that each one comes from."""
    own, library = choices(group.lstrip("+~"))
    named = [(own, "in conf/"), (library, "the library's")]
    return " and ".join(f"{', '.join(names)} ({where})" for names, where in named if names)


def _known_keys(cause: BaseException | None) -> list[str]:
    """Return the dotted keys of the configuration in which OmegaConf did not find a key."""
    node = getattr(cause, "parent_node", None)
    if node is None:
        return []
    root: Any = OmegaConf.to_container(node._get_root())  # OmegaConf has no public way from a node to its root
    if not str(getattr(cause, "full_key", "")).startswith("hydra."):
        del root["hydra"]
    return [*_keys(root)]


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all nodes, inner nodes included."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _nearest(key: str, known: Sequence[str]) -> str:
    """Return the end of a message about an unknown key: a suggestion, and the keys beside it."""
    names = [name for name in known if not name.endswith("_")]
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent and name != key]
    if not siblings and f"{parent}._target_" in known:
        return f"; +{key}=... adds one"
    same = [name for name in names if name.endswith(f".{key}")]  # lr for optimizer.lr
    close = difflib.get_close_matches(key, siblings, 1) or same or difflib.get_close_matches(key, names, 1)
    suggestion = f"; did you mean {close[0]}?" if close else ""
    if parent and siblings and f"{parent}._target_" in known:
        suggestion += f"{'' if close else ';'} +{key}=... adds one"
    listing = f"\n{parent or 'the root'} has {', '.join(name.rpartition('.')[2] for name in siblings)}"
    return suggestion + listing * bool(siblings)

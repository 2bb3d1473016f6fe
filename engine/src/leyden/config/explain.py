"""Explanations of wrong overrides, in one or two lines."""

import contextlib
import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from leyden.config.errors import cause_of
from leyden.config.hydra import composing
from leyden.config.paths import choices
from leyden.config.terminal import quoted_override
from leyden.config.values import MAX_DEPTH


def explain(error: Exception, config_name: str, argv: list[str]) -> str:
    """Return an explanation, in one or two lines, of an error caused by the overrides in `argv`."""
    text = str(error).strip()
    detail = str(error.__cause__).splitlines()[0] if error.__cause__ and str(error.__cause__) else ""
    if isinstance(error, MissingConfigException) and (
        found := re.search(r"Could not find '(.+)/(.*)'(?:\n+Available options in '.+':\n((?:\t.+\n?)+))?", text)
    ):
        group, name, _ = found.groups()
        return f"{group}={name}: no such choice; there are {_sources(group)}"
    if type(error) is ValueError and (explanation := _explain_non_text_choice(argv)):
        return explanation
    if isinstance(error, RecursionError) and (deepest := max(argv, key=_num_brackets, default="")):
        return f"{deepest[:40]}...: is nested too deeply" if _num_brackets(deepest) > MAX_DEPTH else text
    if found := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values make a sweep, which needs -m; quote a text with a comma: {quoted_override(key, value)}"
    if found := re.search(r"Could not override '(.+)'", text):
        key = found[1]
        within = getattr(error.__cause__, "full_key", None) or ""
        if within.startswith(f"{key}."):  # a key inside a value that is a mapping
            return f"{within}: no such key; +{within}=... adds one"
        if _choices(key):
            return f"{key}: no choice is selected yet; +{key}=CHOICE adds one of {_sources(key)}"
        return f"{key}: no such key{_nearest(key, _known_keys(error.__cause__))}"
    if found := re.search(r"Error merging override (.+)", text):
        key, _, value = found[1].partition("=")
        if "is not a ListConfig" in detail:
            return f"{found[1]}: must be a list, such as {key}=[{value}]"
        return f"{found[1]}: {detail}"
    if isinstance(error, OverrideParseException):
        return _explain_syntax(str(error.override), text.splitlines()[0])
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=... must be given; --help lists the keys"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    cause = cause_of(error)
    if isinstance(cause, OSError) and cause.filename:
        return f"{cause.filename}: {cause.strerror}: choose another folder by run_dir=... or outputs=..."
    argv = [argument.replace("\n", "\\n") for argument in argv]
    message = text.splitlines()[0] + (f" ({detail})" if detail else "") if text else type(error).__name__
    if not isinstance(error, HydraException | OmegaConfBaseException):  # not caused by an override's syntax or key
        return message
    return next((f"{argument}: {message}" for argument in argv if _is_wrong_alone(config_name, argument)), message)


def _num_brackets(argument: str) -> int:
    return sum(argument.count(bracket) for bracket in "([{")


def _explain_non_text_choice(argv: Sequence[str]) -> str:
    """Return an explanation of a group choice that Hydra parses as a number or null; empty if there is none."""
    for argument in argv:
        group, has_value, name = argument.partition("=")
        choices = _choices(group) if has_value else []
        if not choices:
            continue
        with contextlib.suppress(HydraException):
            override = OverridesParser.create().parse_override(argument)
            if override.is_sweep_override() or isinstance(override.value(), str | list):
                continue
            if name in choices:
                return f"{argument}: is read as a number or null; quote it: {quoted_override(group, name, quoted=True)}"
            return f"{argument}: no such choice; there are {', '.join(choices)}"
    return ""


def _explain_syntax(override: str, found: str) -> str:
    override = override.replace("\n", "\\n")
    key, has_value, value = override.partition("=")
    if not has_value:
        return f"{override}: must be key=value"
    if "Lexer" in found or "parsing" in found:
        strange = "".join(dict.fromkeys(re.findall(r"[^\w.,:/@%+*?|$\[\]{}()\s-]|[^\x00-\x7f]", value))) or value
        return f"{override}: {strange} must be quoted, in a shell as: {quoted_override(key, value)}"
    return f"{override}: {found}"


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


def _is_wrong_alone(config_name: str, argument: str) -> bool:
    """Return whether composing with this argument alone fails."""
    GlobalHydra.instance().clear()
    try:
        with composing():
            hydra.compose(config_name, overrides=[argument])
    except Exception:  # Hydra and OmegaConf raise various types
        return True
    return False


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

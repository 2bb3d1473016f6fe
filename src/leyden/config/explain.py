"""What is wrong with what somebody has typed, in one or two lines."""

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
from leyden.config.paths import CONF
from leyden.config.terminal import quoted_override
from leyden.config.values import MAX_DEPTH


def explain(error: Exception, config_name: str, argv: list[str]) -> str:
    """Say in one or two lines what is wrong with the overrides in `argv`."""
    text = str(error).strip()
    detail = str(error.__cause__).splitlines()[0] if error.__cause__ and str(error.__cause__) else ""
    if isinstance(error, MissingConfigException) and (
        found := re.search(r"Could not find '(.+)/(.*)'(?:\n+Available options in '.+':\n((?:\t.+\n?)+))?", text)
    ):
        group, name, _ = found.groups()
        return f"{group}={name}: no such choice; there are {', '.join(_choices(group))}"
    if type(error) is ValueError and (wrong := _no_name(argv)):
        return wrong
    if isinstance(error, RecursionError) and (deepest := max(argv, key=_num_brackets, default="")):
        return f"{deepest[:40]}...: is nested too deeply" if _num_brackets(deepest) > MAX_DEPTH else text
    if found := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: several values are a sweep, which needs -m; one text with a comma is {quoted_override(key, value)}"
    if found := re.search(r"Could not override '(.+)'", text):
        key = found[1]
        within = getattr(error.__cause__, "full_key", None) or ""
        if within.startswith(f"{key}."):  # of a value that is a mapping
            return f"{within}: no such key; +{within}=... adds one"
        others = [a for a in argv if "=" in a and not a.startswith("-") and not a.lstrip("+~").startswith(key)]
        if names := _choices(key):
            return f"{key}: nothing is chosen there yet; +{key}=CHOICE adds one of {', '.join(names)}"
        return f"{key}: no such key{_nearest(key, [*_keys(_compose(config_name, others))])}"
    if found := re.search(r"Error merging override (.+)", text):
        key, _, value = found[1].partition("=")
        if "is not a ListConfig" in detail:
            return f"{found[1]}: must be a list, as {key}=[{value}]"
        return f"{found[1]}: {detail}"
    if isinstance(error, OverrideParseException):
        return _explain_syntax(str(error.override), text.splitlines()[0])
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}=... must be given; --help lists the keys"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {text.splitlines()[0]}"
    cause = cause_of(error)
    if isinstance(cause, OSError) and cause.filename:
        return f"{cause.filename}: {cause.strerror}: choose another place by run_dir=... or outputs=..."
    argv = [argument.replace("\n", "\\n") for argument in argv]
    said = text.splitlines()[0] + (f" ({detail})" if detail else "") if text else type(error).__name__
    if not isinstance(
        error, HydraException | OmegaConfBaseException
    ):  # it is of what was made, not of what was typed
        return said
    return next((f"{argument}: {said}" for argument in argv if _fails(config_name, argument)), said)


def _num_brackets(argument: str) -> int:
    return sum(argument.count(bracket) for bracket in "([{")


def _no_name(argv: Sequence[str]) -> str:
    """What is wrong with the choice of a group that Hydra reads as a number or as null; empty if there is none."""
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
                return f"{argument}: is read as no text; the choice of that name is {quoted_override(group, name, quoted=True)}"
            return f"{argument}: no such choice; there are {', '.join(choices)}"
    return ""


def _explain_syntax(override: str, found: str) -> str:
    override = override.replace("\n", "\\n")
    key, has_value, value = override.partition("=")
    if not has_value:
        return f"{override}: must be key=value"
    if "Lexer" in found or "parsing" in found:
        strange = "".join(dict.fromkeys(re.findall(r"[^\w.,:/@%+*?|$\[\]{}()\s-]|[^\x00-\x7f]", value))) or value
        return f"{override}: {strange} must stand in quotes, in the shell so: {quoted_override(key, value)}"
    return f"{override}: {found}"


def _choices(group: str) -> list[str]:
    """The YAMLs of a group; none where there is no such group."""
    return sorted(path.stem for path in (CONF / group.lstrip("+~")).glob("*.yaml"))


def _fails(config_name: str, argument: str) -> bool:
    """Whether an argument is wrong by itself."""
    try:
        _compose(config_name, [argument], or_without=False)
    except Exception:  # whatever Hydra and OmegaConf raise for it
        return True
    return False


def _compose(config_name: str, overrides: list[str], *, or_without: bool = True) -> Any:
    GlobalHydra.instance().clear()
    with composing():
        try:
            cfg = hydra.compose(config_name, overrides=overrides)
        except (HydraException, ValueError):  # another of the overrides is wrong, too
            if not or_without:
                raise
            cfg = hydra.compose(config_name)
    return OmegaConf.to_container(cfg)


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _nearest(key: str, known: Sequence[str]) -> str:
    names = [name for name in known if not name.endswith("_")]
    parent = key.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent and name != key]
    if not siblings and f"{parent}._target_" in known:
        return f"; +{key}=... adds one"
    same = [name for name in names if name.endswith(f".{key}")]  # lr for optimizer.lr
    close = difflib.get_close_matches(key, siblings, 1) or same or difflib.get_close_matches(key, names, 1)
    meant = f"; did you mean {close[0]}?" if close else ""
    there = f"\n{parent or 'the root'} has {', '.join(name.rpartition('.')[2] for name in siblings)}"
    return meant + there * bool(siblings)

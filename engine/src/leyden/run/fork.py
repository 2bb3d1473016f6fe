"""Forks: runs that start from the exact state of a parent run, and inherit its choices of config files.

The parent's directory is untrusted, so its overrides are not parsed. An override is inherited only if it equals,
letter by letter, a choice of a file in `conf/`. All other settings are inherited as values
(`assembly/inherited.py`).
"""

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from leyden.config.errors import UserError
from leyden.config.hydra import composed_choices, composed_values
from leyden.config.paths import conf_files
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.run.directory import RunContents
from leyden.run.identity import CONTROL_KEYS
from leyden.run.record import RECORD


def parse_fork(text: str) -> tuple[RunContents, str]:
    """Parse a value of `fork` into the parent run and the name of its checkpoint.

    Example:
        >>> [parse_fork(text)[1] for text in ("outputs/a", "outputs/a@3", "outputs/a@step_900")]
        ['last', 'epoch_3', 'step_900']
    """
    directory, _, name = text.rpartition("@")
    if re.fullmatch("[1-9][0-9]*", name):
        name = f"epoch_{name}"
    if not directory or not re.fullmatch("last|best|(epoch|step)_[0-9]+", name):
        directory, name = text, "last"
    return RunContents(directory), name


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.lstrip("+~").partition("=")[0]


@functools.cache
def group_choices() -> dict[str, str]:
    """Return the overrides that choose a file in `conf/`, with their groups.

    For example `{"model=cnn": "model", "+model=cnn": "model", …}`. Groups that control where and how a run is
    started, and its loggers, are left out.
    """
    found: dict[str, str] = {}
    for name, path in conf_files():
        group = name.parent.as_posix()
        if group.split("/")[0] not in (".", "hydra", "logger", *CONTROL_KEYS):
            found |= {f"{plus}{group}={path.stem}": group for plus in ("", "+")}
    return found


def settings_source(fork: str, run_dir: Path) -> RunContents:
    """Return the run whose settings a fork inherits: the fork itself if it was started before, else its parent."""
    return RunContents(run_dir) if (run_dir / RECORD).exists() else parse_fork(fork)[0]


def parent_groups(source: RunContents) -> list[str]:
    """Return the overrides with which a parent run chose files in `conf/`.

    Raises:
        UserError: The parent can't be read.
    """
    # The last start repeats the overrides of the first one, and may add some.
    found: dict[str, str] = {}  # by group; of several choices the last one is used
    for override in (
        each for start in source.starts[-1:] for each in start["overrides"] if each in group_choices()
    ):
        found.pop(group := group_choices()[override], None)
        found[group] = override
    return [*found.values()]


def inherit_groups(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments, extended for a fork by its parent's choices of files in `conf/`.

    A group on the command line replaces the parent's choice. `inherit_settings` handles all other settings.

    Raises:
        UserError: A parent can't be read, or several parents have different choices.
    """
    typed = next((each for each in arguments if key_of(each) == "fork" and each[0] != "~"), None)
    if typed is None:
        return list(arguments)
    try:
        parsed = OverridesParser.create().parse_override(typed)
        values: list[Any] = list(parsed.sweep_iterator()) if parsed.is_sweep_override() else [parsed.value()]
    except (HydraException, ValueError):
        return list(arguments)  # Hydra will report the error
    if not all(isinstance(value, str) and value for value in values):
        return list(arguments)
    run_dir = Path(next((each.partition("=")[2] for each in arguments if each.startswith("run_dir=")), ""))
    sources = [settings_source(value, run_dir) for value in values]
    own = {key_of(each) for each in arguments}
    groups_of_each = [[each for each in parent_groups(source) if key_of(each) not in own] for source in sources]
    for source, groups in zip(sources, groups_of_each, strict=True):
        if {*groups} != {*groups_of_each[0]}:
            (odd, *_) = sorted({*groups} ^ {*groups_of_each[0]})
            raise UserError(
                f"fork: {odd} was set for only one of {sources[0].directory} and {source.directory}; "
                "sweep over them one by one, or set it"
            )
    if any(source.directory.exists() for source in sources):
        added = {key_of(each) for source in sources for each in parent_groups(source) if each.startswith("+")}
        arguments = [
            f"+{each}" if each in group_choices() and key_of(each) in added and each[0] != "+" else each
            for each in arguments
        ]
        files = [each for each in arguments if each in group_choices()]
        known = composed_values([*groups_of_each[0], *files])
        arguments = [_with_plus(each, sources, known) for each in arguments]
        chosen = composed_choices(parent_groups(sources[0]))
        for each in files:
            if chosen.get(group_choices()[each]) == each.partition("=")[2]:
                warn(f"fork: the parent uses {each} already; the parent's values are kept unless you override them")
    # Absolute paths, valid whatever a job's working directory.
    fork = f"fork={','.join(_quoted(str(Path(value).absolute())) for value in values)}"
    # The inherited choices come before the user's overrides, which can change parts of them.
    position = next(n for n, each in enumerate(arguments) if "=" in each and not each.startswith("-"))
    arguments = [fork if each == typed else each for each in arguments]
    return [*arguments[:position], *groups_of_each[0], *arguments[position:]]


def _with_plus(argument: str, sources: Sequence[RunContents], known: Mapping[str, Any]) -> str:
    """Return an override, with a plus if its key exists in a parent's configuration but not in `conf/`."""
    key, has_value, _ = argument.partition("=")
    if not has_value or argument[0] in "+~-" or argument in group_choices():
        return argument
    parent_keys = [name for source in sources for name in dict(flatten(source.config))]
    in_conf, in_parents = (
        any(name == key or name.startswith(f"{key}.") for name in names) for names in (known, parent_keys)
    )
    return f"+{argument}" if in_parents and not in_conf else argument


def _quoted(text: str) -> str:
    """Return a text as a Hydra value, quoted if necessary."""
    return text if re.fullmatch(r"[A-Za-z0-9_./@-]+", text) else QuotedString(text, Quote.double).with_quotes()

"""A run that starts from the exact state of another one, its parent: which, and by which files of `conf/` that was composed.

Anybody may have made the parent's directory. Nothing of its text is parsed: an override counts only where it is, letter
by letter, the choice of a file that `conf/` has. All other settings are taken over as values (`assembly/inherited.py`).
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
from leyden.config.paths import CONF
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.run.directory import RunContents
from leyden.run.identity import CONTROL


def point(text: str) -> tuple[RunContents, str]:
    """The parent that a value of `fork` names, and the name of its checkpoint.

    Example:
        >>> [point(text)[1] for text in ("outputs/a", "outputs/a@3", "outputs/a@step_900")]
        ['last', 'epoch_3', 'step_900']
    """
    directory, _, name = text.rpartition("@")
    if re.fullmatch("[1-9][0-9]*", name):
        name = f"epoch_{name}"
    if not directory or not re.fullmatch("last|best|(epoch|step)_[0-9]+", name):
        directory, name = text, "last"
    return RunContents(directory), name


def key_of(override: str) -> str:
    """Return the key that an override is about."""
    return override.lstrip("+~").partition("=")[0]


@functools.cache
def group_choices() -> dict[str, str]:
    """Each choice of a file in `conf/` as it is typed, with its group: `{"model=cnn": "model", "+model=cnn": "model", …}`.

    Groups that say where and how a run starts, and what logs it, are left out.
    """
    found: dict[str, str] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        group = path.parent.relative_to(CONF).as_posix()
        if group.split("/")[0] not in (".", "hydra", "logger", *CONTROL):
            found |= {f"{plus}{group}={path.stem}": group for plus in ("", "+")}
    return found


def settings_source(fork: str, run_dir: Path) -> RunContents:
    """Return the directory that a fork takes its settings from: its own, if it has begun, else its parent's."""
    has_begun = all((run_dir / name).exists() for name in ("config.yaml", "provenance.json"))
    return RunContents(run_dir) if has_begun else point(fork)[0]


def parent_groups(source: RunContents) -> list[str]:
    """Return the choices of files in `conf/` that a parent was composed by, as they were typed.

    Raises:
        UserError: The parent can't be read.
    """
    # The last start repeats what was typed at the first one, and may go further.
    found: dict[str, str] = {}  # by group: of several choices the last one holds
    for override in (
        each for start in source.starts[-1:] for each in start["overrides"] if each in group_choices()
    ):
        found.pop(group := group_choices()[override], None)
        found[group] = override
    return [*found.values()]


def inherit_groups(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of a command that names a fork, with the files of `conf/` that its parent was composed by.

    What is typed for a group takes the place of the parent's choice. All else follows in `inherit_settings`.

    Raises:
        UserError: A parent can't be read; or of several, each was composed by other files.
    """
    typed = next((each for each in arguments if key_of(each) == "fork" and each[0] != "~"), None)
    if typed is None:
        return list(arguments)
    try:
        parsed = OverridesParser.create().parse_override(typed)
        values: list[Any] = list(parsed.sweep_iterator()) if parsed.is_sweep_override() else [parsed.value()]
    except (HydraException, ValueError):
        return list(arguments)  # Hydra will say what is wrong with it
    if not all(isinstance(value, str) and value for value in values):
        return list(arguments)
    run_dir = Path(next((each.partition("=")[2] for each in arguments if each.startswith("run_dir=")), ""))
    sources = [settings_source(value, run_dir) for value in values]
    own = {key_of(each) for each in arguments}
    of_each = [[each for each in parent_groups(source) if key_of(each) not in own] for source in sources]
    for source, groups in zip(sources, of_each, strict=True):
        if {*groups} != {*of_each[0]}:
            (odd, *_) = sorted({*groups} ^ {*of_each[0]})
            raise UserError(
                f"fork: {odd} was typed for one of {sources[0].directory} and {source.directory}, not for the other; "
                "sweep over them one by one, or type it"
            )
    if any(source.directory.exists() for source in sources):
        added = {key_of(each) for source in sources for each in parent_groups(source) if each.startswith("+")}
        arguments = [
            f"+{each}" if each in group_choices() and key_of(each) in added and each[0] != "+" else each
            for each in arguments
        ]
        files = [each for each in arguments if each in group_choices()]
        known = composed_values([*of_each[0], *files])
        arguments = [_added(each, sources, known) for each in arguments]
        chosen = composed_choices(parent_groups(sources[0]))
        for each in files:
            if chosen.get(group_choices()[each]) == each.partition("=")[2]:
                warn(
                    f"fork: {each} is the parent's already: its values stay as they were there, unless you type them"
                )
    # Paths that hold wherever a job starts.
    fork = f"fork={','.join(_quoted(str(Path(value).absolute())) for value in values)}"
    # Before all that is typed, which can change a part of it.
    place = next(n for n, each in enumerate(arguments) if "=" in each and not each.startswith("-"))
    here = [fork if each == typed else each for each in arguments]
    return [*here[:place], *of_each[0], *here[place:]]


def _added(argument: str, sources: Sequence[RunContents], known: Mapping[str, Any]) -> str:
    """Return an argument with a plus if it sets what a parent has and `conf/` has not: it is typed as any other key."""
    key, has_value, _ = argument.partition("=")
    if not has_value or argument[0] in "+~-" or argument in group_choices():
        return argument
    of_parents = [name for source in sources for name in dict(flatten(source.config))]
    has = [any(name == key or name.startswith(f"{key}.") for name in names) for names in (known, of_parents)]
    return f"+{argument}" if has == [False, True] else argument


def _quoted(text: str) -> str:
    """A value as Hydra takes it, with quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z0-9_./@-]+", text) else QuotedString(text, Quote.double).with_quotes()

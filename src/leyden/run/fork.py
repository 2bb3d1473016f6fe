"""A run that starts from the exact state of another one, its parent, with what that was given and changed values."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from leyden.config.mistakes import UserError
from leyden.config.values import flatten
from leyden.run.choices import CONTROL, PLACES, deciding
from leyden.run.contents import RunContents

SEEDS = {"seed", "data.seed", "sweep.seeds"}
SPLIT = "data.split_seed"  # by which the validation split is cut


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


# A key that can come from a directory which anybody may have made: no option of Hydra's, and nothing of its own configuration.
KEY = re.compile(r"[+~]{0,2}(?!hydra)[A-Za-z_][\w./@-]*", re.ASCII)


def key_of(override: str) -> str:
    """The key that an override is about."""
    return override.lstrip("+~").partition("=")[0]


def taken_over(parent: RunContents) -> dict[str, str]:
    """What a parent was given, by key, as it is given to a fork: a path that was relative is absolute.

    Raises:
        UserError: The parent can't be read, or does not say.
    """
    config = dict(flatten(parent.config))
    if not (starts := parent.starts):
        raise UserError(f"fork={parent.directory}: has no provenance.json, which tells what it was given")
    # What steers a start, or only watches, is the fork's own affair; a place is none of these.
    own = ({*config} - {*deciding(config), *PLACES}) | {"fork"}
    # The last start repeats what was given at the first one, and may go further.
    given = {key_of(each): each for each in starts[-1]["overrides"]}
    ours = {*CONTROL, "name", "logger"}
    kept = {key: each for key, each in given.items() if key.split(".")[0] not in ours and key not in own}
    for key, override in kept.items():
        meant = config.get(key)
        if isinstance(meant, str) and Path(meant).is_absolute():
            kept[key] = f"{override.partition('=')[0]}={_quoted(meant)}"
    return kept


def check_given(parent: RunContents, overrides: Sequence[str]) -> None:
    """Make sure that a fork was given what its parent was, or something else instead.

    Raises:
        UserError: It was not: `fork` does not come from the command line.
    """
    own = {key_of(each) for each in overrides}
    if lacking := [each for key, each in taken_over(parent).items() if key not in own]:
        raise UserError(
            f"fork: {parent.directory} was given {lacking[0]}, this run was not; type fork=... yourself"
        )


def inherit(arguments: Sequence[str]) -> list[str]:
    """Arguments of the command line, where those name a fork: with what its parent was given, unless they say otherwise.

    Of several parents what differs between them goes with each, as the rows of a zip.

    Raises:
        UserError: A parent can't be read, or parents were not given the same keys.
    """
    typed = next((each for each in arguments if each.startswith("fork=")), None)
    if typed is None:
        return list(arguments)
    try:
        parsed = OverridesParser.create().parse_override(typed)
        values: list[Any] = list(parsed.sweep_iterator()) if parsed.is_sweep_override() else [parsed.value()]
    except (HydraException, ValueError):
        return list(arguments)  # Hydra will say what is wrong with it
    if not all(isinstance(value, str) and value for value in values):
        return list(arguments)
    points = [str(Path(value).absolute()) for value in values]
    parents = [_giving(each, arguments) for each in points]
    own = {key_of(each) for each in arguments}
    taken = [taken_over(parent) for parent in parents]
    # A key that a parent was given by a plus is one that `conf/` does not have; here it is typed as any other.
    added = {key for each in taken for key, override in each.items() if override.startswith("+")}
    arguments = [f"+{each}" if key_of(each) in added and each[0] not in "+~" else each for each in arguments]
    given = [{key: each for key, each in all_of_it.items() if key not in own} for all_of_it in taken]
    if own & SEEDS:  # what the parent was trained on stays in the training split
        for parent, each in zip(parents, given, strict=True):
            cut = dict(flatten(parent.config)).get(SPLIT)
            if isinstance(cut, int) and SPLIT not in own:
                each.setdefault(SPLIT, f"{SPLIT}={cut}")
    for parent, each in zip(parents, given, strict=True):
        _check_trust(parent, each.values())
    for key in dict.fromkeys(key for each in given for key in each):
        for parent, each in zip(parents, given, strict=True):
            if key not in each:
                each[key] = _as_configured(parent, key)
    first = given[0]
    same = [each for key, each in first.items() if all(other[key] == each for other in given)]
    apart = [key for key in first if first[key] not in same]
    fork = f"fork={','.join(map(_quoted, points))}"
    if apart:
        columns = {
            "fork": [*map(_quoted, points)],
            **{first[key].partition("=")[0]: [each[key].partition("=")[2] for each in given] for key in apart},
        }
        members = (f"{key}=choice({','.join(column)})" for key, column in columns.items())
        fork = f"forks=zip({','.join(members)})"
    # Before all that is typed, which can change a part of it.
    place = next(n for n, each in enumerate(arguments) if "=" in each and not each.startswith("-"))
    here = [fork if each == typed else each for each in arguments]
    return [*here[:place], *same, *here[place:]]


def _check_trust(parent: RunContents, overrides: Iterable[str]) -> None:
    """Make sure that what a parent was given sets plain values and chooses files of `conf/`: anybody may have written it.

    Raises:
        UserError: It could make anything, or lead anywhere.
    """
    for override in overrides:
        key, _, value = override.partition("=")
        path = Path(value.strip("\"'"))
        leads = not KEY.fullmatch(key) or ".." in override or (path.is_absolute() and not path.exists())
        if leads or "_target_" in override or "${" in override:
            raise UserError(
                f"fork: {parent.directory} was given {override}, which is not taken over, as it could make anything or lead "
                "anywhere; type it, or something else for its key"
            )


def _giving(fork: str, arguments: Sequence[str]) -> RunContents:
    """What says what a fork is given: its parent; where that is gone, the fork itself, which has begun."""
    parent, _ = point(fork)
    run_dir = next((each.partition("=")[2] for each in arguments if each.startswith("run_dir=")), "")
    begun = RunContents(run_dir) if run_dir and (Path(run_dir) / "provenance.json").exists() else parent
    return parent if (parent.directory / "config.yaml").exists() else begun


def _as_configured(parent: RunContents, key: str) -> str:
    """What a parent would have been given for a key, which it was not, to be as it is.

    Raises:
        UserError: That can't be told by one value.
    """
    value = dict(flatten(parent.config)).get(key)
    if isinstance(value, bool | int | float):
        return f"{key}={str(value).lower()}"
    raise UserError(
        f"fork: {key} was given to some of the parents, not to {parent.directory}; sweep over them one by one"
    )


def _quoted(text: str) -> str:
    """A value as Hydra takes it, with quotes where it needs them."""
    return text if re.fullmatch(r"[A-Za-z0-9_./@-]+", text) else QuotedString(text, Quote.double).with_quotes()

"""Arguments of the commands that Hydra does not configure."""

import math
import sys
from collections.abc import Mapping
from pathlib import Path

from leyden.base.errors import Exit, UserError, leave


def parse_arguments(
    usage: str | None, defaults: Mapping[str, str], max_folders: int
) -> tuple[list[Path], dict[str, str]]:
    """Parse `sys.argv` into folders and options; for `--help`, print the usage and exit.

    Args:
        usage: Text for `--help`, the docstring of the command's module.
        defaults: Default value of each option.
        max_folders: Largest allowed number of folders.

    Raises:
        UserError: An argument is unknown, an option is repeated, or there are too many folders.
    """
    arguments = sys.argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print((usage or "").rstrip())
        leave(Exit.DONE)
    folders: list[Path] = []
    options = dict(defaults)
    given = set()
    allowed = ", ".join(f"{key}=" for key in defaults)
    kinds = f"one of {allowed}"
    if max_folders:
        kinds = f"a folder, or {kinds}"
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if sign and key in defaults:
            if key in given:
                raise UserError(f"{argument}: {key} is given twice")
            given.add(key)
            options[key] = value
            continue
        is_unknown_key = sign and not Path(argument).exists()
        if argument.startswith("-") or is_unknown_key or not max_folders:
            raise UserError(f"{argument}: must be {kinds}")
        folders.append(Path(argument))
    if len(folders) > max_folders:
        most = "1 folder" if max_folders == 1 else f"{max_folders} folders"
        raise UserError(f"{folders[max_folders]}: at most {most} can be given, and {allowed}")
    return folders, options


def parse_choice(options: Mapping[str, str], key: str, *allowed: str) -> str:
    """Return the value of an option, which must be one of `allowed`.

    Raises:
        UserError: The value is not allowed.
    """
    if options[key] not in allowed:
        raise UserError(f"{key}={options[key]}: must be one of {', '.join(allowed)}")
    return options[key]


def parse_flag(options: Mapping[str, str], key: str) -> bool:
    """Return the value of an option that is `true` or `false`."""
    return parse_choice(options, key, "true", "false") == "true"


def parse_list(options: Mapping[str, str], key: str) -> list[str]:
    """Return the words of an option such as `[a,b]`; its brackets may be missing."""
    words = options[key].removeprefix("[").removesuffix("]").split(",")
    return [word.strip() for word in words]


def parse_number(options: Mapping[str, str], key: str) -> int | None:
    """Return the value of an option that is a positive integer; None if the option is not given.

    Raises:
        UserError: The value is not a positive integer.
    """
    text = options[key]
    if not text:
        return None
    is_whole = text.isascii() and text.isdecimal() and len(text) < 19
    if not is_whole or int(text) == 0:
        raise UserError(f"{key}={text}: must be a positive whole number")
    return int(text)


def parse_size(options: Mapping[str, str], key: str) -> float:
    """Return the value of an option that is a number, 0 or larger.

    Raises:
        UserError: The value is not such a number.
    """
    try:
        number = float(options[key])
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise UserError(f"{key}={options[key]}: must be a positive number")
    return number

"""Command-line arguments of the verbs without Hydra: folders, and options such as `sort=age`."""

import contextlib
import gc
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from leyden.config.errors import Exit, UserError, leave


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector, which searches the records of thousands of runs for garbage over and over."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def parse_arguments(usage: str, defaults: Mapping[str, str], max_folders: int) -> tuple[list[Path], dict[str, str]]:
    """Parse `sys.argv` into folders and options; for `--help`, print the usage and exit.

    Args:
        usage: Text for `--help`.
        defaults: Default value of each option.
        max_folders: Largest allowed number of folders.

    Raises:
        UserError: An argument is unknown, an option is repeated, or there are too many folders.
    """
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(usage)
        leave(Exit.DONE)
    folders: list[Path] = []
    options: dict[str, str] = {}
    allowed = ", ".join(f"{key}=" for key in defaults)
    kinds = f"a folder, or one of {allowed}" if max_folders else f"one of {allowed}"
    for argument in sys.argv[1:]:
        key, sign, value = argument.partition("=")
        if sign and key in defaults:
            if key in options:
                raise UserError(f"{argument}: {key} is given twice")
            options[key] = value
        elif argument.startswith("-") or (sign and not Path(argument).exists()) or not max_folders:
            raise UserError(f"{argument}: must be {kinds}")
        else:
            folders.append(Path(argument))
    if len(folders) > max_folders:
        raise UserError(
            f"{folders[max_folders]}: at most {max_folders} folder{'s' * (max_folders > 1)} can be given, and {allowed}"
        )
    return folders, {**defaults, **options}


def parse_choice(options: Mapping[str, str], key: str, *allowed: str) -> str:
    """Return the value of an option, which must be one of `allowed`.

    Raises:
        UserError: The value is not allowed.
    """
    if options[key] not in allowed:
        raise UserError(f"{key}={options[key]}: must be one of {', '.join(allowed)}")
    return options[key]


def parse_number(options: Mapping[str, str], key: str) -> int | None:
    """Return the value of an option that is a positive integer; None if the option is not given.

    Raises:
        UserError: The value is not a positive integer.
    """
    text = options[key]
    if text and not (text.isascii() and text.isdecimal() and int(text)):
        raise UserError(f"{key}={text}: must be a positive whole number")
    return int(text) if text else None


def parse_size(options: Mapping[str, str], key: str) -> float:
    """Return the value of an option that is a number, 0 or larger.

    Raises:
        UserError: The value is not such a number.
    """
    try:
        if 0 <= (number := float(options[key])) < math.inf:
            return number
    except ValueError:
        pass
    raise UserError(f"{key}={options[key]}: must be a positive number")

"""The command line of verbs that Hydra does not configure: folders, and options as `sort=age`."""

import contextlib
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from leyden.config.errors import UserError
from leyden.config.terminal import warn


@contextlib.contextmanager
def exit_on_user_error() -> Iterator[None]:
    """End a verb whose user has made a mistake by a line and exit code 2."""
    try:
        yield
    except (UserError, OSError) as error:
        warn(str(error))
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def parse_arguments(usage: str, defaults: Mapping[str, str], most: int) -> tuple[list[Path], dict[str, str]]:
    """The folders and the options that were typed; `--help` prints how they are typed, and ends.

    Args:
        usage: Is printed.
        defaults: The options with their values where they are not typed.
        most: How many folders there can be; 0 for none.

    Raises:
        UserError: There is something else, an option twice, or a folder too many.
    """
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(usage)
        raise SystemExit
    folders: list[Path] = []
    options: dict[str, str] = {}
    allowed = ", ".join(f"{key}=" for key in defaults)
    kinds = f"a folder, or one of {allowed}" if most else f"one of {allowed}"
    for argument in sys.argv[1:]:
        key, sign, value = argument.partition("=")
        if sign and key in defaults:
            if key in options:
                raise UserError(f"{argument}: {key} stands there twice")
            options[key] = value
        elif argument.startswith("-") or (sign and not Path(argument).exists()) or not most:
            raise UserError(f"{argument}: must be {kinds}")
        else:
            folders.append(Path(argument))
    if len(folders) > most:
        raise UserError(f"{folders[most]}: there can be {most} folder{'s' * (most > 1)}, and {allowed}")
    return folders, {**defaults, **options}


def parse_choice(options: Mapping[str, str], key: str, *allowed: str) -> str:
    """The value of an option that must be one of some.

    Raises:
        UserError: It is none of them.
    """
    if options[key] not in allowed:
        raise UserError(f"{key}={options[key]}: must be one of {', '.join(allowed)}")
    return options[key]


def number(options: Mapping[str, str], key: str) -> int | None:
    """The value of an option that is a positive whole number; None where it is not given.

    Raises:
        UserError: It is something else.
    """
    text = options[key]
    if text and not (text.isascii() and text.isdecimal() and int(text)):
        raise UserError(f"{key}={text}: must be a positive whole number")
    return int(text) if text else None

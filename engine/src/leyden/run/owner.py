"""Whose run it is: a user's key, and the signatures of what they have recorded.

The key is a file in the user's configuration folder, made at first use, or the environment variable
`LEYDEN_KEY`. What a record names is composed, imported and executed only if it was signed with this
key, or if the user says `trust=true`.
"""

import functools
import hmac
import os
import secrets
import shlex
from pathlib import Path

from leyden.base.terminal import reason_of, warn
from leyden.exact.files import opened

KEY = "LEYDEN_KEY"
MIN_CHARACTERS = 32  # of a key
MAX_KEY_BYTES = 2**16


@functools.cache
def key() -> str:
    """Return this user's key, made at first use.

    Empty, with a line, if it can't be read or made.
    """
    place = KEY
    advice = f"{KEY}=TEXT sets a key"
    try:
        text = os.environ.get(KEY, "").strip()
        if text:
            return _long_enough(text)
        path = _configuration() / "leyden" / "key"
        place = str(path)
        if not path.exists():
            _make_key(path)
        with opened(path, follow=True) as file:  # a link to a file of the user's own is usual
            others = os.fstat(file.fileno()).st_mode & 0o077
            if others and os.name == "posix":
                advice = f"chmod 600 {shlex.quote(place)}"
                raise ValueError(f"is open to others (mode {others:03o})")
            content: bytes = file.read(MAX_KEY_BYTES)
        return _long_enough(content.decode().strip())
    except (OSError, ValueError, RuntimeError) as error:  # the last where no home is known
        why = reason_of(error)
        warn(f"{place}: {why}: runs are not signed, and using them needs trust=true; {advice}")
        return ""


def _configuration() -> Path:
    """Return the folder of the user's settings."""
    given = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if given.is_absolute():  # as the XDG specification demands
        return given
    return Path.home() / ".config"


def _long_enough(text: str) -> str:
    text.encode()  # UTF-8
    if len(text) < MIN_CHARACTERS:
        raise ValueError(f"has fewer than {MIN_CHARACTERS} characters")
    return text


def _make_key(path: Path) -> None:
    """Write a new key, readable by this user alone; of several processes, one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(secrets.token_hex(MIN_CHARACTERS))
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    except OSError:  # no links on this file system
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123
            file.write(new.read_bytes())
    finally:
        new.unlink(missing_ok=True)


def signature(text: str) -> str:
    """Return the signature of a text; empty without a key."""
    if not key():
        return ""
    return hmac.new(key().encode(), text.encode(), "sha256").hexdigest()


def is_own(text: str, signed: str) -> bool:
    """Return whether a text was signed with this user's key."""
    if not key():
        return False
    return hmac.compare_digest(signature(text).encode(), signed.encode(errors="replace"))

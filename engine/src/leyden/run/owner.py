"""Whose run it is: a record is signed with its owner's key.

The key is a file in the user's configuration folder, made at first use, or the environment variable `LEYDEN_KEY`. What
a record names is composed, imported and executed only if it was signed with this key, or if the user says `trust=true`.
"""

import functools
import hmac
import os
import secrets
from pathlib import Path

from leyden.config.terminal import warn
from leyden.run.files import read_text

KEY = "LEYDEN_KEY"
MIN_CHARACTERS = 32


@functools.cache
def key() -> str:
    """Return this user's key, made at first use; empty, with a line, if it can't be read or made."""
    path: Path | str = KEY
    try:
        if text := os.environ.get(KEY, "").strip():
            return _checked(text)
        given = Path(os.environ.get("XDG_CONFIG_HOME", ""))  # counts if it is absolute, by the XDG specification
        path = (given if given.is_absolute() else Path.home() / ".config") / "leyden" / "key"
        if not path.exists():
            _make(path)
        return _checked(read_text(path).strip())
    except (OSError, ValueError, RuntimeError) as error:  # the last one where no home directory is known
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        warn(
            f"{path or 'the key'}: {why}: runs are not signed, and using them needs trust=true; {KEY}=TEXT sets a key"
        )
        return ""


def _checked(text: str) -> str:
    text.encode()  # UTF-8
    if len(text) < MIN_CHARACTERS:
        raise ValueError(f"has fewer than {MIN_CHARACTERS} characters")
    return text


def _make(path: Path) -> None:
    """Write a new key, readable by this user alone; of several processes that do so, one succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(secrets.token_hex(MIN_CHARACTERS))
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    except OSError:  # no links on this file system
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(new.read_bytes())
    finally:
        new.unlink(missing_ok=True)


def signature(text: str) -> str:
    """Return the signature of a text; empty without a key."""
    return hmac.new(key().encode(), text.encode(), "sha256").hexdigest() if key() else ""


def is_own(text: str, signed: str) -> bool:
    """Return whether a text was signed with this user's key."""
    return bool(key()) and hmac.compare_digest(signature(text).encode(), signed.encode(errors="replace"))

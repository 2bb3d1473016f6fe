"""The record of a run, `run.json`: its result, its configuration and its starts.

It is written as a whole at each start and at the end, and is all that other commands know of a run; `config.yaml` is for
people. It is signed with its owner's key: a file in the user's configuration folder, made at first use, or the environment
variable `LEYDEN_KEY`. What a record names is composed, imported and executed only if it was signed with this key, or if the
user says `trust=true`.
"""

import functools
import hashlib
import hmac
import json
import operator
import os
import secrets
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from leyden.config.doors import renamed
from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.config.values import dict_at, flatten
from leyden.exact.files import opened, read_bounded
from leyden.run.files import MAX_JSON_BYTES, MAX_VALUES, num_values, parse_json, write_whole
from leyden.run.result import Result

RECORD = "run.json"
EARLIER = "provenance.json"  # of a run from before there was `run.json`
OF_EARLIER = "of an earlier Leyden, which had no run.json; commit 521ae194 of Leyden reads it"
KEY = "LEYDEN_KEY"
FIRST_BATCH = "first batch of "  # begins a name, among the hashes of data, that tells splits apart
MIN_CHARACTERS = 32  # of a key
CONFIG, GAP, STARTS, SIGNATURE = '\n"config": {\n', ",\n\n", '\n},\n"starts": ', '"signature": '
HEAD_BYTES = 2**14  # of a record, in which most have all but their starts
MAX_KEY_BYTES = 2**16
MAX_PARTS = 2**14  # parts of configurations whose parsed values are kept


class Summary(NamedTuple):
    """The part of a record that reports read: all but the starts, which hold diffs and can be long.

    Args:
        config: The resolved configuration by flat key. Runs share the values, which must not be changed.
        result: The result; None if the run has not ended.
        head: What is read of the starts, by the keys of `HEAD`.
    """

    config: dict[str, Any]
    result: Result | None
    head: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """The content of `run.json`.

    Args:
        config: The resolved configuration, exactly as recorded.
        starts: The provenance of each start, as returned by `origin`, the first one first. `result` in a start is the
            result that the run had when the next one replaced it.
        result: The result; None if the run has not ended.
        is_own: Whether it was signed with this user's key.
        checkpoints: SHA-256 of `best` and `last` when the record was written; empty if training may replace them.
    """

    config: dict[str, Any]
    starts: list[dict[str, Any]]
    result: Result | None = None
    is_own: bool = True
    checkpoints: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the record in a run directory, signed if it was this user's own.

        Each key at the root has a line of its own, and each group of settings; those that belong to no group come first.
        The starts come last, before the signature of all above it. Of a record that would be too large to be read, the
        oldest starts are shortened, which is announced.

        Raises:
            UserError: It is too large nevertheless.
        """
        text = self._text(self.starts)
        if not _fits(text):
            text = self._shortened(directory)
        signed = signature(text) if self.is_own else ""
        write_whole(directory / RECORD, f'{text}{SIGNATURE}"{signed}"\n}}\n')

    def _text(self, starts: list[dict[str, Any]]) -> str:
        head = {key: of_starts(starts) for key, (of_starts, _) in HEAD.items()}
        result = self.result.to_dict() if self.result else {"status": None}
        values = {**result, **head, "checkpoints": self.checkpoints}
        groups = [{key: value} for key, value in self.config.items() if isinstance(value, dict)]
        others = {key: value for key, value in self.config.items() if not isinstance(value, dict)}
        config = GAP.join(_lines(part) for part in (others, *groups) if part)
        return f"{{\n{_lines(values)},{CONFIG}{config}{STARTS}{json.dumps(starts)},\n"

    def _shortened(self, directory: Path) -> str:
        """Return the text of a record that fits: without changes of the code, then without what else is long."""
        starts = [*self.starts]
        for shorten in (_without_diff, _without_details):
            for number, start in enumerate(starts):
                starts[number] = shorten(start)
                is_last = number == len(starts) - 1
                if not (is_last or _is_power_of_two(number + 1)):  # each text costs seconds
                    continue
                text = self._text(starts)
                if _fits(text):
                    warn(
                        f"{directory}: its record would be larger than {MAX_JSON_BYTES // 2**20} MiB, so the changes of "
                        f"the code at its first {number + 1} starts are left out"
                    )
                    return text
        raise UserError(f"{directory}: its settings and results are larger than a record may be")


def _fits(text: str) -> bool:
    return len(text) < MAX_JSON_BYTES - 2**10 and num_values(text) < MAX_VALUES - 2**10


def _is_power_of_two(number: int) -> bool:
    return number & (number - 1) == 0


def _without_diff(start: dict[str, Any]) -> dict[str, Any]:
    git = start.get("git")
    if not isinstance(git, dict) or not git.get("diff"):
        return start
    return {**start, "git": {**git, "diff": None, "left_out": ["all changes"]}}


def _without_details(start: dict[str, Any]) -> dict[str, Any]:
    kept = ("time", "overrides", "job", "host", "pid", "step", "parent", "data")
    return {key: start[key] for key in kept if key in start}


def _lines(values: Mapping[str, Any]) -> str:
    return ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())


def read_record(directory: Path) -> RunRecord | None:
    """Return the record in a run directory; None if there is none. The content is untrusted.

    Raises:
        UserError: It can't be read, or is not the record of a run.
    """
    try:
        text = read_bounded(directory / RECORD, MAX_JSON_BYTES).decode()
        content = parse_json(text)
        config = _checked(content.get("config") if isinstance(content, dict) else None)
        if not isinstance(starts := content.get("starts"), list) or not all(map(_is_start, starts)):
            raise ValueError("it has no valid list of starts")
        signed, _, end = text.rpartition(SIGNATURE)
        checkpoints = content.get("checkpoints", {})
        if not isinstance(checkpoints, dict):
            raise ValueError("it has no valid checkpoints")
        own = is_own(signed, end.strip('"\n}'))
        return RunRecord(config, starts, _result(content), own, checkpoints)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(directory, error) from error


def read_summary(directory: str) -> Summary | None:
    """Return the part of a run's record that reports read; None if there is no record. The content is untrusted.

    Most settings of a run are those of another one, so each part of a configuration is parsed once for all runs.

    Raises:
        UserError: It can't be read, or is not the record of a run.
    """
    path = f"{directory}/{RECORD}"
    try:
        with opened(path) as file:
            root, _, rest = file.read(HEAD_BYTES).partition(CONFIG.encode())
        settings, mark, _ = rest.partition(STARTS.encode())
        if mark:
            content = parse_json(root.decode()[:-1] + "}")
            config = functools.reduce(operator.ior, map(_part, settings.decode().split(GAP)), {})
        else:  # it is longer, or formatted by another program
            content = parse_json(read_bounded(path, MAX_JSON_BYTES).decode())
            config = dict(
                flatten(_checked(content.get("config") if isinstance(content, dict) else None))
            )
        for key, (_, is_valid) in HEAD.items():
            if not is_valid(content.get(key)):
                raise ValueError(f"it has no valid {key}")
        return Summary(config, _result(content), {key: content.get(key) for key in HEAD})
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and not os.path.exists(path):  # noqa: PTH110 - also in a folder that is closed
            return None
        raise _unreadable(directory, error) from error


@functools.lru_cache(MAX_PARTS)
def _part(text: str) -> dict[str, Any]:
    """Return settings by flat key, from their lines in a record.

    Raises:
        ValueError: They are not those of settings.
    """
    return dict(flatten(_checked(json.loads(f"{{{text}}}"))))


def _unreadable(directory: Path | str, error: Exception) -> UserError:
    why = " ".join(str(getattr(error, "strerror", None) or error).split())
    return UserError(f"{directory}: not a run directory, {RECORD} can't be read ({why})")


def _checked(config: Any) -> dict[str, Any]:
    """Return a configuration, whose name can be printed, with the names of classes that are valid today.

    Raises:
        ValueError: It is none.
    """
    if not isinstance(config, dict) or type(name := config.get("name", "")) is not str:
        raise ValueError("it has no configuration")
    if not name.isprintable():  # it could forge lines in lists and terminals
        raise ValueError(f"its name is {name!r}")
    found: dict[str, Any] = renamed(config)
    return found


def _result(content: Mapping[str, Any]) -> Result | None:
    return None if content.get("status") is None else Result.from_dict(content)


def _is_start(start: Any) -> bool:
    if not isinstance(start, dict) or not isinstance(start.get("job"), str | None):
        return False
    return _are_texts(start.get("overrides")) and isinstance(start.get("time"), str)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is str for value in values)


def data_hashes(starts: list[dict[str, Any]]) -> Mapping[str, str]:
    """Return the hashes of the training data, by name, from the last of these starts that recorded them."""
    for start in reversed(starts):
        data = start.get("data")
        if (
            isinstance(data, dict)
            and data
            and all(isinstance(digest, str) for digest in data.values())
        ):
            return data
    return {}


def _data_digest(starts: list[dict[str, Any]]) -> str:
    hashes = {
        name: each for name, each in data_hashes(starts).items() if not name.startswith(FIRST_BATCH)
    }
    return (
        hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:32]
        if hashes
        else ""
    )


def _are_options(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    return all(isinstance(option, str | None) for option in value.values())


def _groups(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the chosen option of each config group, of the last start; empty if they are unknown."""
    return dict_at(starts[-1], "groups") if starts else {}


def _threads(starts: list[dict[str, Any]]) -> int | None:
    """Return the number of threads of a process, of the last start that trained; None if it is unknown."""
    for start in reversed(starts):
        threads = dict_at(start, "machine").get("threads")
        if isinstance(threads, int):
            return threads
    return None


# What reports read of the starts, at the root of the record: its value from the starts, and whether one that is read is valid.
HEAD: dict[str, tuple[Callable[[list[dict[str, Any]]], Any], Callable[[Any], bool]]] = {
    "overrides": (
        lambda starts: starts[0]["overrides"] if starts else [],
        _are_texts,
    ),  # of the first start
    "times": (lambda starts: [start["time"] for start in starts], _are_texts),  # in ISO 8601
    "data": (
        _data_digest,
        lambda value: type(value) is str,
    ),  # of the training data's hashes; empty without any
    "job": (  # id of the cluster's job of the last start; None if it ran in none
        lambda starts: starts[-1].get("job") if starts else None,
        lambda value: isinstance(value, str | None),
    ),
    # Records of earlier versions lack these two.
    "groups": (_groups, lambda value: value is None or _are_options(value)),
    "threads": (_threads, lambda value: isinstance(value, int | None)),
}


@functools.cache
def key() -> str:
    """Return this user's key, made at first use; empty, with a line, if it can't be read or made."""
    path: Path | str = KEY
    advice = f"{KEY}=TEXT sets a key"
    try:
        if text := os.environ.get(KEY, "").strip():
            return _long_enough(text)
        given = Path(
            os.environ.get("XDG_CONFIG_HOME", "")
        )  # counts if it is absolute, by the XDG specification
        path = (given if given.is_absolute() else Path.home() / ".config") / "leyden" / "key"
        if not path.exists():
            _make_key(path)
        with opened(path, follow=True) as file:  # a link to a file of the user's own is usual
            others = os.fstat(file.fileno()).st_mode & 0o077
            if others and os.name == "posix":
                advice = f"chmod 600 {shlex.quote(str(path))}"
                raise ValueError(f"is open to others (mode {others:03o})")
            content: bytes = file.read(MAX_KEY_BYTES)
        return _long_enough(content.decode().strip())
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # the last one where no home directory is known
        why = " ".join(str(getattr(error, "strerror", None) or error).split())
        warn(
            f"{path or 'the key'}: {why}: runs are not signed, and using them needs trust=true; {advice}"
        )
        return ""


def _long_enough(text: str) -> str:
    text.encode()  # UTF-8
    if len(text) < MIN_CHARACTERS:
        raise ValueError(f"has fewer than {MIN_CHARACTERS} characters")
    return text


def _make_key(path: Path) -> None:
    """Write a new key, readable by this user alone; of several processes that do so, one succeeds."""
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
    return hmac.new(key().encode(), text.encode(), "sha256").hexdigest() if key() else ""


def is_own(text: str, signed: str) -> bool:
    """Return whether a text was signed with this user's key."""
    return bool(key()) and hmac.compare_digest(
        signature(text).encode(), signed.encode(errors="replace")
    )

"""The record of a run: `run.json` with its result and settings, and `starts.json` with its starts.

Both are written as a whole at each start and at the end, and are all that other commands know of a
run; `config.yaml` is for people. Both are signed (`run/owner.py`). docs/formats.md describes them.

`starts.json` is written first. So a run that is killed in between has a start that `run.json`,
which has the time of each, does not know, and which is left out when the record is read; with fewer
or others it is not the user's own.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from leyden.base.errors import UserError
from leyden.base.terminal import reason_of, warn
from leyden.config.values import dict_at, flatten, nested
from leyden.exact.files import FORMATS, FormatError, read_bounded, take_format
from leyden.run.files import MAX_JSON_BYTES, MAX_VALUES, num_values, parse_json, write_whole
from leyden.run.owner import is_own, signature
from leyden.run.result import Result

RECORD = "run.json"
STARTS = "starts.json"
MAX_SHARED = 2**10  # sets of keys that are kept
FIRST_BATCH = "first batch of "  # begins a name, among the hashes of data, that tells splits apart


class RecordSummary(NamedTuple):
    """The part of a record that reports read: `run.json`.

    Args:
        config: The resolved configuration by flat key.
        result: The result; None if the run has not ended.
        head: What is known of the starts, by the keys of `HEAD`.
    """

    config: dict[str, Any]
    result: Result | None
    head: dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """The record of a run.

    Args:
        config: The resolved configuration, exactly as recorded.
        starts: The provenance of each start, as returned by `origin`, the first one first. `result`
            in a start is the result that the run had when the next one replaced it.
        result: The result; None if the run has not ended.
        is_own: Whether it was signed with this user's key.
        checkpoints: SHA-256 of `best` and `last` when the record was written; empty if training may
            replace them.
    """

    config: dict[str, Any]
    starts: list[dict[str, Any]]
    result: Result | None = None
    is_own: bool = True
    checkpoints: dict[str, str] = field(default_factory=dict)

    def write(self, directory: Path) -> None:
        """Replace the record in a run directory, signed if it was this user's own.

        Of starts that would be too large to be read, the earlier ones are shortened, which is
        announced.

        Raises:
            UserError: The record is too large nevertheless.
        """
        result = self.result.to_dict() if self.result else {"status": None}
        config = dict(flatten(self.config))
        rest = {"checkpoints": self.checkpoints, "config": config}
        text = self._text(RECORD, {**result, **_head(self.starts), **rest})
        if not _fits(text):
            raise UserError(
                f"{directory}: its settings and results are larger than a record may be"
            )
        write_whole(directory / STARTS, self._starts_text(directory))
        write_whole(directory / RECORD, text)

    def _text(self, name: str, values: Mapping[str, Any]) -> str:
        content = {"format": FORMATS[name], **values}
        signed = ""
        if self.is_own:
            signed = signature(_signed_text(content))
        return json.dumps({**content, "signature": signed}, indent=1) + "\n"

    def _starts_text(self, directory: Path) -> str:
        """Return the text of the starts.

        If need be, of the earlier ones without all that is long.
        """
        text = self._text(STARTS, {"starts": self.starts})
        if _fits(text):
            return text
        *earlier, last = self.starts
        for shorten in (_without_diff, _without_details):
            shortened = [shorten(start) for start in earlier]
            text = self._text(STARTS, {"starts": [*shortened, last]})
            if _fits(text):
                warn(
                    f"{directory}: its record would be larger than {MAX_JSON_BYTES // 2**20} MiB, "
                    "so the changes of the "
                    f"code at its first {len(earlier)} starts are left out"
                )
                return text
        raise UserError(f"{directory}: its starts are larger than a record may be")


def _signed_text(content: Mapping[str, Any]) -> str:
    """Return the text that a signature is of: the values, however a file has formatted them."""
    return json.dumps(content, sort_keys=True)


def _fits(text: str) -> bool:
    return len(text) < MAX_JSON_BYTES - 2**10 and num_values(text) < MAX_VALUES - 2**10


def _without_diff(start: dict[str, Any]) -> dict[str, Any]:
    return {**start, "git": {**dict_at(start, "git"), "diff": None, "left_out": ["all changes"]}}


def _without_details(start: dict[str, Any]) -> dict[str, Any]:
    kept = ("time", "overrides", "job", "host", "pid", "step", "parent", "data")
    return {key: start[key] for key in kept if key in start}


def read_record(directory: Path) -> RunRecord | None:
    """Return the record in a run directory; None if there is none. The content is untrusted.

    Raises:
        UserError: It can't be read, or is not the record of a run.
    """
    found = _read(directory)
    if found is None:
        return None
    summary, content = found
    name = RECORD
    try:
        config = nested(summary.config)
        checkpoints = content.get("checkpoints")
        if not isinstance(checkpoints, dict):
            raise ValueError("it has no valid checkpoints")
        name = STARTS
        times = summary.head["times"]
        of_starts = _parsed(STARTS, f"{directory}/{STARTS}")
        starts = _checked_starts(of_starts)[: len(times)]
        are_those = [start["time"] for start in starts] == times
        own = are_those and _is_signed(RECORD, content) and _is_signed(STARTS, of_starts)
        return RunRecord(config, starts, summary.result, own, checkpoints)
    except OF_DAMAGE as error:
        raise _unreadable(directory, name, error) from error


def read_summary(directory: str) -> RecordSummary | None:
    """Return the part of a record that reports read; None if there is none. It is untrusted.

    Raises:
        UserError: It can't be read, or is not the record of a run.
    """
    found = _read(directory)
    if found:
        return found[0]
    return None


def _read(directory: Path | str) -> tuple[RecordSummary, dict[str, Any]] | None:
    """Return what `run.json` says, and its content; None without one that can be seen."""
    path = f"{directory}/{RECORD}"
    try:
        content = _parsed(RECORD, path)
        config = _checked_config(content)
        result = None
        if content.get("status") is not None:
            result = Result.from_dict(content)
        head = {key: content.get(key) for key in HEAD}
        for key, kind in HEAD.items():
            if not is_of(head[key], kind):
                raise ValueError(f"it has no valid {key}")
        return RecordSummary(config, result, head), content
    except OF_DAMAGE as error:
        if isinstance(error, OSError) and not os.path.lexists(path):
            return None
        raise _unreadable(directory, RECORD, error) from error


# What is raised of a file that is damaged, or a stranger's.
OF_DAMAGE = (OSError, ValueError, RecursionError)


def _unreadable(directory: Path | str, name: str, error: BaseException) -> UserError:
    """Return the line about a file of the record that can't be read."""
    if isinstance(error, FormatError):
        return UserError(f"{directory}/{name}: {error}")
    why = reason_of(error)
    return UserError(f"{directory}: not a run directory, {name} can't be read ({why})")


def _parsed(name: str, path: str) -> dict[str, Any]:
    """Return the content of a file of the record, whose name tells its kind.

    Raises:
        OSError: It can't be read.
        ValueError: It is not such a file, or in another format.
    """
    content = parse_json(read_bounded(path, MAX_JSON_BYTES).decode())
    if not isinstance(content, dict):
        raise ValueError("it has no configuration" if name == RECORD else "it has no starts")
    take_format(name, content)
    return content


def _is_signed(name: str, content: dict[str, Any]) -> bool:
    """Return whether the content of a file is signed with this user's key."""
    values = {"format": FORMATS[name], **content}
    signed = values.pop("signature", None)
    return isinstance(signed, str) and is_own(_signed_text(values), signed)


def _checked_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration by flat key.

    Raises:
        ValueError: There is none, or its name could forge lines in lists and terminals.
    """
    config = content.get("config")
    if not isinstance(config, dict):
        raise ValueError("it has no configuration")
    name = config.get("name", "")
    if type(name) is not str:
        raise ValueError("it has no configuration")
    if not name.isprintable():
        raise ValueError(f"its name is {name!r}")
    keys = _keys(tuple(config))
    return dict(zip(keys, config.values(), strict=True))


@functools.lru_cache(MAX_SHARED)
def _keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return keys, the same objects for all runs with equal ones."""
    return keys


def _checked_starts(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    starts = content.get("starts")
    if not isinstance(starts, list) or not all(map(_is_start, starts)):
        raise ValueError("it has no valid list of starts")
    return starts


def _is_start(start: Any) -> bool:
    kinds = {"overrides": list, "time": str, "job": str | None}
    if not isinstance(start, dict):
        return False
    return all(is_of(start.get(key), kind) for key, kind in kinds.items())


# What `run.json` has of the starts, and the types of the values.
HEAD: dict[str, Any] = {
    "overrides": list,
    "times": list,
    "data": str,
    "job": str | None,
    "groups": dict | None,
    "threads": int | None,
}


def is_of(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type: a list of texts, a dictionary of texts and null."""
    if isinstance(value, list):
        return kind is list and {*map(type, value)} <= {str}
    if isinstance(value, dict) and not {*map(type, value.values())} <= {str, type(None)}:
        return False
    return isinstance(value, kind)


def _head(starts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what `run.json` has of the starts, by the keys of `HEAD`."""
    first = starts[0] if starts else {"overrides": []}
    last = {}
    if starts:
        last = starts[-1]
    return {
        "overrides": first["overrides"],
        "times": [start["time"] for start in starts],
        "data": _data_digest(starts),
        "job": last.get("job"),
        "groups": dict_at(last, "groups"),
        "threads": _threads(starts),
    }


def data_hashes(starts: list[dict[str, Any]]) -> Mapping[str, str]:
    """Return the hashes of the training data by name, from the last start that recorded them."""
    for start in reversed(starts):
        data = dict_at(start, "data")
        if data and all(isinstance(each, str) for each in data.values()):
            return data
    return {}


def _data_digest(starts: list[dict[str, Any]]) -> str:
    """Return the digest of the training data's hashes; empty without any."""
    hashes = data_hashes(starts)
    of_files = {name: each for name, each in hashes.items() if not name.startswith(FIRST_BATCH)}
    if not of_files:
        return ""
    text = json.dumps(of_files, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _threads(starts: list[dict[str, Any]]) -> int | None:
    """Return the threads of a process in the last start that trained; None if unknown."""
    for start in reversed(starts):
        threads = dict_at(start, "machine").get("threads")
        if isinstance(threads, int):
            return threads
    return None

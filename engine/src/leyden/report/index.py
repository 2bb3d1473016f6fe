"""The index of the runs in `outputs/`: what reports need of each run with a result, without reading its files again.

It is a cache and never the truth. A row is used only if the files that it was read from still have the same inode,
size and times. Any doubt about the index, such as damage, another version or a disk that can't be written to, costs
time and changes no report.

SQLite's locks are not used, since some file systems of clusters have none. An update writes a file of its own, which
then replaces the index; a file that others may read is never changed.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from leyden.config.objective import Objective, objectives
from leyden.config.paths import FOUND, LIBRARY
from leyden.report.configs import Base, ConfigReader, digest
from leyden.run.directory import RunContents, data_hashes
from leyden.run.files import read_bytes
from leyden.run.identity import typed_overrides
from leyden.run.result import Failure, Result

# Positions of fields that JSON has no type for.
OBJECTIVES, ERROR = (list(Result.__dataclass_fields__).index(name) for name in ("objectives", "error"))


@dataclass
class Contents:
    """The parts of a run's files that reports need, exactly as recorded.

    Args:
        base: Configuration from which the run's differs in a few flat values.
        changed: Those values.
        typed: Overrides of the first start, by key.
        start_times: Time of each start, in ISO 8601; None if unknown.
        objectives: The objectives; without values if the run has no result.
        result: The result; None if the run has none.
        data: Digest of the training data's hashes; empty if the run recorded none.
    """

    base: Base
    changed: dict[str, Any]
    typed: dict[str, str]
    start_times: list[str | None]
    objectives: tuple[Objective, ...]
    result: Result | None
    data: str = ""

    @classmethod
    def read(cls, run: RunContents, configs: ConfigReader) -> "Contents":
        """Read the files of a run.

        Raises:
            UserError: A file is damaged. Untrusted content can raise other types as well.
        """
        (base, changed, plain), result, starts = configs.read(run), run.result, run.starts
        return cls(
            base,
            changed,
            typed=typed_overrides(starts[0]["overrides"] if starts else []),
            start_times=[time if isinstance(time := start.get("time"), str) else None for start in starts],
            objectives=result.objectives if result and result.objectives else objectives(plain["objective"]),
            result=result,
            data=digest(json.dumps(hashes, sort_keys=True)) if (hashes := data_hashes(starts)) else "",
        )

    def to_json(self) -> list[Any]:
        """Return the contents of a run with a result, without the base, as JSON values."""
        assert self.result is not None
        result = [*vars(self.result).values()]
        result[OBJECTIVES] = [[*vars(each).values()] for each in self.result.objectives]
        result[ERROR] = self.result.error and [*vars(self.result.error).values()]
        aims = None if self.result.objectives else [[*vars(each).values()] for each in self.objectives]
        return [self.changed, self.typed, self.start_times, aims, result, self.data]

    @classmethod
    def from_json(cls, base: Base, values: list[Any]) -> "Contents":
        """Create contents from a base and the values of `to_json`."""
        changed, typed, start_times, aims, result, data = values
        result[OBJECTIVES] = found = tuple([Objective(*each) for each in result[OBJECTIVES]])
        result[ERROR] = result[ERROR] and Failure(*result[ERROR])
        return cls(
            base,
            changed,
            typed,
            start_times,
            objectives=found if aims is None else tuple(Objective(*each) for each in aims),
            result=Result(*result),
            data=data,
        )


OUTPUTS = FOUND / "outputs" if FOUND else None  # elsewhere a folder of this name can be a stranger's
INDEX_FILE = ".runs.sqlite"
# Reading so few changed runs again takes less time than writing a new index.
MAX_CHANGED, MAX_CHANGED_SHARE = 100, 0.02
# A file can change twice within the resolution of its times, up to 2 s. So a run is not added until its files are
# this old, by the clock of the file system.
MIN_AGE_NS = 5 * 10**9
MAX_UPDATE_NS = 3600 * 10**9  # an older update was left behind by a killed process
SCHEMA = (
    "CREATE TABLE configs (name TEXT PRIMARY KEY, content TEXT)",
    "CREATE TABLE runs (path TEXT PRIMARY KEY, stamp BLOB, config TEXT, content TEXT, checksum INTEGER)",
)
FILES = ("", "/config.yaml", "/provenance.json", "/result.json")  # the run directory itself, and files in it
NUM_PARSED = 1000  # rows that are parsed together
NUM_KEY_BYTES = 32

STAMP = struct.Struct(
    "=" + "QQqq" * len(FILES)
)  # inode, size, time of the content's and of the inode's last change
MASK = 2**64 - 1  # some file systems have inodes of 128 bits


@dataclass
class Row:
    """A run in the index.

    Args:
        stamp: Identity and times of the files that the contents were read from, see `stamp_of`.
        is_leaf: Whether no other run can be below the run directory.
        contents: The contents.
    """

    stamp: bytes
    is_leaf: bool
    contents: Contents


def stamp_of(directory: str) -> bytes | None:
    """Return inode, size and times of a run directory and its files; None if a file is missing.

    `touch` and `cp -p` can set the time of the content's last change, but not that of the inode's.
    """
    values: list[int] = []
    try:
        for name in FILES:
            found = os.stat(directory + name)  # noqa: PTH116 - faster than Path.stat
            values += (found.st_ino & MASK, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    except OSError:
        return None
    return STAMP.pack(*values)


class Index:
    """The rows of the index below a folder; none if there is any doubt about it.

    Args:
        directory: The folder. Outside of the project's `outputs/` there is no index.
    """

    def __init__(self, directory: Path) -> None:
        self.rows: dict[str, Row] = {}  # by path relative to `directory`, with slashes
        self._path: Path | None = None
        self._is_sound = False
        with contextlib.suppress(Exception):  # whatever is wrong, the runs themselves are read
            if OUTPUTS is None:
                return
            outputs = OUTPUTS.resolve(strict=True)
            inner = directory.resolve(strict=True).relative_to(outputs).as_posix()
            self._prefix = "" if inner == "." else f"{inner}/"
            self._path = outputs / INDEX_FILE
            self.rows = _read(self._path, self._prefix)
            self._is_sound = True

    @contextlib.contextmanager
    def updating(self, num_new: int, deleted: Collection[str]) -> Iterator["Update | None"]:
        """Yield an update, which replaces the index at the end; None if it can't be updated or is good enough.

        Args:
            num_new: Number of runs with a result that have no valid row.
            deleted: Paths of rows whose runs are gone, relative to the directory.
        """
        if self._path is None or num_new + len(deleted) <= max(MAX_CHANGED, MAX_CHANGED_SHARE * len(self.rows)):
            yield None
            return
        update = Update(self._path, self._prefix, self._is_sound)
        try:
            yield update
            update.finish(deleted)
        finally:
            update.discard()


class Update:
    """A new file that replaces the index when it is complete. An error ends the update, and is not raised.

    Args:
        path: Path of the index.
        prefix: What precedes the paths of added rows.
        is_sound: Whether to keep the rows of the present index.
    """

    def __init__(self, path: Path, prefix: str, is_sound: bool) -> None:
        self._path, self._prefix = path, prefix
        self._new = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
        self._database: Any = None
        self._now_ns = 0
        self._written = set[str]()  # names of configurations
        with self._ending_at_error():
            os.close(os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            self._now_ns = self._new.stat().st_mtime_ns
            for other in path.parent.glob(f"{path.name}.*.tmp"):
                with contextlib.suppress(FileNotFoundError):
                    if self._now_ns - other.stat().st_mtime_ns > MAX_UPDATE_NS:
                        other.unlink()
            if is_sound:
                shutil.copyfile(path, self._new)
            self._database = _connect(self._new, "nolock=1")
            if is_sound:
                _check(self._database)  # again, since another process may have replaced it
            statements = () if is_sound else (*SCHEMA, f"PRAGMA user_version = {_version()}")
            for statement in ("PRAGMA journal_mode = OFF", "PRAGMA synchronous = OFF", "BEGIN", *statements):
                self._execute(statement)

    def add(self, path: str, row: Row) -> None:
        """Add or replace a row, unless its files are so new that they could change without another stamp.

        Args:
            path: Path of the run relative to the directory.
            row: The row, read after the update was made.
        """
        path, base, values = self._prefix + path, row.contents.base, STAMP.unpack(row.stamp)
        is_new = max(*values[2::4], *values[3::4]) > self._now_ns - MIN_AGE_NS
        if is_new or any("\ud800" <= character <= "\udfff" for character in path):  # bytes that are not UTF-8
            return
        with self._ending_at_error():
            content = json.dumps([row.is_leaf, row.contents.to_json()])
            if base.name not in self._written:
                self._execute("INSERT OR REPLACE INTO configs VALUES (?, ?)", base.name, base.content)
                self._written.add(base.name)
            checksum = _checksum(path, row.stamp, base.name, content)
            self._execute(
                "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", path, row.stamp, base.name, content, checksum
            )

    def finish(self, deleted: Collection[str]) -> None:
        """Delete rows, and replace the index."""
        with self._ending_at_error():
            for path in deleted:
                self._execute("DELETE FROM runs WHERE path = ?", self._prefix + path)
            self._execute("DELETE FROM configs WHERE name NOT IN (SELECT config FROM runs)")
            self._execute("COMMIT")
            if self._database:
                self._database.close()
                self._new.replace(self._path)

    def discard(self) -> None:
        """End the update; the index stays as it is."""
        with contextlib.suppress(Exception):
            if self._database:
                self._database.close()
            self._new.unlink(missing_ok=True)
        self._database = None

    def _execute(self, statement: str, *values: Any) -> None:
        if self._database:
            self._database.execute(statement, values)

    @contextlib.contextmanager
    def _ending_at_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.discard()
            if "malformed" in str(error):  # SQLite's word for damage, which the next update would copy again
                with contextlib.suppress(OSError):
                    self._path.unlink()


def _read(path: Path, prefix: str) -> dict[str, Row]:
    """Return the intact rows whose path begins with a prefix, by the rest of the path.

    Raises:
        Exception: The file is missing, damaged, or made by another version.
    """
    if not path.is_file():  # a pipe would block
        raise FileNotFoundError(path)
    rows: dict[str, Row] = {}
    with contextlib.closing(_connect(path, "mode=ro&immutable=1")) as database:
        _check(database)
        # "0" is the character after "/".
        where, values = ("path > ? AND path < ?", (prefix, f"{prefix[:-1]}0")) if prefix else ("TRUE", ())
        names = f"SELECT config FROM runs WHERE {where}"
        configs = database.execute(f"SELECT name, content FROM configs WHERE name IN ({names})", values)
        bases = {name: Base(json.loads(content)) for name, content in configs if digest(content) == name}
        cursor = database.execute(f"SELECT path, stamp, config, content, checksum FROM runs WHERE {where}", values)
        while chunk := cursor.fetchmany(NUM_PARSED):
            intact = [row for row in chunk if row[4] == _checksum(*row[:4]) and row[2] in bases]
            # Parsed together, since equal keys are then one object.
            parsed = json.loads(f"[{','.join(content for _, _, _, content, _ in intact)}]")
            for (name, stamp, config, _, _), (is_leaf, content) in zip(intact, parsed, strict=True):
                rows[name[len(prefix) :]] = Row(stamp, is_leaf, Contents.from_json(bases[config], content))
    return rows


def _check(database: Any) -> None:
    """Check that an index was made by this version.

    Raises:
        ValueError: It was not.
    """
    found = {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if database.execute("PRAGMA user_version").fetchone() != (_version(),) or found != {*SCHEMA}:
        raise ValueError("made by another version")


def _connect(path: Path, options: str) -> Any:
    """Return a connection to a SQLite file, without locks. A Python may have been built without SQLite."""
    import sqlite3

    return sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, isolation_level=None)


def _version() -> int:
    """Return a number that changes with the code that decides what a row holds."""
    sha256 = hashlib.sha256(yaml.__version__.encode())
    for folder in ("config", "report", "run"):
        for path in sorted((LIBRARY / folder).glob("*.py")):
            sha256.update(path.read_bytes())
    return int.from_bytes(sha256.digest()[:4], "big") >> 1  # SQLite's `user_version` has 32 bits, one for the sign


def _checksum(path: str, stamp: bytes, config: str, content: str) -> int:
    """Return a number that only this user's processes can make, so that nobody else's rows are believed."""
    found = hashlib.blake2b(stamp, key=_key(), digest_size=8)
    found.update(f"{path}\0{config}\0{content}".encode())
    return int.from_bytes(found.digest(), "big", signed=True)


@functools.cache
def _key() -> bytes:
    """Return this user's secret, which is made if there is none.

    Raises:
        OSError: It can't be read or made.
        ValueError: It is damaged.
    """
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "leyden" / "index.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(f"{path.name}.{os.urandom(8).hex()}.tmp")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
            file.write(os.urandom(NUM_KEY_BYTES))
        new.replace(path)
    if len(key := read_bytes(path)) != NUM_KEY_BYTES:
        raise ValueError(f"{path}: must have {NUM_KEY_BYTES} bytes")
    return key

"""Records of the runs below a folder: configuration, overrides, status and result of each."""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from leyden.config.errors import UserError
from leyden.config.objective import Objective
from leyden.config.terminal import metric_text, some_of, warn
from leyden.report.configs import ConfigReader, FlatConfig
from leyden.report.index import Contents, Index, Row, stamp_of
from leyden.run.charts import EVENT_FOLDERS
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.run.fork import parse_fork
from leyden.run.lock import is_held
from leyden.run.result import Result, read_points
from leyden.scheduler import states as states_of
from leyden.scheduler.protocol import JobState

OWN_FOLDERS = {"checkpoints", *EVENT_FOLDERS}  # in a run directory


@dataclass
class Record:
    """A run as read for a report.

    Args:
        run: The run directory.
        choices: Values, by key, of the settings that any run of the report overrides; keys that this run's
            configuration lacks are absent.
        typed: Overrides of the first start, by key.
        config: The resolved configuration, flat.
        status: Status of the result, or `diverged` if an objective is not finite; without a result `running`, `queued` or
            `interrupted`.
        objectives: The objectives with the run's values.
        result: The result; None if the run has none.
        start_times: Time of each start, in ISO 8601; None if unknown.
        reason: Why the cluster's job of a queued run waits, unless it simply waits for its turn.
        data: Digest of the training data's hashes; empty if the run recorded none.
        has_worst: True for a failed run whose objectives were set to the worst values, by `count_failures`.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
    config: Mapping[str, Any]
    status: str
    objectives: tuple[Objective, ...]
    result: Result | None
    start_times: list[str | None]
    reason: str = ""
    data: str = ""
    has_worst: bool = False

    @functools.cached_property
    def weights(self) -> list[tuple[int, str]]:
        """Digests of the weights by optimizer step, from the run's fingerprints; empty without any."""
        try:
            return [(step, each.weights) for step, each in read_fingerprints(self.run.directory).items()]
        except OSError:
            return []

    @property
    def epochs(self) -> int | None:
        """Number of completed epochs; None without a result."""
        return self.result.epochs if self.result else None

    @property
    def seconds(self) -> float | None:
        """Training time in seconds; None if unknown."""
        return self.result.seconds if self.result else None

    @property
    def started(self) -> float | None:
        """Time of the first start, in seconds since the epoch; None if unknown."""
        return _seconds(self.start_times[0]) if self.start_times else None

    @property
    def error(self) -> str:
        """The error of a failed run in one line; else empty."""
        error = self.result.error if self.result else None
        return " ".join(f"{error.type}: {error.message} {error.where}".split()) if error else ""

    @property
    def values(self) -> list[float]:
        """The values of the objectives; empty if any of them is missing or not finite."""
        known = [each.value for each in self.objectives if each.value is not None and math.isfinite(each.value)]
        return known if len(known) == len(self.objectives) else []

    @property
    def gains(self) -> list[float]:
        """The values of the objectives, negated where smaller is better."""
        return [each.gain for each in self.objectives if each.gain is not None] if self.values else []


def _seconds(text: Any) -> float | None:
    """Return an ISO 8601 time in seconds since the epoch; None if it is not a time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def position(record: Record) -> str:
    """Return the last logged step and objective of a run that has not ended, from `metrics.csv`."""
    found = read_points(record.run.directory / "metrics.csv", last_bytes=2**16)
    metric = record.objectives[0].metric if record.objectives else None
    reached = [f"{metric} {metric_text(value)}" for _, name, value in found if name == metric]
    return ", ".join([f"step {step}" for step, *_ in found[-1:]] + reached[-1:])


T = TypeVar("T")
JobStates = Mapping[tuple[str, str], JobState]  # of cluster jobs, by scheduler and job id


def read_records(directory: Path) -> list[Record]:
    """Return the runs in or below a directory, sorted by path, with comparable choices and objectives.

    Each run has a choice for every key that any of the runs overrides, if its configuration has the key. The
    objectives are removed from runs in which they differ from the first run's.

    Raises:
        UserError: There is no run.
    """
    records = read_raw_records(directory)
    fill_choices(records)
    first = next((_objective_keys(record) for record in records if record.objectives), [])
    for record in records:
        record.objectives = record.objectives if _objective_keys(record) == first else ()
    return records


def fill_choices(records: Sequence[Record]) -> None:
    """Set each run's choices: its values of all keys that any of the runs overrides."""
    keys = list(dict.fromkeys(key for record in records for key in record.typed))
    for record in records:
        typed, config = record.typed, record.config
        record.choices = {
            key: config[key] if key in config else typed[key] for key in keys if key in config or key in typed
        }


def read_raw_records(directory: Path) -> list[Record]:
    """Return the runs in or below a directory, sorted by path, with only their own overrides as choices.

    Raises:
        UserError: There is no run.
    """
    index = Index(directory)
    found = _find_runs(str(directory), index.rows)
    whole = str(directory.absolute())  # once, as pathlib is slow
    runs = [(path, Run(f"{whole}/{path}")) for path in found]
    unread = [(path, run) for path, run in runs if found[path] is None]
    jobs = {path: job for (path, _), job in _read_or_skip(unread, lambda item: _unfinished_job(item[1]))}
    states, configs = states_of(job for job in jobs.values() if job), ConfigReader()
    num_new = sum((run.directory / "result.json").exists() for _, run in unread)
    with index.updating(num_new, deleted=index.rows.keys() - found.keys()) as update:

        def read(item: tuple[str, Run]) -> Record:
            path, run = item
            if row := found[path]:
                return make_record(run, row.contents, states)
            # Before the files are read, so that any later change of them changes the stamp.
            stamp = stamp_of(str(run.directory)) if update else None
            is_leaf = update is not None and not _scan(str(run.directory))[1]
            contents = Contents.read(run, configs)
            if update and stamp and contents.result:
                update.add(path, Row(stamp, is_leaf, contents))
            return make_record(run, contents, states)

        readable = [(path, run) for path, run in runs if found[path] or path in jobs]
        records = [record for _, record in _read_or_skip(readable, read)]
    if not records:
        raise UserError(f"{directory}: there is no run in or below it")
    return records


def _find_runs(directory: str, rows: Mapping[str, Row]) -> dict[str, Row | None]:
    """Return the runs in or below a directory, sorted by path, each with its row in the index if that is valid.

    Args:
        directory: The directory.
        rows: Rows by path relative to the directory, as in the result.
    """
    found: dict[str, Row | None] = {}
    pending, links = [""], []
    while pending:
        path = pending.pop()
        whole = f"{directory}/{path}" if path else directory
        row = rows.get(path)
        if row and row.stamp == stamp_of(whole):
            found[path] = row
            if row.is_leaf:
                continue
        is_run, folders, new_links = _scan(whole)
        if is_run:
            found.setdefault(path, None)
        pending += [f"{path}/{name}" if path else name for name in folders]
        links += new_links
    top = Path(directory).resolve()
    if elsewhere := [link for link in links if not Path(link).resolve().is_relative_to(top)]:
        warn(
            f"{some_of(sorted(elsewhere), 1)}: links to other folders are not followed; name one to see the runs there"
        )
    # By the names of the folders; no name has the character \0, which is the first of all.
    return {path: found[path] for path in sorted(found, key=lambda path: f"{path}/config.yaml".replace("/", "\0"))}


def _scan(directory: str) -> tuple[bool, list[str], list[str]]:
    """Return whether a folder is a run directory, the names of the folders in it that can hold other runs, and links.

    The links are paths of links to folders, which are not followed; a run directory may have none. A run's own
    folders hold no runs, nor does a Python environment, such as those of `leyden reproduce`.
    """
    names, folders, links = set(), [], []
    # A folder can vanish, or be closed to this user.
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError),
        os.scandir(directory) as entries,
    ):
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            # pathlib raises an error for a link into a folder that is closed to this user.
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                links.append(entry.path)
            if not entry.is_symlink() or os.path.exists(entry.path):  # noqa: PTH110
                names.add(entry.name)
    if "pyvenv.cfg" in names:
        return False, [], []
    if {"config.yaml", "provenance.json"} <= names:
        return True, [name for name in folders if name not in OWN_FOLDERS], []
    return False, folders, links


def _read_or_skip(
    items: Iterable[tuple[str, Run]], read: Callable[[tuple[str, Run]], T]
) -> Iterator[tuple[tuple[str, Run], T]]:
    """Yield each run, with its path, and the result of `read`; warn about runs that can't be read and skip them."""
    for item in items:
        try:
            yield item, read(item)
        # The files are untrusted, so any of these can occur.
        except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            warn(f"skipped: {item[1].directory} can't be read ({why})")


def _unfinished_job(run: Run) -> tuple[str, str] | None:
    """Return the scheduler and the id of the cluster job of a run without a result; None if there is no job."""
    job = None if (run.directory / "result.json").exists() else run.submission
    return (job["scheduler"], job["job_id"]) if job else None


def _objective_keys(record: Record) -> list[tuple[str, str]]:
    """Return the metric and mode of each objective."""
    return [(objective.metric, objective.mode) for objective in record.objectives]


def _status_without_result(run: Run, states: JobStates) -> tuple[str, str]:
    """Return the status of a run without a result, and why its job waits, if it does."""
    if is_held(run.directory):
        return "running", ""
    if not (job := run.submission):
        return "interrupted", ""
    state = states.get((job["scheduler"], job["job_id"]))
    if state is None:  # the scheduler does not answer; then a job counts as queued until it is started
        return ("queued" if run.starts[-1]["job"] != job["job_id"] else "interrupted"), ""
    return ("interrupted" if state.phase == "ended" else state.phase), state.reason


def _status_of_result(result: Result) -> str:
    """Return the status of a run with a result; a complete run whose objective is NaN or infinite counts as diverged."""
    is_finite = all(each.value is None or math.isfinite(each.value) for each in result.objectives)
    return result.status if is_finite or not result.is_complete else "diverged"


def make_record(run: Run, contents: Contents, states: JobStates) -> Record:
    """Return the record of a run, with the overrides of its first start as choices.

    Raises:
        UserError: A file is damaged. Untrusted content can raise other types as well.
    """
    config, typed, result = FlatConfig(contents.base, contents.changed), contents.typed, contents.result
    # Split into the parent, which a mean can be taken over, and its checkpoint.
    if isinstance(fork := config.get("fork"), str):
        parent, checkpoint = parse_fork(fork)
        split = {"fork": str(parent.directory), "fork_at": checkpoint}
        config = FlatConfig(contents.base, contents.changed | split)
        if "fork" in typed:
            typed = typed | split
    status, reason = (_status_of_result(result), "") if result else _status_without_result(run, states)
    return Record(
        run=run,
        choices=dict(typed),
        typed=typed,
        config=config,
        status=status,
        reason=reason,
        objectives=contents.objectives,
        result=result,
        start_times=contents.start_times,
        data=contents.data,
    )

"""Records of the runs below a folder: configuration, overrides, status and result of each."""

import contextlib
import functools
import gc
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.config.objective import Objective, objectives
from leyden.config.terminal import metric_text, some_of, warn
from leyden.config.values import unflatten
from leyden.report.configs import FlatConfig, SharedConfigs
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.run.fork import parse_fork
from leyden.run.identity import typed_overrides
from leyden.run.lock import is_held
from leyden.run.record import RECORD, read_summary
from leyden.run.result import Result, read_points
from leyden.scheduler import states as states_of
from leyden.scheduler.protocol import JobState


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
        start_times: Time of each start, in ISO 8601.
        reason: Why the cluster's job of a queued run waits, unless it simply waits for its turn.
        data: Digest of the training data's hashes; empty if the run recorded none.
        last_job: Id of the cluster's job of the last start; None if it ran in none.
        has_worst: True for a failed run whose objectives were set to the worst values, by `count_failures`.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
    config: Mapping[str, Any]
    status: str
    objectives: tuple[Objective, ...]
    result: Result | None
    start_times: list[str]
    reason: str = ""
    data: str = ""
    last_job: str | None = None
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
    whole = str(directory.absolute())  # once, as pathlib is slow
    configs, read = SharedConfigs(), []
    with _without_collector():
        for path in _find_runs(str(directory)):
            run = Run(f"{whole}/{path}" if path else whole)
            try:
                record = make_record(run, configs)
                read.append((record, {} if record.result else run.submission))
            # The files are untrusted, so any of these can occur.
            except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
                why = " ".join(str(error).split()) or type(error).__name__
                warn(f"skipped: {run.directory} can't be read ({why})")
    if not read:
        raise UserError(f"{directory}: there is no run in or below it")
    states = states_of((job["scheduler"], job["job_id"]) for _, job in read if job)
    for record, job in read:
        if record.result is None:
            record.status, record.reason = _status_without_result(record, job, states)
    return [record for record, _ in read]


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Context without the search for circles of objects: none are made, and it took half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _find_runs(directory: str) -> list[str]:
    """Return the paths of the runs in or below a directory, relative to it and sorted."""
    found: list[str] = []
    pending, links = [""], []
    while pending:
        path = pending.pop()
        is_run, folders, new_links = _scan(f"{directory}/{path}" if path else directory)
        if is_run:
            found.append(path)
        pending += [f"{path}/{name}" if path else name for name in folders]
        links += new_links
    top = Path(directory).resolve()
    if elsewhere := [link for link in links if not Path(link).resolve().is_relative_to(top)]:
        warn(
            f"{some_of(sorted(elsewhere), 1)}: links to other folders are not followed; name one to see the runs there"
        )
    # By the names of the folders; no name has the character \0, which is the first of all.
    return sorted(found, key=lambda path: f"{path}/{RECORD}".replace("/", "\0"))


def _scan(directory: str) -> tuple[bool, list[str], list[str]]:
    """Return whether a folder is a run directory, the names of the folders in it that can hold runs, and links.

    A run directory holds no other run. The links are paths of links to folders, which are not followed. A Python
    environment holds no runs.
    """
    if os.path.exists(f"{directory}/{RECORD}"):  # noqa: PTH110 - faster than pathlib
        return True, [], []
    names, folders, links = set(), [], []
    # A folder can vanish, or be closed to this user.
    with (
        contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError),
        os.scandir(directory) as entries,
    ):
        for entry in entries:
            names.add(entry.name)
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            # pathlib raises an error for a link into a folder that is closed to this user.
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                links.append(entry.path)
    return (False, [], []) if "pyvenv.cfg" in names else (False, folders, links)


def _objective_keys(record: Record) -> list[tuple[str, str]]:
    """Return the metric and mode of each objective."""
    return [(objective.metric, objective.mode) for objective in record.objectives]


def _status_without_result(record: Record, job: dict[str, str], states: JobStates) -> tuple[str, str]:
    """Return the status of a run without a result, and why its cluster's job waits, if it does."""
    if is_held(record.run.directory):
        return "running", ""
    with contextlib.suppress(UserError):
        if result := record.run.result:  # it has ended since its record was read
            return _status_of_result(result), ""
    if not job:
        return "interrupted", ""
    state = states.get((job["scheduler"], job["job_id"]))
    if state is None:  # the scheduler does not answer; then a job counts as queued until it is started
        return ("queued" if record.last_job != job["job_id"] else "interrupted"), ""
    return ("interrupted" if state.phase == "ended" else state.phase), state.reason


def _status_of_result(result: Result) -> str:
    """Return the status of a run with a result; a complete run whose objective is NaN or infinite counts as diverged."""
    is_finite = all(each.value is None or math.isfinite(each.value) for each in result.objectives)
    return result.status if is_finite or not result.is_complete else "diverged"


def make_record(run: Run, configs: SharedConfigs) -> Record:
    """Return the record of a run, with the overrides of its first start as choices; without a result it has no status.

    Raises:
        UserError: A file is damaged. Untrusted content can raise other types as well.
    """
    read = read_summary(run.directory)
    config, result, typed = configs.share(read.config), read.result, typed_overrides(read.overrides)
    # Split into the parent, which a mean can be taken over, and its checkpoint.
    if isinstance(fork := config.get("fork"), str):
        parent, checkpoint = parse_fork(fork)
        split = {"fork": str(parent.directory), "fork_at": checkpoint}
        config = FlatConfig(config.base, config.changed | split)
        if "fork" in typed:
            typed = typed | split
    aims = result.objectives if result else ()
    if not aims:
        nested = unflatten(
            {key: value for key, value in read.config.items() if key.partition(".")[0] == "objective"}
        )
        aims = objectives(nested["objective"])
    return Record(
        run=run,
        choices=dict(typed),
        typed=typed,
        config=config,
        status=_status_of_result(result) if result else "",
        objectives=aims,
        result=result,
        start_times=read.times,
        data=read.data,
        last_job=read.job,
    )

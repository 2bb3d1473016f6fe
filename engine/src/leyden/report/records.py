"""Records of the runs below a folder: configuration, overrides, status and result of each."""

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from leyden.config.errors import UserError
from leyden.config.objective import Objective, objectives
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.run.directory import Run
from leyden.run.files import read_fingerprints
from leyden.run.fork import parse_fork
from leyden.run.identity import typed_overrides
from leyden.run.lock import is_held
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
        starts: Provenance of each start, as in `Run`.
        reason: Why the cluster's job of a queued run waits, unless it simply waits for its turn.
        has_worst: True for a failed run whose objectives were set to the worst values, by `count_failures`.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
    config: dict[str, Any]
    status: str
    objectives: tuple[Objective, ...]
    result: Result | None
    starts: list[dict[str, Any]]
    reason: str = ""
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
        return _seconds(self.starts[0].get("time")) if self.starts else None

    @property
    def ended(self) -> float | None:
        """Time of the end, in seconds since the epoch; None if unknown.

        Computed from the last start and the training time, since the times of files change when they are copied.
        """
        started = _seconds(self.starts[-1].get("time")) if self.starts else None
        return None if started is None or self.seconds is None else started + self.seconds

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
    reached = [f"{metric} {value:.4f}" for _, name, value in found if name == metric]
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
        known = {**record.typed, **record.config}
        record.choices = {key: known[key] for key in keys if key in known}


def read_raw_records(directory: Path) -> list[Record]:
    """Return the runs in or below a directory, sorted by path, with only their own overrides as choices.

    Raises:
        UserError: There is no run.
    """
    paths = (path.parent for path in sorted(directory.rglob("config.yaml")))
    runs = [Run(path) for path in paths if (path / "provenance.json").exists()]
    jobs = list(_read_or_skip(runs, _unfinished_job))
    found = states_of(job for _, job in jobs if job)
    records = [record for _, record in _read_or_skip([run for run, _ in jobs], lambda run: read_record(run, found))]
    if not records:
        raise UserError(f"{directory}: there is no run in or below it")
    return records


def _read_or_skip(runs: Sequence[Run], read: Callable[[Run], T]) -> Iterator[tuple[Run, T]]:
    """Yield each run with the result of `read`; warn about runs that can't be read and skip them."""
    for run in runs:
        try:
            yield run, read(run)
        # The files are untrusted, so any of these can occur.
        except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            warn(f"skipped: {run.directory} can't be read ({why})")


def _unfinished_job(run: Run) -> tuple[str, str] | None:
    """Return the scheduler and the id of the cluster job of a run without a result; None if there is no job."""
    job = None if (run.directory / "result.json").exists() else run.submission
    return (job["scheduler"], job["job_id"]) if job else None


def _objective_keys(record: Record) -> list[tuple[str, str]]:
    """Return the metric and mode of each objective."""
    return [(objective.metric, objective.mode) for objective in record.objectives]


def _status_without_result(run: Run, starts: list[dict[str, Any]], states: JobStates) -> tuple[str, str]:
    """Return the status of a run without a result, and why its job waits, if it does."""
    if is_held(run.directory):
        return "running", ""
    if not (job := run.submission):
        return "interrupted", ""
    state = states.get((job["scheduler"], job["job_id"]))
    if state is None:  # the scheduler does not answer; then a job counts as queued until it is started
        return ("queued" if starts[-1]["job"] != job["job_id"] else "interrupted"), ""
    return ("interrupted" if state.phase == "ended" else state.phase), state.reason


def _status_of_result(result: Result) -> str:
    """Return the status of a run with a result; a complete run whose objective is NaN or infinite counts as diverged."""
    is_finite = all(each.value is None or math.isfinite(each.value) for each in result.objectives)
    return result.status if is_finite or not result.is_complete else "diverged"


def read_record(run: Run, states: JobStates) -> Record:
    """Return the record of a run, with the overrides of its first start as choices.

    Raises:
        UserError: A file is damaged. Untrusted content can raise other types as well.
    """
    plain, result, starts = run.config, run.result, run.starts
    config = dict(flatten(plain))
    typed = typed_overrides(starts[0]["overrides"] if starts else [])
    # Split into the parent, which a mean can be taken over, and its checkpoint.
    if isinstance(fork := config.get("fork"), str):
        parent, config["fork_at"] = parse_fork(fork)
        config["fork"] = str(parent.directory)
        if "fork" in typed:
            typed |= {"fork": config["fork"], "fork_at": config["fork_at"]}
    status, reason = (_status_of_result(result), "") if result else _status_without_result(run, starts, states)
    return Record(
        run=run,
        choices=dict(typed),
        typed=typed,
        config=config,
        status=status,
        reason=reason,
        objectives=result.objectives if result and result.objectives else objectives(plain["objective"]),
        result=result,
        starts=starts,
    )

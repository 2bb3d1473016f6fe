"""The runs below a folder: each with its configuration, its result and its curves."""

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
from leyden.run.fork import parse_fork
from leyden.run.identity import typed_overrides
from leyden.run.lock import is_held
from leyden.run.result import Result, read_points
from leyden.scheduler import phases as phases_of
from leyden.scheduler.protocol import Phase


@dataclass
class Record:
    """A run: what was chosen for it, and what came of it.

    Args:
        run: Its directory.
        choices: By key; one that its configuration does not have is not there.
        typed: Those that were typed at its first start.
        config: Its resolved configuration, flat.
        status: That of its result, but `diverged` where an objective is NaN; or `running`, `queued`, `interrupted`.
        objectives: With what was reached.
        result: Its result; None if it has none.
        starts: As `Run` has them.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
    config: dict[str, Any]
    status: str
    objectives: tuple[Objective, ...]
    result: Result | None
    starts: list[dict[str, Any]]

    @property
    def epochs(self) -> int | None:
        """Those that have ended."""
        return self.result.epochs if self.result else None

    @property
    def seconds(self) -> float | None:
        """Of training."""
        return self.result.seconds if self.result else None

    @property
    def started(self) -> float | None:
        """When it was first started, in seconds since the epoch; None where that is not known."""
        return _seconds(self.starts[0].get("time")) if self.starts else None

    @property
    def ended(self) -> float | None:
        """The same of its end, by its last start and the seconds of training: times of files change when copied."""
        started = _seconds(self.starts[-1].get("time")) if self.starts else None
        return None if started is None or self.seconds is None else started + self.seconds

    @property
    def error(self) -> str:
        """What it failed by, in one line; empty for nothing."""
        error = self.result.error if self.result else None
        return " ".join(f"{error.type}: {error.message} {error.where}".split()) if error else ""

    @property
    def values(self) -> list[float]:
        """What it reached, one number per objective; empty if it has not reached all."""
        there = [aim.value for aim in self.objectives if aim.value is not None and not math.isnan(aim.value)]
        return there if len(there) == len(self.objectives) else []

    @property
    def gains(self) -> list[float]:
        """The same with signs that make more better."""
        return [aim.gain for aim in self.objectives if aim.gain is not None] if self.values else []


def _seconds(text: Any) -> float | None:
    """Since the epoch; None for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def position(record: Record) -> str:
    """How far a run has come that has not ended: its last step and objective, by its `metrics.csv`."""
    found = read_points(record.run.directory / "metrics.csv", last_bytes=2**16)
    metric = record.objectives[0].metric if record.objectives else None
    reached = [f"{metric} {value:.4f}" for _, name, value in found if name == metric]
    return ", ".join([f"step {step}" for step, *_ in found[-1:]] + reached[-1:])


T = TypeVar("T")
Phases = Mapping[tuple[str, str], Phase]  # of jobs, by scheduler and id


def read_records(directory: Path) -> list[Record]:
    """The runs in or below a directory, by path.

    A run has a choice for each key that any of them was given, if its configuration has such a key; and no
    objectives if it has others than the first.

    Args:
        directory: The directory.

    Raises:
        UserError: There is none.
    """
    records = read_each(directory)
    fill_choices(records)
    aims = next((_aims(record) for record in records if record.objectives), [])
    for record in records:
        record.objectives = record.objectives if _aims(record) == aims else ()
    return records


def fill_choices(records: Sequence[Record]) -> None:
    """Give each run a choice for each key that was typed for any of them, if its configuration has such a key."""
    keys = list(dict.fromkeys(key for record in records for key in record.typed))
    for record in records:
        known = {**record.typed, **record.config}
        record.choices = {key: known[key] for key in keys if key in known}


def read_each(directory: Path) -> list[Record]:
    """The runs in or below a directory, by path, with what was typed for each.

    Raises:
        UserError: There is none.
    """
    paths = (path.parent for path in sorted(directory.rglob("config.yaml")))
    runs = [Run(path) for path in paths if (path / "provenance.json").exists()]
    queued = list(_of_readable(runs, _job))
    found = phases_of(job for _, job in queued if job)
    records = [
        record for _, record in _of_readable([run for run, _ in queued], lambda run: read_record(run, found))
    ]
    if not records:
        raise UserError(f"{directory}: there is no run in or below it")
    return records


def _of_readable(runs: Sequence[Run], read: Callable[[Run], T]) -> Iterator[tuple[Run, T]]:
    """What `read` gives of each run; one that is damaged, or somebody else's, is named and left out."""
    for run in runs:
        try:
            yield run, read(run)
        # Files can hold anything.
        except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            warn(f"left out: {run.directory} can't be read ({why})")


def _job(run: Run) -> tuple[str, str] | None:
    """Return scheduler and id of the job that a run without a result was submitted as; None for none."""
    job = None if (run.directory / "result.json").exists() else run.submission
    return (job["scheduler"], job["job_id"]) if job else None


def _aims(record: Record) -> list[tuple[str, str]]:
    return [(objective.metric, objective.mode) for objective in record.objectives]


def _status(run: Run, starts: list[dict[str, Any]], phases: Phases) -> str:
    """Of a run without a result."""
    if is_held(run.directory):
        return "running"
    if not (job := run.submission):
        return "interrupted"
    phase = phases.get((job["scheduler"], job["job_id"]))
    if phase is None:  # the scheduler does not answer: a job that has not started the run yet is queued
        return "queued" if starts[-1]["job"] != job["job_id"] else "interrupted"
    return "interrupted" if phase == "ended" else phase


def _ended(result: Result) -> str:
    """Return the status of a run with a result: one whose objective is NaN has finished nothing that could be compared."""
    is_nan = any(aim.value is not None and math.isnan(aim.value) for aim in result.objectives)
    return "diverged" if is_nan and result.has_ended_well else result.status


def read_record(run: Run, phases: Phases) -> Record:
    """A run with the overrides of its first start as choices.

    Raises:
        UserError: A file in it is damaged; or an error of another type, if it holds something else.
    """
    plain, result, starts = run.config, run.result, run.starts
    config = dict(flatten(plain))
    typed = typed_overrides(starts[0]["overrides"] if starts else [])
    if isinstance(
        fork := config.get("fork"), str
    ):  # the parent, which a mean can be over, and where the fork left it
        parent, config["fork_at"] = parse_fork(fork)
        config["fork"] = str(parent.directory)
        if "fork" in typed:
            typed |= {"fork": config["fork"], "fork_at": config["fork_at"]}
    return Record(
        run=run,
        choices=dict(typed),
        typed=typed,
        config=config,
        status=_ended(result) if result else _status(run, starts, phases),
        objectives=result.objectives if result and result.objectives else objectives(plain["objective"]),
        result=result,
        starts=starts,
    )

"""The runs below a folder, read."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from leyden.config.mistakes import UserError
from leyden.config.objective import Objective, objectives
from leyden.config.terminal import warn
from leyden.config.values import flatten
from leyden.run.choices import typed_choices
from leyden.run.directory import Run
from leyden.run.lock import is_held
from leyden.run.points import points
from leyden.run.result import Result

T = TypeVar("T")
# Tells of each job of a cluster, by its id, whether it is `queued`, `running` or `interrupted`; nothing where it can't be
# asked.
States = Callable[[Sequence[str]], Mapping[str, str]]


@dataclass
class Record:
    """A run: what was chosen for it, and what came of it.

    Args:
        run: Its directory.
        choices: By key.
        typed: Those that were typed at its first start.
        status: That of its result; or `running`, `queued`, `interrupted`.
        objectives: With what was reached.
        result: Its result; None if it has none.
        starts: As `Run` has them.
    """

    run: Run
    choices: dict[str, Any]
    typed: dict[str, str]
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


def read_records(directory: Path, states: States) -> list[Record]:
    """The runs in or below a directory, by path.

    A run has a choice for each key that any of them was given, an empty one where it has no such key; and no objectives if it has others than the first.

    Args:
        directory: The directory.
        states: Tells the state of jobs of a cluster.

    Raises:
        UserError: There is none.
    """
    pairs = read_each(directory, states)
    keys = list(dict.fromkeys(key for record, _ in pairs for key in record.choices))
    for record, flat in pairs:
        record.choices = {key: flat.get(key, record.choices.get(key, "")) for key in keys}
    records = [record for record, _ in pairs]
    aims = next((_aims(record) for record in records if record.objectives), [])
    for record in records:
        record.objectives = record.objectives if _aims(record) == aims else ()
    return records


def read_each(directory: Path, states: States) -> list[tuple[Record, dict[str, Any]]]:
    """The runs in or below a directory, by path, each with its flat configuration.

    Raises:
        UserError: There is none.
    """
    paths = (path.parent for path in sorted(directory.rglob("config.yaml")))
    runs = [Run(path) for path in paths if (path / "provenance.json").exists()]
    queued = list(_of_readable(runs, lambda run: not run.result and run.submission.get("job_id", "")))
    found = states([str(job_id) for _, job_id in queued if job_id])
    pairs = [pair for _, pair in _of_readable([run for run, _ in queued], lambda run: read_record(run, found))]
    if not pairs:
        raise UserError(f"{directory}: there is no run in or below it")
    return pairs


def _of_readable(runs: Sequence[Run], read: Callable[[Run], T]) -> Iterator[tuple[Run, T]]:
    """What `read` gives of each run; one that is damaged, or somebody else's, is named and left out."""
    for run in runs:
        try:
            yield run, read(run)
        # Files can hold anything.
        except (UserError, OSError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = " ".join(str(error).split()) or type(error).__name__
            warn(f"left out: {run.directory} can't be read ({why})")


def _aims(record: Record) -> list[tuple[str, str]]:
    return [(objective.metric, objective.mode) for objective in record.objectives]


def _status(run: Run, starts: list[dict[str, Any]], states: Mapping[str, str]) -> str:
    """Of a run without a result."""
    if is_held(run.directory):
        return "running"
    job = run.submission.get("job_id", "")
    state = states.get(job)
    if state is None:  # no job, or the cluster can't be asked: then that is queued which it has not started yet
        return "queued" if job and starts[-1]["slurm_job"] != job else "interrupted"
    return state


def read_record(run: Run, states: Mapping[str, str]) -> tuple[Record, dict[str, Any]]:
    """A run with the overrides of its first start as choices, and its flat configuration.

    Raises:
        UserError: A file in it is damaged; or an error of another type, if it holds something else.
    """
    config, result, starts = run.config, run.result, run.starts
    typed = typed_choices(starts[0]["overrides"] if starts else [])
    record = Record(
        run=run,
        choices=dict(typed),
        typed=typed,
        status=result.status if result else _status(run, starts, states),
        objectives=result.objectives if result and result.objectives else objectives(config["objective"]),
        result=result,
        starts=starts,
    )
    return record, dict(flatten(config))


def position(record: Record) -> str:
    """How far a run has come that has not ended: its last step and objective, by its `metrics.csv`."""
    found = points(record.run.directory / "metrics.csv", last_bytes=2**16)
    metric = record.objectives[0].metric if record.objectives else None
    reached = [f"{metric} {value:.4f}" for _, name, value in found if name == metric]
    return ", ".join([f"step {step}" for step, *_ in found[-1:]] + reached[-1:])

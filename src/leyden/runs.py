"""The runs below a folder: read, merged over seeds, ranked."""

import csv
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leyden.cluster import slurm
from leyden.config import UserError, objectives
from leyden.plain import flatten
from leyden.run import CONTROL, Run


@dataclass
class Job:
    """A run: what was chosen for it, and what came of it."""

    run: Run
    choices: dict[str, Any]
    status: str
    objectives: list[dict[str, Any]]
    epochs: int | None
    seconds: float | None
    error: str

    @property
    def values(self) -> list[float]:
        """What it reached, an objective a number; empty if it has not reached all."""
        values = [objective.get("value") for objective in self.objectives]
        there = [value for value in values if value is not None and not math.isnan(value)]
        return there if len(there) == len(values) else []

    @property
    def gains(self) -> list[float]:
        """The same with signs that make more better."""
        pairs = zip(self.objectives, self.values, strict=False)
        return [value if objective["mode"] == "max" else -value for objective, value in pairs]


@dataclass
class Row:
    """Runs that differ in nothing but the seed."""

    choices: dict[str, Any]
    jobs: list[Job]

    @property
    def counted(self) -> list[Job]:
        """The runs that the means are over: those that have finished, or else those that were pruned."""
        reached = [job for job in self.jobs if job.values]
        return [job for job in reached if job.status == "finished"] or reached

    def cells(self, metrics: Sequence[str]) -> dict[str, Any]:
        """What the table says: choices, objectives (mean, deviation, number), epochs, seconds, states."""
        states = [job.status for job in self.jobs]
        ended = [job.values for job in self.counted]
        means = {name: _mean([values[n] for values in ended]) for n, name in enumerate(metrics)}
        firsts = [values[0] for values in ended]
        return {
            **self.choices,
            "objective": means.pop(metrics[0]),
            "deviation": statistics.stdev(firsts) if len(firsts) > 1 else None,
            **means,
            "n": len(ended),
            "epochs": _mean([job.epochs for job in self.jobs]),
            "seconds": _mean([job.seconds for job in self.jobs]),
            "status": ", ".join(
                f"{states.count(state)} {state}" if len(states) > 1 else state for state in dict.fromkeys(states)
            ),
        }


def read_jobs(directory: Path) -> list[Job]:
    """The runs in or below a directory, by path.

    A run has a choice for each key that any of them was given; and no objectives if it has others than the first.

    Raises:
        UserError: There is none.
    """
    paths = (path.parent for path in sorted(directory.rglob("config.yaml")))
    runs = [Run(path) for path in paths if (path / "provenance.json").exists()]
    if not runs:
        raise UserError(f"{directory}: there is no run in or below it")
    open_ids = [run.submission["job_id"] for run in runs if run.submission and not run.result]
    states = slurm.states(open_ids)
    pairs = [read_job(run, states) for run in runs]
    keys = list(dict.fromkeys(key for job, _ in pairs for key in job.choices))
    for job, flat in pairs:
        job.choices = {key: flat.get(key, job.choices.get(key)) for key in keys}
    jobs = [job for job, _ in pairs]
    aims = next((_aims(job) for job in jobs if job.objectives), [])
    for job in jobs:
        job.objectives = job.objectives if _aims(job) == aims else []
    return jobs


def _aims(job: Job) -> list[tuple[str, str]]:
    return [(objective["metric"], objective["mode"]) for objective in job.objectives]


def _status(run: Run, states: dict[str, str]) -> str:
    """Of a run without a result."""
    if run.is_locked:
        return "running"
    job = run.submission.get("job_id", "")
    state = states.get(job)
    if state is None:  # no job, or Slurm can't be asked: then that is queued which it has not started yet
        return "queued" if job and run.starts[-1]["slurm_job"] != job else "interrupted"
    return "interrupted" if state in slurm.ENDED else "running" if state == "RUNNING" else "queued"


def read_job(run: Run, states: dict[str, str]) -> tuple[Job, dict[str, Any]]:
    """A run with the overrides of its first start as choices, and its flat configuration."""
    config = run.config
    typed = (override.lstrip("+~").partition("=") for override in run.overrides)
    result = run.result or {}
    error = result.get("error")
    job = Job(
        run=run,
        choices={key: value for key, _, value in typed if key.split(".")[0] not in (*CONTROL, "sweep")},
        status=result.get("status") or _status(run, states),
        objectives=list(objectives(result.get("objective") or config["objective"])),
        epochs=result.get("epochs"),
        seconds=result.get("seconds"),
        error=" ".join(f"{error['type']}: {error['message']}".split()) if error else "",
    )
    return job, dict(flatten(config))


def position(job: Job) -> str:
    """How far a run has come that has not ended: its last step and objective, by its `metrics.csv`."""
    path = job.run.directory / "metrics.csv"
    if not path.exists():
        return ""
    with path.open() as file:
        points = list(csv.DictReader(file))
    metric = job.objectives[0]["metric"] if job.objectives else None
    reached = [point["value"] for point in points if point["metric"] == metric]
    last = [f"step {points[-1]['step']}"] if points else []
    return ", ".join(last + [f"{metric} {float(value):.4f}" for value in reached[-1:]])


def merge(jobs: Sequence[Job]) -> list[Row]:
    """A row for each combination of the choices that vary, but for the seed; best first."""
    keys = [key for key in jobs[0].choices if key != "seed" and len({str(job.choices[key]) for job in jobs}) > 1]
    rows: dict[str, Row] = {}
    for job in jobs:
        choices = {key: job.choices[key] for key in keys}
        rows.setdefault(str(choices), Row(choices, [])).jobs.append(job)

    def rank(row: Row) -> tuple[bool, float]:
        mean = _mean([job.gains[0] for job in row.counted])
        return any(job.status == "finished" for job in row.counted), -math.inf if mean is None else mean

    return sorted(rows.values(), key=rank, reverse=True)


def front(jobs: Sequence[Job]) -> list[Job]:
    """The finished runs that no other one equals or beats in all objectives, best first: the Pareto front.

    Of one objective it is the best run.
    """
    ended = sorted(
        (job for job in jobs if job.status == "finished" and job.gains), key=lambda job: job.gains, reverse=True
    )
    kept: list[Job] = []
    for job in ended:  # none is beaten by one that comes later
        if not any(all(a >= b for a, b in zip(other.gains, job.gains, strict=True)) for other in kept):
            kept.append(job)
    return kept


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return statistics.fmean(there) if there else None

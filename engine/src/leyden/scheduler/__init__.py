"""Schedulers (batch systems) of clusters: their protocol, and the supported ones. A new one is a module here."""

from collections.abc import Iterable

from leyden.config.terminal import one_line, warn
from leyden.scheduler.protocol import JobState, Scheduler
from leyden.scheduler.slurm import Slurm

SCHEDULERS: dict[str, Scheduler] = {scheduler.name: scheduler for scheduler in (Slurm(),)}


def current() -> Scheduler | None:
    """Return the scheduler whose job this process belongs to; None outside of a job."""
    return next((scheduler for scheduler in SCHEDULERS.values() if scheduler.job_id()), None)


def job_id() -> str | None:
    """Return the id of the job that this process belongs to; None outside of a job."""
    scheduler = current()
    return scheduler.job_id() if scheduler else None


def num_restarts() -> int:
    """Return how often this process's job was restarted."""
    scheduler = current()
    return scheduler.num_restarts() if scheduler else 0


def states(jobs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], JobState]:
    """Return each job's state, by scheduler name and job id; without jobs of schedulers that do not answer."""
    found: dict[tuple[str, str], JobState] = {}
    jobs = list(jobs)
    for name in dict.fromkeys(name for name, _ in jobs):
        if name not in SCHEDULERS:
            warn(
                f"job.json: {one_line(name)} is no scheduler, but {' or '.join(SCHEDULERS)}; its jobs are not asked for"
            )
            continue
        answer = SCHEDULERS[name].states([job for scheduler, job in jobs if scheduler == name])
        found |= {(name, job): state for job, state in answer.items()}
    return found

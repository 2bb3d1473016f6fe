"""Batch systems of clusters: the protocol that they fulfil, and those that there are. Another one is a file here."""

from collections.abc import Iterable

from leyden.scheduler.protocol import Phase, Scheduler
from leyden.scheduler.slurm import Slurm

SCHEDULERS: dict[str, Scheduler] = {scheduler.name: scheduler for scheduler in (Slurm(),)}


def current() -> Scheduler | None:
    """Return the scheduler whose job this process belongs to; None where it belongs to none."""
    return next((scheduler for scheduler in SCHEDULERS.values() if scheduler.job_id()), None)


def job_id() -> str | None:
    """Return the id of the job that this process belongs to; None where it belongs to none."""
    scheduler = current()
    return scheduler.job_id() if scheduler else None


def num_restarts() -> int:
    """Return how often the job of this process was started again."""
    scheduler = current()
    return scheduler.num_restarts() if scheduler else 0


def phases(jobs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Phase]:
    """Return the phase of each job, given by the name of its scheduler and its id; none where that does not answer."""
    found: dict[tuple[str, str], Phase] = {}
    jobs = list(jobs)
    for name in dict.fromkeys(name for name, _ in jobs):
        states = SCHEDULERS[name].states([job for scheduler, job in jobs if scheduler == name])
        found |= {(name, job): state.phase for job, state in states.items()}
    return found

"""A batch of jobs: those that have not ended are run, and what came of each is told, by what its directory says."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus

from leyden.config import objectives
from leyden.sweep.jobs import Job, record_failure
from leyden.sweep.progress import Progress


class Runner(Protocol):
    """Runs jobs somewhere."""

    def run(self, jobs: Sequence[Job], report: Callable[[Sequence[str | None], int], Any]) -> list[str]:
        """Run all jobs; nothing that happens to one stops the others.

        Args:
            jobs: What to run.
            report: Called when something has changed, with the number of running jobs, and for each job the
                error that it ended with, empty for none; None while it has not ended.

        Returns:
            The errors.
        """


def run(batch: Sequence[Job], runner: Runner, progress: Progress) -> list[JobReturn]:
    """Run the jobs that have not ended before.

    Returns:
        As Hydra wants it, with the value of the objective or the error of each.
    """
    configs = [job.plain_config for job in batch]
    todo = [n for n, job in enumerate(batch) if not job.run.is_finished(configs[n])]
    with progress.of([batch[n] for n in todo], num_ended=len(batch) - len(todo)):
        ended = runner.run(progress.jobs, progress.report) if todo else []
    errors = dict(zip(todo, ended, strict=True))
    returns = []
    for n, job in enumerate(batch):
        returned = JobReturn(overrides=job.overrides, cfg=job.task_config)
        if error := errors.get(n):
            record_failure(configs[n], job.overrides, error)
            returned.status, returned.return_value = JobStatus.FAILED, RuntimeError(error)
        else:
            reached = [objective["value"] for objective in objectives((job.run.result or {}).get("objective"))]
            returned.status, returned.return_value = JobStatus.COMPLETED, reached
        returns.append(returned)
    return returns

"""A batch of jobs: those that have not ended are run, and what came of each is told, by what its directory says."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hydra.core.utils import JobReturn, JobStatus

from leyden.sweep.jobs import Job, record_failure
from leyden.sweep.status_line import StatusLine


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


def run(batch: Sequence[Job], runner: Runner, status: StatusLine) -> list[JobReturn]:
    """Run the jobs that have not ended before.

    Returns:
        As Hydra wants it, with the value of the objective or the error of each.
    """
    choices = [job.choices for job in batch]
    todo = [n for n, job in enumerate(batch) if not job.run.is_finished(choices[n])]
    with status.of([batch[n] for n in todo], num_ended=len(batch) - len(todo)):
        ended = runner.run(status.jobs, status.report) if todo else []
    errors = dict(zip(todo, ended, strict=True))
    returns = []
    for n, job in enumerate(batch):
        returned = JobReturn(overrides=job.overrides, cfg=job.task_config)
        if error := errors.get(n):
            record_failure(choices[n], job.overrides, error)
            returned.status, returned.return_value = JobStatus.FAILED, RuntimeError(error)
        else:
            result = job.run.result
            reached = [objective.value for objective in result.objectives] if result else []
            returned.status, returned.return_value = JobStatus.COMPLETED, reached
        returns.append(returned)
    return returns

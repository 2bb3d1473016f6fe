"""Jobs are taken from where they come as others end: no place is idle while there is something to do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus

from leyden.sweep.jobs import Job, record_failure
from leyden.sweep.status_line import StatusLine


class Runner(Protocol):
    """Runs jobs somewhere, several at once; nothing that happens to one stops the others."""

    @property
    def room(self) -> int | None:
        """How many more jobs it takes now; None for any number."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start jobs, as many as there is room for."""

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Jobs that have ended, each with the error that it ended with, empty for none; and how many are running.

        It waits for one to end, but not for long.
        """

    def stop(self) -> None:
        """End the jobs that are running."""


def run(
    jobs: Iterable[Job],
    runner: Runner,
    status: StatusLine,
    *,
    at_once: int | None,
    ended: Callable[[Job, JobReturn], None],
) -> None:
    """Run the jobs that have not ended before.

    Args:
        jobs: What to run; each is asked for when there is a place for it.
        runner: Runs them.
        status: Shows how far they are.
        at_once: How many, where that is less than what the runner takes; None: as many as it takes.
        ended: Is told what came of each as it ends: the values of its objectives, or the error. What it raises ends all.
    """

    def still_to_run() -> Iterator[Job]:
        for job in jobs:
            if job.run.is_finished(job.choices):
                status.pass_over()
                ended(job, _returned(job, ""))
            else:
                yield job

    source, num_given = still_to_run(), 0
    with status:
        while True:
            limits = [limit for limit in (runner.room, at_once and at_once - num_given) if limit is not None]
            if given := list(islice(source, min(limits, default=None))):
                runner.start(given)
                num_given += len(given)
            if not num_given:
                return
            over, num_running = runner.wait()
            num_given -= len(over)
            for job, error in over:
                returned = _returned(job, error)
                status.add(job, error)
                try:
                    ended(job, returned)
                except Exception:
                    runner.stop()
                    raise
            status.show(num_running)


def _returned(job: Job, error: str) -> JobReturn:
    """What came of a job, as Hydra wants it."""
    returned = JobReturn(overrides=job.overrides, cfg=job.task_config)
    if error:
        record_failure(job.choices, job.overrides, error)
        returned.status, returned.return_value = JobStatus.FAILED, RuntimeError(error)
    else:
        result = job.run.result
        reached = [objective.value for objective in result.objectives] if result else []
        returned.status, returned.return_value = JobStatus.COMPLETED, reached
    return returned

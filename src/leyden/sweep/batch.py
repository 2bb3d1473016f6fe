"""Jobs are taken from where they come as others end: no place is idle while there is something to do."""

from collections.abc import Callable, Sequence
from typing import Protocol

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
    ask: Callable[[], Job | None],
    runner: Runner,
    status: StatusLine,
    *,
    at_once: int | None,
    ended: Callable[[Job, str], bool],
) -> None:
    """Run the jobs that have not ended before.

    Args:
        ask: Gives the next job, None for none; it is called when there is a place for one, and again when others have ended.
        runner: Runs them.
        status: Shows how far they are.
        at_once: How many, where that is less than what the runner takes; None: as many as it takes.
        ended: Is told the error of each as it ends, empty for none. False ends all.
    """
    num_given, goes_on = 0, True

    def next_ones() -> list[Job]:
        nonlocal goes_on
        limits = [limit for limit in (runner.room, at_once and at_once - num_given) if limit is not None]
        found: list[Job] = []
        while goes_on and (not limits or len(found) < min(limits)) and (job := ask()):
            if job.run.is_finished(job.choices):
                status.pass_over()
                goes_on = ended(job, "")
            else:
                found.append(job)
        return found

    with status:
        while goes_on:
            given = next_ones()
            if given and goes_on:
                runner.start(given)
                num_given += len(given)
            if not num_given:
                return
            over, num_running = runner.wait()
            num_given -= len(over)
            for job, error in over:
                if error:
                    record_failure(job.choices, job.overrides, error)
                status.add(job, error)
                goes_on = ended(job, error) and goes_on
            status.show(num_running)
    runner.stop()

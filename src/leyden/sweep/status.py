"""Jobs run as places become free, and the status line of a sweep."""

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

from rich.live import Live

from leyden.config.terminal import Terminal
from leyden.sweep.jobs import Job, record_failure


class StatusLine:
    """One line: how many jobs have ended and how, the best so far, and the time left; a context.

    Where there is no terminal, there is a line for each job that has ended.

    Args:
        total: Number of jobs, those that have ended before included.
        shared: Overrides that all jobs have.
        num_before: How many have ended before, of which nobody will tell.
    """

    def __init__(self, total: int, shared: Collection[str], num_before: int = 0) -> None:
        self.total, self.shared = total, shared
        self.console = Terminal()
        self.started = time.monotonic()
        self.num_before = num_before
        self.num_run = self.num_failed = self.num_pruned = 0
        self.num_shown = 0  # that had ended when the last line was printed
        self.best: tuple[float, str] | None = None

    def __enter__(self) -> "StatusLine":
        is_terminal = self.console.is_terminal
        self.live = Live(console=self.console, auto_refresh=False, transient=True) if is_terminal else None
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live:
            self.live.stop()

    def pass_over(self) -> None:
        """Count a job that has ended before."""
        self.num_before += 1

    def add(self, job: Job, error: str) -> None:
        """Count a job that has ended."""
        result = job.run.result
        self.num_run += 1
        self.num_failed += bool(error)
        self.num_pruned += result is not None and result.status == "pruned"
        for objective in result.objectives[:1] if result else ():
            self.metric = objective.metric
            if objective.value is not None:
                name = " ".join(override for override in job.overrides if override not in self.shared)
                candidates = [*([self.best] if self.best else []), (objective.value, name)]
                self.best = (max if objective.mode == "max" else min)(candidates)

    def show(self, num_running: int) -> None:
        """Show how far they are."""
        if self.live:
            self.live.update(self._line(num_running), refresh=True)
        elif self.num_run > self.num_shown:
            self.console.print(self._line(num_running))
            self.num_shown = self.num_run

    def _line(self, num_running: int) -> str:
        num_over = self.num_before + self.num_run
        parts = [f"{num_over}/{self.total} jobs", f"{self.num_failed} failed", f"{self.num_pruned} pruned"]
        parts.append(f"{num_running} running")
        if self.best:
            parts.append(f"best {self.metric} {self.best[0]:.4f} ({self.best[1]})")
        if self.num_run and num_over < self.total:
            left = (time.monotonic() - self.started) / self.num_run * (self.total - num_over)
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)


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


def run_jobs(
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

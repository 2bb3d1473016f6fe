"""The loop that runs the jobs of a sweep, and its status line."""

import textwrap
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, Protocol

from rich.live import Live

from leyden.config.console import Terminal
from leyden.config.terminal import short_override
from leyden.run.fork import key_of
from leyden.run.identity import is_data_key
from leyden.sweep.jobs import Job, record_failure
from leyden.verdict.numbers import metric_text


class StatusLine:
    """A context manager that shows the number of jobs by status, the best objective so far, and the time left.

    On a terminal it is updated in place, and the best setting has lines of its own, which are never cut; otherwise a
    line is printed whenever jobs have ended.

    Args:
        total: Number of jobs, including those that ended in earlier starts.
        shared: Overrides common to all jobs, which are not shown.
        num_before: Number of jobs that ended in earlier starts, without those that `count_skipped` will count.
    """

    def __init__(self, total: int, shared: Collection[str], num_before: int = 0) -> None:
        self.total, self.shared = total, shared
        self.console = Terminal()
        self.started = time.monotonic()
        self.num_before = num_before
        self.num_run = self.num_failed = self.num_pruned = 0
        self.shown: tuple[int, str] = (0, "")  # value of num_run, and the note, when the last line was printed
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

    def count_skipped(self) -> None:
        """Count a job that ended in an earlier start."""
        self.num_before += 1

    def add(self, job: Job, error: str) -> None:
        """Count a job that has ended, with the text of its error (empty on success)."""
        result = job.run.result
        self.num_run += 1
        self.num_failed += bool(error)
        self.num_pruned += result is not None and result.status == "pruned"
        for objective in result.objectives[:1] if result else ():
            self.metric = objective.metric
            if objective.value is not None:
                own = {key_of(each): each for each in job.overrides if each not in self.shared}
                # Values on different data can't be compared; each fold is a part of the same data.
                if any(key in ("data", "data.root") or is_data_key(key, own) for key in {*own} - {"data.fold"}):
                    continue
                name = " ".join(map(short_override, own.values()))
                candidates = [*([self.best] if self.best else []), (objective.value, name)]
                self.best = (max if objective.mode == "max" else min)(candidates)

    def show(self, num_running: int, note: str = "") -> None:
        """Update the line; the note says why jobs wait."""
        if self.live:
            self.live.update("\n".join(self._lines(num_running, note)), refresh=True)
        elif (self.num_run, note) != self.shown:
            self.console.print(self._line(num_running, note))
            self.shown = (self.num_run, note)

    def _lines(self, num_running: int, note: str) -> list[str]:
        """Return the lines for a terminal: the counts that are not 0 with the time left, and the best setting."""
        counts = {"failed": self.num_failed, "pruned": self.num_pruned, "running": num_running}
        parts = [self._num_ended, *(f"{num} {status}" for status, num in counts.items() if num), *self._time_left()]
        best = f"best {self.metric} {metric_text(self.best[0])}: {self.best[1]}" if self.best else ""
        width = self.console.width
        return [
            ", ".join(parts),
            *(line for text in (note, best) for line in textwrap.wrap(text, width, break_on_hyphens=False)),
        ]

    def _line(self, num_running: int, note: str) -> str:
        parts = [self._num_ended, f"{self.num_failed} failed", f"{self.num_pruned} pruned"]
        parts.append(f"{num_running} running")
        parts += [note] if note else []
        if self.best:
            parts.append(f"best {self.metric} {metric_text(self.best[0])} ({self.best[1]})")
        return ", ".join([*parts, *self._time_left()])

    @property
    def _num_ended(self) -> str:
        return f"{self.num_before + self.num_run}/{self.total} jobs"

    def _time_left(self) -> list[str]:
        """Return the time left as the only item; nothing while it is unknown."""
        num_left = self.total - self.num_before - self.num_run
        if not self.num_run or num_left <= 0:
            return []
        left = timedelta(seconds=round((time.monotonic() - self.started) / self.num_run * num_left))
        return [f"{left} left"]


class Runner(Protocol):
    """Protocol of objects that run several jobs at once; the failure of a job must not stop the others."""

    @property
    def num_free(self) -> int | None:
        """Number of jobs that can be started now; None for any number."""

    @property
    def note(self) -> str:
        """Why jobs wait that could have started, for the status line; empty if none do."""

    def start(self, jobs: Sequence[Job]) -> None:
        """Start at most `num_free` jobs."""

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Wait for a job to end, but only for a short time.

        Returns:
            The jobs that have ended, each with the text of its error (empty on success); and the number of running
            jobs.
        """

    def stop(self) -> None:
        """End the running jobs."""


def run_jobs(
    ask: Callable[[], Job | None],
    runner: Runner,
    status: StatusLine,
    *,
    at_once: int | None,
    ended: Callable[[Job, str], bool],
) -> None:
    """Run jobs, as many at once as possible, and skip those that have ended before.

    Args:
        ask: Returns the next job; None if there is none now. It is called when a slot is free; after a None, it
            is called again when a job has ended.
        runner: Runs the jobs.
        status: Shows the progress.
        at_once: Largest number of jobs at once; None for the runner's own limit.
        ended: Called with each job that has ended and the text of its error (empty on success); returns False to
            end all jobs.
    """
    num_started, is_active = 0, True

    def next_jobs() -> list[Job]:
        nonlocal is_active
        limits = [limit for limit in (runner.num_free, at_once and at_once - num_started) if limit is not None]
        found: list[Job] = []
        while is_active and (not limits or len(found) < min(limits)) and (job := ask()):
            if job.run.is_finished(job.identity):
                status.count_skipped()
                is_active = ended(job, "")
            else:
                found.append(job)
        return found

    with status:
        while is_active:
            jobs = next_jobs()
            if jobs and is_active:
                runner.start(jobs)
                num_started += len(jobs)
            if not num_started:
                return
            over, num_running = runner.wait()
            num_started -= len(over)
            for job, error in over:
                if error:
                    record_failure(job.identity, job.overrides, error)
                status.add(job, error)
                is_active = ended(job, error) and is_active
            status.show(num_running, runner.note)
    runner.stop()

"""What a person sees while a sweep runs."""

import contextlib
import time
from collections.abc import Iterator, Sequence

from rich.live import Live

from leyden.config.terminal import Terminal
from leyden.sweep.jobs import Job


class StatusLine:
    """One line: how many jobs have ended and how, the best so far, and the time left.

    Args:
        total: Number of jobs, if it is more than those of the first batch; a search runs several batches.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.console = Terminal()
        self.started = time.monotonic()
        self.num_before = self.num_run = self.num_failed = self.num_pruned = 0
        self.best: tuple[float, str] | None = None

    @contextlib.contextmanager
    def of(self, jobs: Sequence[Job], *, num_ended: int) -> Iterator[None]:
        """Show the jobs of a batch, of which `num_ended` more had ended before."""
        self.jobs, self.reported = jobs, [False] * len(jobs)
        self.num_before += num_ended
        typed = [job.overrides for job in jobs]
        shared = set(typed[0]).intersection(*typed[1:]) if len(typed) > 1 else set()
        self.names = [" ".join(override for override in overrides if override not in shared) for overrides in typed]
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.live = live
        with live or contextlib.nullcontext():
            yield

    def report(self, errors: Sequence[str | None], num_running: int) -> None:
        """Show the state; where there is no terminal, a line for each job that has ended."""
        num_run = self.num_run
        for n, error in enumerate(errors):
            if error is not None and not self.reported[n]:
                self.reported[n] = True
                self._add(self.jobs[n], self.names[n], error)
        line = self._line(num_running)
        if self.live:
            self.live.update(line, refresh=True)
        elif self.num_run > num_run:
            self.console.print(line)

    def _add(self, job: Job, name: str, error: str) -> None:
        result = job.run.result
        self.num_run += 1
        self.num_failed += bool(error)
        self.num_pruned += result is not None and result.status == "pruned"
        for objective in result.objectives[:1] if result else ():
            self.metric = objective.metric
            if objective.value is not None:
                candidates = [*([self.best] if self.best else []), (objective.value, name)]
                self.best = (max if objective.mode == "max" else min)(candidates)

    def _line(self, num_running: int) -> str:
        total = max(self.total or 0, self.num_before + len(self.jobs))
        num_over = self.num_before + self.num_run
        parts = [f"{num_over}/{total} jobs", f"{self.num_failed} failed", f"{self.num_pruned} pruned"]
        parts.append(f"{num_running} running")
        if self.best:
            parts.append(f"best {self.metric} {self.best[0]:.4f} ({self.best[1]})")
        if self.num_run and num_over < total:
            left = (time.monotonic() - self.started) / self.num_run * (total - num_over)
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)

"""A batch of jobs on this machine: those that have not ended, with a line of progress."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.live import Live

from leyden.config import UserError, prepare
from leyden.hparams import write_hparams
from leyden.sweep.jobs import task_config
from leyden.sweep.launcher import Job, Pool
from leyden.sweep.worker import Outcome


def run(batch: Sequence[Job], pool: Pool, progress: "Progress") -> list[tuple[Any, str]]:
    """Run the jobs that have not ended before.

    Returns:
        Value of the objective and error (empty for none) of each.

    Raises:
        UserError: A job wants several processes.
    """
    configs = []
    for job in batch:
        cfg = task_config(job)
        trainer = cfg.trainer
        if (trainer.devices, trainer.num_nodes, trainer.strategy) != (1, 1, "auto"):
            raise UserError(
                "trainer: a sweep on this machine runs a job a process and device; use trainer=auto, "
                "or run jobs of several processes one by one, without -m"
            )
        configs.append(prepare(cfg, job.run.directory))
    todo = [n for n, job in enumerate(batch) if not job.run.is_finished(configs[n])]
    with progress.of([batch[n] for n in todo], num_ended=len(batch) - len(todo)):
        outcomes = pool.run(progress.jobs, progress.report) if todo else []
    for n, outcome in zip(todo, outcomes, strict=True):
        if outcome.error and (batch[n].run.result or {}).get("status") != "failed":
            _write_failure(batch[n], configs[n], outcome)
    ended = dict(zip(todo, outcomes, strict=True))
    return [_of(job, ended.get(n)) for n, job in enumerate(batch)]


def _of(job: Job, outcome: Outcome | None) -> tuple[Any, str]:
    if outcome is not None and outcome.error:
        return None, outcome.error
    objective = (job.run.result or {}).get("objective")
    return (objective["value"] if objective else None), ""


def _write_failure(job: Job, config: dict[str, Any], outcome: Outcome) -> None:
    """Let the directory of a job that could not do so itself say that it failed."""
    kind, _, message = outcome.error.partition(": ")
    with job.run.locked(config, resume="auto"):
        if not (job.run.directory / "config.yaml").exists():
            job.run.begin(config, list(job.config.hydra.overrides.task))
        job.run.fail(config, kind, message)
        write_hparams(job.run)


class Progress:
    """One line for a sweep: how many jobs have ended and how, the best so far, and the time left.

    Args:
        total: Number of jobs, if it is more than those of the first batch; a search runs several batches.
    """

    def __init__(self, total: int | None = None) -> None:
        self.total = total
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.started = time.monotonic()
        self.num_before = self.num_run = self.num_failed = self.num_pruned = 0
        self.best: tuple[float, str] | None = None

    @contextlib.contextmanager
    def of(self, jobs: Sequence[Job], *, num_ended: int) -> Iterator[None]:
        """Show the jobs of a batch, of which `num_ended` more had ended before."""
        self.jobs, self.reported = jobs, [False] * len(jobs)
        self.num_before += num_ended
        typed = [list(job.config.hydra.overrides.task) for job in jobs]
        shared = set(typed[0]).intersection(*typed[1:]) if len(typed) > 1 else set()
        self.names = [" ".join(override for override in overrides if override not in shared) for overrides in typed]
        live = Live(console=self.console, auto_refresh=False, transient=True) if self.console.is_terminal else None
        self.live = live
        with live or contextlib.nullcontext():
            yield

    def report(self, outcomes: Sequence[Outcome | None], num_running: int) -> None:
        """Show the state; where there is no terminal, a line for each job that has ended."""
        num_run = self.num_run
        for n, outcome in enumerate(outcomes):
            if outcome is not None and not self.reported[n]:
                self.reported[n] = True
                self._add(self.jobs[n], self.names[n], outcome)
        line = self._line(num_running)
        if self.live:
            self.live.update(line, refresh=True)
        elif self.num_run > num_run:
            self.console.print(line)

    def _add(self, job: Job, name: str, outcome: Outcome) -> None:
        self.num_run += 1
        self.num_failed += bool(outcome.error)
        self.num_pruned += (job.run.result or {}).get("status") == "pruned"
        self.objective = job.config.objective
        if outcome.value is not None:
            candidates = [*([self.best] if self.best else []), (outcome.value, name)]
            self.best = (max if self.objective.mode == "max" else min)(candidates)

    def _line(self, num_running: int) -> str:
        total = max(self.total or 0, self.num_before + len(self.jobs))
        num_over = self.num_before + self.num_run
        parts = [f"{num_over}/{total} jobs", f"{self.num_failed} failed", f"{self.num_pruned} pruned"]
        parts.append(f"{num_running} running")
        if self.best:
            parts.append(f"best {self.objective.metric} {self.best[0]:.4f} ({self.best[1]})")
        if self.num_run and num_over < total:
            left = (time.monotonic() - self.started) / self.num_run * (total - num_over)
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)

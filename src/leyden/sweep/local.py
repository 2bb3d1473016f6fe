"""A batch of jobs on this machine: those that have not ended, with a line of progress."""

import os
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live

from leyden.config import UserError, prepare
from leyden.sweep.jobs import task_config
from leyden.sweep.launcher import Job, run_jobs, slots, visible_devices
from leyden.sweep.worker import Outcome


def run(batch: Sequence[Job], num_jobs: int | None, *, module: str) -> list[tuple[Any, str]]:
    """Run the jobs that have not ended before.

    Args:
        batch: The jobs.
        num_jobs: At once; None for one a GPU, or one a core where there is no GPU.
        module: Whose `main.task` a job is.

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
    environments = slots(num_jobs, visible_devices(), os.cpu_count() or 1)
    todo = [n for n, job in enumerate(batch) if not job.run.is_finished(configs[n])]
    progress = Progress([batch[n] for n in todo], num_ended=len(batch) - len(todo))
    with progress:
        jobs = [batch[n] for n in todo]
        outcomes = run_jobs(jobs, environments[: len(jobs)], module=module, report=progress.report) if jobs else []
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


class Progress:
    """One line: how many jobs have ended and how, the best so far, and the time left."""

    def __init__(self, jobs: Sequence[Job], *, num_ended: int) -> None:
        self.jobs, self.num_ended = jobs, num_ended
        self.console = Console(highlight=False, markup=False, soft_wrap=True)
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.started = time.monotonic()
        typed = [list(job.config.hydra.overrides.task) for job in jobs]
        shared = set(typed[0]).intersection(*typed[1:]) if len(typed) > 1 else set()
        self.names = [" ".join(override for override in overrides if override not in shared) for overrides in typed]
        self.num_said = -1

    def __enter__(self) -> None:
        if self.live:
            self.live.start()

    def __exit__(self, *_: object) -> None:
        if self.live:
            self.live.stop()

    def report(self, outcomes: Sequence[Outcome | None], num_running: int) -> None:
        """Show the state; where there is no terminal, a line for each job that has ended."""
        over = [n for n, outcome in enumerate(outcomes) if outcome is not None]
        line = self._line(outcomes, over, num_running)
        if self.live:
            self.live.update(line, refresh=True)
        elif len(over) > self.num_said:
            self.console.print(line)
        self.num_said = len(over)

    def _line(self, outcomes: Sequence[Outcome | None], over: Sequence[int], num_running: int) -> str:
        failed = sum(1 for n in over if (outcome := outcomes[n]) and outcome.error)
        pruned = sum((self.jobs[n].run.result or {}).get("status") == "pruned" for n in over)
        total = self.num_ended + len(self.jobs)
        parts = [
            f"{self.num_ended + len(over)}/{total} jobs",
            f"{failed} failed",
            f"{pruned} pruned",
            f"{num_running} running",
        ]
        values = [(outcome.value, n) for n in over if (outcome := outcomes[n]) and outcome.value is not None]
        objective = self.jobs[0].config.objective
        if values and objective:
            value, n = (max if objective.mode == "max" else min)(values)
            parts.append(f"best {objective.metric} {value:.4f} ({self.names[n]})")
        if over and len(over) < len(self.jobs):
            left = (time.monotonic() - self.started) / len(over) * (len(self.jobs) - len(over))
            parts.append(f"{left:.0f} s left")
        return ", ".join(parts)

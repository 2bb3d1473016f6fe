"""A sweep: the directory that its jobs share, checked, run, and summed up in the end."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from leyden.config.checks import choice
from leyden.config.mistakes import UserError
from leyden.config.reported import reported
from leyden.config.terminal import printable, typed
from leyden.report.records import States
from leyden.report.summary import summarize
from leyden.run.command import refuse_launcher
from leyden.run.directory import Run
from leyden.sweep.check import check
from leyden.sweep.claim import claim
from leyden.sweep.compose import Composer
from leyden.sweep.jobs import Job, compose
from leyden.sweep.processes import call
from leyden.sweep.seeds import averaged
from leyden.sweep.slug import slug
from leyden.sweep.status_line import StatusLine
from leyden.sweep.worker import draw


@runtime_checkable
class JobRunner(Protocol):
    """A launcher, as a sweep needs it: it gets jobs that are composed.

    Args:
        waits: Whether it waits for the jobs to end.
        num_at_once: Number of jobs that run at once.
    """

    waits: bool
    num_at_once: int

    def check_jobs(self, jobs: Sequence[Job]) -> bool:
        """Check that the jobs can be run; False if that was all that is wanted."""

    def run_jobs(
        self,
        ask: Callable[[], Job | None],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, str], bool],
    ) -> None:
        """Run jobs, as `batch.run` does."""

    def close(self) -> None:
        """End the workers."""


class Sweep:
    """A sweep directory and the jobs that run in it by a launcher; a context that ends the launcher's workers.

    Args:
        loader: Composes the jobs' configurations.
        config: Of the sweep, Hydra's part included.
        launcher: Runs the jobs.
        states: Tells the state of jobs of a cluster.

    Raises:
        UserError: The launcher is none of Leyden's.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, launcher: Any, states: States) -> None:
        if not isinstance(launcher, JobRunner):
            refuse_launcher(config.hydra.runtime.choices)
        self.config, self.launcher, self.states = config, launcher, states
        self.composer = Composer(loader, config)
        self.directory = Path(config.hydra.sweep.dir).absolute()
        self.num_jobs = 0
        self.ended: dict[Path, Job] = {}  # by their directories
        self.failures: dict[str, str] = {}
        self.status: StatusLine | None = None

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self.status:
            named = typed("sweep_name", self.directory.name)
            print(f"{len(self.ended)} jobs have ended; the same command with {named} goes on", file=sys.stderr)
        self.launcher.close()

    def compose(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Jobs, one per list of overrides; `first` is the number of the first one."""
        return compose(self.composer, batch, first)

    def check(self, jobs: Sequence[Job], identity: Mapping[str, Any] | None = None, **facts: Any) -> bool:
        """Find mistakes in the jobs and take the directory; False if that was all that is wanted, by `dry_run`.

        Args:
            jobs: That are to run.
            identity: What makes this sweep another one, beside name and objective; None: a grid, these are all of its jobs.
            facts: To be written down about the sweep.

        Raises:
            UserError: A job is wrong, or the directory is that of another sweep.
        """
        if any(override.startswith("run_dir=") for override in jobs[0].overrides):
            raise UserError("run_dir: each job of a sweep has a directory of its own; sweep_name names the sweep")
        if (subdir := jobs[0].config.hydra.sweep.subdir) != slug(jobs[0].overrides):
            raise UserError(
                f"hydra.sweep.subdir={subdir}: can't be set, each job of a sweep has a directory of its own"
            )
        choice(self.config, "sweep.fail_fast", True, False)
        if self.config.sweep.fail_fast and not self.launcher.waits:
            raise UserError("sweep.fail_fast=true: with cluster.wait=false nobody is there to end the other jobs")
        config = jobs[0].choices.config
        facts["average_over"] = averaged(self.config, jobs[0])
        check(jobs)
        if config["dry_run"]:
            for number, job in enumerate(jobs):
                print(printable(f"{number}: {' '.join(job.overrides)}"))
            what = "would run" if identity is None else "are the ends of the space that would be searched"
            print(f"These {what}. dry_run=true: nothing was done.", file=sys.stderr)
            return False
        if not self.launcher.check_jobs(jobs):
            return False
        both = {"name": self.config.name, "objective": config["objective"]}
        claim(self.directory, {**both, **(identity or {})}, facts)
        return True

    def run(
        self,
        ask: Callable[[], Job | None],
        *,
        total: int,
        num_before: int = 0,
        shared: Collection[str],
        at_once: int | None = None,
        ended: Callable[[Job, str], None] | None = None,
    ) -> None:
        """Run jobs, and remember which of them failed.

        Args:
            ask: Gives the next job when there is a place for it; None for none.
            total: How many there will be, those of earlier starts that are not asked for again included.
            num_before: How many of them there are of the latter.
            shared: Overrides that all of them have.
            at_once: How many at once; None: as the launcher has it.
            ended: Is told the error of each, empty for none.
        """

        def told(job: Job, error: str) -> bool:
            self.num_jobs += 1
            self.ended[job.run.directory] = job
            if error:
                self.failures[job.run.directory.name] = f"{error}\n    {job.log}"
            if ended:
                ended(job, error)
            return not (self.failures and self.config.sweep.fail_fast)

        self.status = StatusLine(total, shared, num_before)
        self.launcher.run_jobs(ask, self.status, at_once=at_once, ended=told)

    def expect_less(self, num: int) -> None:
        """Let the status line know of jobs that will not be needed."""
        if self.status:
            self.status.total -= num

    def conclude(self, find: Callable[[Path], Job | None] = lambda directory: None) -> None:
        """Write and print the summary, and draw the best.

        Args:
            find: Gives the job of a directory that has ended in an earlier start; None for none.

        Raises:
            UserError: Jobs have failed; it lists them with reason and log.
        """
        winners = []
        try:
            winners = summarize(self.directory, self.states)
        except UserError:
            if not self.failures:  # else they tell why there is nothing
                raise
        if self.config.sweep.pictures == "best":
            self._draw(winners, find)
        if self.failures:
            head = f"{len(self.failures)} of {self.num_jobs} jobs failed; the same command tries them again"
            head += ", and goes on with the others" * bool(self.config.sweep.fail_fast)
            raise UserError("\n".join([head, *(f"  {name}: {why}" for name, why in self.failures.items())]))

    def _draw(self, runs: Sequence[Run], find: Callable[[Path], Job | None]) -> None:
        """Draw the pictures of runs whose jobs have drawn none."""
        for run in runs:
            with reported(f"{run.directory.name}: the drawing of its pictures"):
                ended = (run.directory / "result.json").stat().st_mtime
                is_drawn = any(path.stat().st_mtime >= ended for path in run.directory.glob("*.png"))
                # As this sweep has made it: what stands in a directory decides nothing.
                job = None if is_drawn else self.ended.get(run.directory) or find(run.directory)
                if job is None:
                    continue
                print(f"drawing the best: {run.directory}")
                if error := call(draw, job.resolved_config, log=job.log):
                    raise UserError(error)

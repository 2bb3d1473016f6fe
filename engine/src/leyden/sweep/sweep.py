"""A sweep: its directory, the checks and runs of its jobs, and the summary at its end.

Runs that differ only in the seed (`sweep.seeds`) or in the keys of `sweep.average_over` are one
setting of the summary, with mean values.
"""

import dataclasses
import math
import random
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leyden.base.errors import UserError, ending
from leyden.base.terminal import printable, warn
from leyden.config.values import flatten
from leyden.queue.here import call_in_process
from leyden.queue.loop import Launcher
from leyden.queue.script import call
from leyden.report.hparams import sort_hparams
from leyden.report.summary import summarize
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.files import read_json, write_json
from leyden.run.identity import RunIdentity, key_of
from leyden.run.result import Failure
from leyden.sweep.jobs import Composer, Job, JobNames, sweep_directory
from leyden.sweep.work import dry_build_jobs, record_failure


def claim_directory(directory: Path, identity: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the identity of a sweep (name, objective, …) and facts to its `sweep.json`.

    Raises:
        UserError: The directory belongs to another sweep, or can't be written to.
    """
    path = directory / "sweep.json"
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        # Of concurrent starts, the first one claims the directory.
        with lock.hold(directory / "locks" / "claim"):
            claimed = read_json(path, identity)
            if not isinstance(claimed, dict):
                raise UserError(
                    f"{path}: is not a valid sweep description; choose another sweep_name, or "
                    "remove it"
                )
            differences = []
            for key, value in identity.items():
                before = claimed.get(key, "absent")
                if before != value:
                    differences.append(f"{key} {before} there, {value} here")
            if differences:
                found = "; ".join(differences)
                raise UserError(
                    f"{directory} holds a different sweep: {found}; choose another sweep_name"
                )
            write_json(path, {**identity, **claimed, **facts})
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error


MAX_CHECKED = 30
NUM_DRAWN = 10  # of more jobs, so many are checked before the sweep starts


def validate_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Check the settings and directories of jobs; build and return those that will run.

    Of many new jobs, some are drawn and checked. The others are as they start; so the first one
    starts early. Of new jobs that differ only in the seed, one is built, unless other values may
    follow from it.

    Raises:
        UserError: A job is wrong; the message names the job and the mistake.
    """
    to_run = []
    for job in jobs:
        is_finished = job.run.directory.exists() and job.run.is_finished(job.identity())
        if not is_finished:
            to_run.append(job)
    num = NUM_DRAWN
    if len(to_run) <= MAX_CHECKED:
        num = len(to_run)
    chosen = random.Random(0).sample(to_run, num)
    configs: dict[tuple[str, ...], tuple[str, DictConfig, list[str]]] = {}
    for job in sorted(chosen, key=lambda job: job.number):
        name = f"job {job.number} of {len(jobs)}, {job.run.directory.name}"
        try:
            identity = job.identity()
            job.run.accept(identity, identity.config["resume"])
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
        # One that has begun may have a checkpoint of its own, and an interpolation may take the
        # seed.
        is_alone = job.run.directory.exists() or any("$" in text for text in job.overrides)
        setting = tuple(text for text in job.overrides if is_alone or key_of(text) != "seed")
        configs.setdefault(setting, (name, OmegaConf.create(identity.config), job.overrides))
    if configs and (mistake := call_in_process(dry_build_jobs, [*configs.values()])):
        raise mistake
    return chosen


def averaged_keys(config: DictConfig, identity: RunIdentity) -> list[str]:
    """Return the keys of `sweep.average_over`.

    Args:
        config: The sweep's configuration.
        identity: That of one of its jobs.

    Raises:
        UserError: The value is not a list of keys of the configuration.
    """
    keys = config.sweep.average_over
    if not isinstance(keys, ListConfig) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"sweep.average_over={keys}: must be a list of keys, such as [seed]")
    known = {*dict(flatten(identity.config)), "data.fold"}  # which not all data have
    if unknown := [key for key in keys if key not in known]:
        raise UserError(
            f"sweep.average_over={list(keys)}: {unknown[0]} is not a setting of the runs"
        )
    return list(keys)


NOT_COMPOSED = (UserError, HydraException, OmegaConfBaseException)


@dataclasses.dataclass
class _Progress:
    """Numbers of a sweep's jobs.

    Args:
        total: All jobs.
        num_ended: Jobs that have ended, those of earlier starts, too.
        num_running: Jobs that the launcher has and that have not ended.
        num_timed: Jobs that have ended in this start, whose time tells that of the others.
        began: Time of the start, in seconds.
    """

    total: int
    num_ended: int
    num_running: int = 0
    num_timed: int = 0
    began: float = dataclasses.field(default_factory=time.monotonic)

    def numbers(self, num_failed: int, num_not_queued: int) -> str:
        """Return the numbers in words."""
        return f"{self.num_ended}/{self.total} jobs, {num_failed} failed, {num_not_queued} running"

    def time_left(self) -> str:
        """Return the time that the others will take at this speed, in words.

        Empty if it is unknown.
        """
        num_left = self.total - self.num_ended
        if num_left <= 0 or not self.num_timed:
            return ""
        seconds = (time.monotonic() - self.began) * num_left / self.num_timed
        return f"{timedelta(seconds=round(seconds))} left"


class Sweep:
    """A sweep directory and its jobs.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        launcher: Runs the jobs.
    """

    def __init__(self, config: DictConfig, launcher: Launcher) -> None:
        self.config = config
        self.launcher = launcher
        self.composer = Composer(GlobalHydra.instance().config_loader(), config)
        self.directory = sweep_directory(config)
        self.names = JobNames()
        self.num_jobs = 0  # that have ended
        self.failures: dict[str, str] = {}  # errors and logs, by the name of the run directory

    def new_jobs(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Return a job for each list of overrides; `first` is the number of the first job.

        Raises:
            HydraException: An override can't be parsed.
        """
        jobs = []
        for number, arguments in enumerate(batch, start=first):
            parsed = {text: self.composer.parse(text) for text in arguments}
            typed = [text for text in arguments if not parsed[text].is_hydra_override()]
            name = self.names.name(typed)
            run = Run(self.directory / name, trust=bool(self.config.get("trust")))
            log = self.directory / "logs" / f"{name}.log"
            jobs.append(Job(self.composer, number, arguments, typed, run, log))
        return jobs

    def name_jobs(self, shared: Sequence[str], keys: Collection[str]) -> None:
        """Name the jobs by the keys that vary, as the sweep's first start does."""
        self.names = JobNames.read(self.directory) or JobNames.of(shared, keys)

    def check(
        self, jobs: Sequence[Job], identity: Mapping[str, Any] | None = None, **facts: Any
    ) -> bool:
        """Check the jobs and claim the sweep directory; return False after a dry run.

        Args:
            jobs: The jobs of a grid, or some of a search space.
            identity: Values that identify a search besides its name and objective; None for a grid.
            facts: Facts to store in `sweep.json`.

        Raises:
            UserError: A job is wrong, or the directory belongs to another sweep.
        """
        if any(key_of(override) == "run_dir" for override in jobs[0].overrides):
            raise UserError(
                "run_dir: each job of a sweep has a directory of its own; sweep_name names the "
                "sweep"
            )
        first = jobs[0].identity()
        facts["average_over"] = averaged_keys(self.config, first)
        checked = validate_jobs(jobs)
        if first.config["dry_run"]:
            for number, job in enumerate(jobs):
                print(printable(f"{number}: {' '.join(job.overrides)}"))
            what = "are settings of the space that would be searched"
            if identity is None:
                what = "would run"
            print(f"These {what}. dry_run=true: nothing was done.", file=sys.stderr)
            return False
        if not self.launcher.check(checked, len(jobs)):
            return False
        facts["threads"] = self.launcher.threads
        self._warn_of_threads(facts["threads"])
        common = {"name": self.config.name, "objective": first.config["objective"]}
        names = dataclasses.asdict(self.names)
        claim_directory(self.directory, {**common, "names": names, **(identity or {})}, facts)
        return True

    def _warn_of_threads(self, here: int | None) -> None:
        """Warn in a line if the jobs of an earlier start had another number of threads."""
        match read_json(self.directory / "sweep.json", {}):
            case {"threads": int(there)} if here and here != there:
                warn(
                    f"{self.directory}: jobs so far had {there} threads each, these have {here}, "
                    f"so the last bits can differ; OMP_NUM_THREADS={there}, or "
                    "cluster.cpus_per_task, keeps them"
                )

    def run_all(self, jobs: Sequence[Job]) -> None:
        """Run the jobs of a grid, and record which of them fail."""
        source = iter(jobs)
        self.run(lambda: next(source, None), total=len(jobs), at_once=self.launcher.num_at_once)

    def run(
        self,
        ask: Callable[[], Job | None],
        *,
        total: int,
        num_before: int = 0,
        at_once: int | None,
        ended: Callable[[Job, Failure | None], None] = lambda job, failure: None,
    ) -> None:
        """Run jobs, as many at once as possible, and record which of them fail.

        Skip those that have ended before.

        Jobs that run elsewhere, in a folder that several machines share, come last: each waits for
        the lock of its directory, then for nothing if its run has finished, or else resumes it.

        Args:
            ask: Returns the next job; None if there is none now. It is called when there is room
                for one more; after a None, it is called again when a job has ended.
            total: Number of jobs, including the `num_before`.
            num_before: Number of jobs that ended in earlier starts, and that `ask` does not return.
            at_once: Largest number of jobs at once; None for any number.
            ended: Called with each job that has ended and its failure, None on success.
        """
        progress = _Progress(total, num_before)
        num_failed_before = len(self.failures)
        elsewhere: deque[Job] = deque()
        note = ""

        def record(job: Job, failure: Failure | None) -> None:
            progress.num_ended += 1
            self._record(job, failure)
            ended(job, failure)

        while True:
            room = math.inf if at_once is None else at_once - progress.num_running
            jobs: list[Job] = []
            while len(jobs) < room:
                job = self._next_job(ask, elsewhere, record)
                if job is None:
                    break
                jobs.append(job)
            if jobs:
                self.launcher.start(jobs)
                progress.num_running += len(jobs)
            if not self.launcher.waits:
                return
            if not progress.num_running:
                self.launcher.tidy_up()
                return
            over, num_not_queued = self.launcher.wait()
            for job, failure in over:
                progress.num_running -= 1
                progress.num_timed += 1
                if failure:
                    record_failure(job.identity(), job.overrides, failure)
                record(job, failure)
            if over or self.launcher.note != note:
                note = self.launcher.note
                num_failed = len(self.failures) - num_failed_before
                parts = [progress.numbers(num_failed, num_not_queued), progress.time_left(), note]
                print("; ".join(part for part in parts if part), flush=True)

    def _record(self, job: Job, failure: Failure | None) -> None:
        """Count a job that has ended, and keep its failure for the end."""
        self.num_jobs += 1
        if failure:
            self.failures[job.run.directory.name] = f"{failure}\n    {job.log}"

    def _next_job(
        self,
        ask: Callable[[], Job | None],
        elsewhere: deque[Job],
        record: Callable[[Job, Failure | None], None],
    ) -> Job | None:
        """Return the next job to run; None if there is none now.

        Args:
            ask: As in `run`.
            elsewhere: Jobs that ran elsewhere when they were asked for; this call adds to it, or
                takes one.
            record: Called with each job that has ended already, or whose settings are wrong.
        """
        while True:
            job = ask()
            is_last = job is None
            if job is None:
                if not elsewhere:
                    return None
                job = elsewhere.popleft()
            try:
                identity = job.identity()
                is_finished = job.run.is_finished(identity)
            except NOT_COMPOSED as error:
                record(job, Failure.of(error))
                continue
            if is_finished:
                self.launcher.tidy(job)
                record(job, None)
                continue
            if self.launcher.outlives:  # perhaps thousands at once
                return job
            if is_last or lock.Watch(job.run.directory / lock.LOCK).state() == "free":
                job.identified = identity
                return job
            elsewhere.append(job)

    def conclude(self) -> None:
        """Write and print the summary.

        Raises:
            UserError: Jobs have failed; the message lists them with their errors and logs.
        """
        try:
            summarize(self.directory, trust=True)
            sort_hparams(self.directory)
        except UserError:
            if not self.failures:  # otherwise the error below explains why there is no summary
                raise
        finally:
            if self.launcher.has_jobs:
                notify_user(self.config.cluster.get("notify"), self.directory)
        if self.failures:
            num = len(self.failures)
            lines = [f"{num} of {self.num_jobs} jobs failed; the same command runs them again"]
            for name, why in self.failures.items():
                lines.append(f"  {name}: {why}")
            raise UserError("\n".join(lines))

    def conclude_later(self) -> None:
        """Submit a job that writes the summary once all others have ended.

        It takes the place of one of an earlier start.
        """
        path = self.launcher.queue.folder / "job.json"
        notify = self.config.cluster.get("notify")
        try:
            job = self.launcher.follow(conclude_left, str(self.directory), notify)
        except UserError as error:
            warn(f"no job will write the summary: {error}")
            return
        if not job:
            return
        match read_json(path, {}):
            case {"job_id": str(earlier)}:
                self.launcher.queue.cancel([earlier])
        write_json(path, {"job_id": job})
        print(f"job {job}: the summary, once the others have ended")


def conclude_left(directory: str, notify: str | None) -> None:
    """Write the summary of a sweep whose command has not waited, and tell the user."""
    with ending():
        try:
            summarize(Path(directory), trust=True)
            sort_hparams(Path(directory))
        finally:
            notify_user(notify, Path(directory))


def notify_user(command: str | None, directory: Path) -> None:
    """Run the command that tells the user of a sweep's end; its failure is a line."""
    if not command:
        return
    _, problem = call("env", f"LEYDEN_SWEEP={directory}", "bash", "-c", command)
    if problem:
        warn(f"cluster.notify: {problem}")

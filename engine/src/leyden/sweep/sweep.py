"""A sweep: its directory, the checks and runs of its jobs, and the summary at its end.

Runs that differ only in the seed (`sweep.seeds`) or in the keys of `sweep.average_over` are one setting of the
summary, with mean values.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain, combinations_with_replacement
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from leyden.config.errors import UserError
from leyden.config.terminal import printable, quoted_override
from leyden.config.values import flatten
from leyden.report.summary import summarize
from leyden.run import lock
from leyden.run.files import read_json, write_whole
from leyden.run.identity import typed_overrides
from leyden.run.result import Failure
from leyden.sweep.jobs import Composer, Job, JobNames, new_jobs, sweep_directory
from leyden.sweep.launcher import Launcher, StatusLine, call_in_process, run_jobs
from leyden.sweep.space import check_sweep_size, extreme_values
from leyden.sweep.worker import dry_build_jobs
from leyden.verdict.groups import MIN_VALUES


def claim_directory(directory: Path, identity: dict[str, Any], facts: dict[str, Any]) -> None:
    """Write the identity of a sweep (name, objective, …) and facts about it to `sweep.json` in its directory.

    Raises:
        UserError: The directory belongs to another sweep, or can't be written to.
    """
    path = directory / "sweep.json"
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        with lock.hold(directory / "locks" / "claim"):  # of concurrent starts, the first one claims the directory
            claimed = read_json(path, identity)
            if not isinstance(claimed, dict):
                raise UserError(
                    f"{path}: is not a valid sweep description; choose another sweep_name, or remove it"
                )
            differences = [
                f"{key} {before} there, {value} here"
                for key, value in identity.items()
                if (before := claimed.get(key, "absent")) != value
            ]
            if differences:
                raise UserError(
                    f"{directory} holds a different sweep: {'; '.join(differences)}; choose another sweep_name"
                )
            write_whole(path, json.dumps({**identity, **claimed, **facts}) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error


MAX_CHECKED = 30  # of more jobs, only a subset is checked before the sweep starts


def validate_jobs(jobs: Sequence[Job]) -> list[Job]:
    """Check the settings and directories of jobs, build the parts of those that will run, and return these.

    Of many new jobs a covering subset is checked. The others are as they start; so the first one starts early.

    Raises:
        UserError: A job is wrong; the message names the job and the mistake.
    """
    names = {id(job): f"job {number} of {len(jobs)}, {job.run.directory.name}" for number, job in enumerate(jobs)}
    to_run = [job for job in jobs if not job.run.directory.exists() or not _is_finished(job, names[id(job)])]
    chosen = [to_run[n] for n in covering_subset([typed_overrides(job.overrides) for job in to_run])]
    configs = []
    for job in chosen:
        if not job.run.directory.exists():  # the others were checked above
            _is_finished(job, names[id(job)])
        configs.append((names[id(job)], OmegaConf.create(job.identity.config), job.overrides))
        job.release()
    if configs and (mistake := call_in_process(dry_build_jobs, configs)):
        raise mistake
    return chosen


def _is_finished(job: Job, name: str) -> bool:
    """Check the directory of a job, and return whether its run has finished.

    Raises:
        UserError: The job is wrong.
    """
    try:
        job.run.accept(job.identity, job.identity.config["resume"])
        return job.run.is_finished(job.identity)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    finally:
        job.release()


def covering_subset(settings: Sequence[dict[str, str]]) -> list[int]:
    """Return the indices of the settings to check for all; up to `MAX_CHECKED` settings, all indices.

    Of more settings, the subset has each pair of values of two keys; of many numbers, the smallest and the largest.

    Example:
        >>> covering_subset([{"seed": str(seed)} for seed in range(200)])
        [0, 199]
    """
    if len(settings) <= MAX_CHECKED:
        return list(range(len(settings)))
    values = {key: dict.fromkeys(e[key] for e in settings if key in e) for key in dict.fromkeys(chain(*settings))}
    extremes = {key: {*extreme_values([*texts])} for key, texts in values.items()}
    chosen: list[int] = []
    covered: set[tuple[Any, ...]] = set()
    for number, setting in enumerate(settings):
        kept = sorted(item for item in setting.items() if item[1] in extremes[item[0]])
        if new := {*combinations_with_replacement(kept, 2)} - covered:
            chosen.append(number)
            covered |= new
    return chosen


def num_seeds(config: DictConfig, keys: Collection[str]) -> int:
    """Return the number of seeds that each setting of a sweep runs with; `keys` are those that the sweep is over.

    For `sweep.seeds=auto` it is the number at the start.

    Raises:
        UserError: `sweep.seeds` is not a valid number, or conflicts with a sweep over `seed`.
    """
    num = config.sweep.get("seeds")
    if num == "auto":
        num = MIN_VALUES
    elif config.sweep.get("max_runs") is not None:
        raise UserError(f"sweep.max_runs={config.sweep.max_runs}: is for sweep.seeds=auto")
    if type(num) is not int or num < 1:
        raise UserError(f"sweep.seeds={num}: must be a positive whole number, or auto")
    check_sweep_size(f"sweep.seeds={num}", num)
    averaged = config.sweep.get("average_over")
    if num > 1 and isinstance(averaged, ListConfig) and "seed" not in averaged:
        raise UserError(f"sweep.seeds={config.sweep.seeds}: sweep.average_over={list(averaged)} must contain seed")
    if num > 1 and "seed" in keys:
        raise UserError(f"sweep.seeds={config.sweep.seeds}: the sweep is over seed itself; remove one of the two")
    return num


def averaged_keys(config: DictConfig, job: Job) -> list[str]:
    """Return the keys of `sweep.average_over`.

    Args:
        config: The sweep's configuration.
        job: One of its jobs.

    Raises:
        UserError: The value is not a list of keys of the configuration.
    """
    keys = config.sweep.average_over
    if not isinstance(keys, ListConfig) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"sweep.average_over={keys}: must be a list of keys, such as [seed]")
    known = {*dict(flatten(job.identity.config)), "data.fold"}  # which not all data have
    if unknown := [key for key in keys if key not in known]:
        raise UserError(f"sweep.average_over={list(keys)}: {unknown[0]} is not a setting of the runs")
    return list(keys)


def add_seeds(job: Job, num: int) -> list[list[str]]:
    """Return the overrides of a job with each of the `num - 1` seeds that follow its own.

    The job itself keeps its overrides, so that its directory is the same as without `sweep.seeds`.
    """
    setting = [override for override in job.overrides if override.lstrip("+").partition("=")[0] != "seed"]
    return [[*setting, f"seed={job.config.seed + number}"] for number in range(1, num)]


class Sweep:
    """A sweep directory and its jobs; a context manager that ends the jobs that can't outlive it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        launcher: Runs the jobs.
    """

    def __init__(self, config: DictConfig, launcher: Launcher) -> None:
        self.config, self.launcher = config, launcher
        self.composer = Composer(GlobalHydra.instance().config_loader(), config)
        self.directory = sweep_directory(config)
        self.names = JobNames()
        self.num_jobs = 0
        self.failures: dict[str, str] = {}  # errors and logs, by the name of the run directory
        self.status = StatusLine(0, ())

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is KeyboardInterrupt and self.status.total:
            override = quoted_override("sweep_name", self.directory.name)
            print(
                f"{self.num_jobs} jobs have ended; the same command with {override} resumes the sweep",
                file=sys.stderr,
            )
        if not self.launcher.is_queue:
            self.launcher.stop()

    def new_jobs(self, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
        """Return a job for each list of overrides; `first` is the number of the first job."""
        return new_jobs(self.composer, batch, first, self.names)

    def name_jobs(self, shared: Sequence[str], keys: Collection[str]) -> None:
        """Name the jobs by the keys that vary, as the sweep's first start does."""
        self.names = JobNames.read(self.directory) or JobNames.of(shared, keys)

    def check(self, jobs: Sequence[Job], identity: Mapping[str, Any] | None = None, **facts: Any) -> bool:
        """Check the jobs and claim the sweep directory; return False after a dry run.

        Args:
            jobs: The jobs of a grid, or the extremes of a search space.
            identity: Values that identify a search besides its name and objective; None for a grid.
            facts: Facts to store in `sweep.json`.

        Raises:
            UserError: A job is wrong, or the directory belongs to another sweep.
        """
        if any(override.startswith("run_dir=") for override in jobs[0].overrides):
            raise UserError("run_dir: each job of a sweep has a directory of its own; sweep_name names the sweep")
        config = jobs[0].identity.config
        facts["average_over"] = averaged_keys(self.config, jobs[0])
        checked = validate_jobs(jobs)
        if config["dry_run"]:
            for number, job in enumerate(jobs):
                print(printable(f"{number}: {' '.join(job.overrides)}"))
            what = "would run" if identity is None else "are settings of the space that would be searched"
            print(f"These {what}. dry_run=true: nothing was done.", file=sys.stderr)
            return False
        if not self.launcher.check(checked, len(jobs)):
            return False
        common = {
            "name": self.config.name,
            "objective": config["objective"],
            "names": dataclasses.asdict(self.names),
        }
        claim_directory(self.directory, {**common, **(identity or {})}, facts)
        return True

    def run(
        self,
        ask: Callable[[], Job | None],
        *,
        total: int,
        num_before: int = 0,
        shared: Collection[str],
        at_once: int | None = None,
        ended: Callable[[Job, Failure | None], None] | None = None,
    ) -> None:
        """Run jobs, and record which of them fail.

        Args:
            ask: Returns the next job; None if there is none now.
            total: Number of jobs, including the `num_before`.
            num_before: Number of jobs that ended in earlier starts, and that `ask` does not return.
            shared: Overrides common to all jobs.
            at_once: Largest number of jobs at once; None for the launcher's own limit.
            ended: Called with each job that has ended and its failure, None on success.
        """

        def record(job: Job, failure: Failure | None) -> None:
            self.num_jobs += 1
            if failure:
                self.failures[job.run.directory.name] = f"{failure}\n    {job.log}"
            if ended:
                ended(job, failure)
            job.release()

        self.status = StatusLine(total, shared, num_before)
        run_jobs(ask, self.launcher, self.status, at_once=at_once, ended=record)

    def conclude(self) -> None:
        """Write and print the summary.

        Raises:
            UserError: Jobs have failed; the message lists them with their errors and logs.
        """
        try:
            summarize(self.directory)
        except UserError:
            if not self.failures:  # otherwise the error below explains why there is no summary
                raise
        if self.failures:
            head = f"{len(self.failures)} of {self.num_jobs} jobs failed; the same command runs them again"
            raise UserError("\n".join([head, *(f"  {name}: {why}" for name, why in self.failures.items())]))

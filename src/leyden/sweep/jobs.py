"""The jobs of a sweep: composed, checked before the first one starts, reported when the last one has ended."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from leyden import summarize
from leyden.config import UserError, prepare
from leyden.hparams import write_hparams
from leyden.run import Run, read_json, write_whole
from leyden.sweep.slug import slug


@dataclass
class Job:
    """A job of a sweep.

    Args:
        config: All of its configuration, Hydra's part included.
        overrides: What it was composed by.
        run: Its directory.
        log: What it prints.
    """

    config: DictConfig
    overrides: list[str]
    run: Run
    log: Path

    @property
    def task_config(self) -> DictConfig:
        """A copy of the configuration without Hydra's part."""
        cfg = self.config.copy()
        with open_dict(cfg):
            del cfg["hydra"]
        return cfg

    @property
    def resolved_config(self) -> DictConfig:
        """The configuration with nothing left that another process, elsewhere or later, could resolve otherwise."""
        config = self.config.copy()
        with open_dict(config):
            config.update(self.plain_config)
            config.hydra.sweep.dir, config.hydra.sweep.subdir = (
                str(self.run.directory.parent),
                self.run.directory.name,
            )
        return config

    @property
    def plain_config(self) -> dict[str, Any]:
        """The configuration as its run directory keeps it.

        Raises:
            UserError: It is wrong.
        """
        return prepare(self.task_config, self.run.directory)


def compose(loader: ConfigLoader, config: DictConfig, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """The job of each list of overrides; `first` is the number of the first one."""
    directory = Path(config.hydra.sweep.dir).absolute()
    jobs = []
    for number, overrides in enumerate(batch, start=first):
        composed = loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        typed = list(composed.hydra.overrides.task)
        name = slug(typed)
        jobs.append(Job(composed, typed, Run(directory / name), directory / "logs" / f"{name}.log"))
    return jobs


def check(jobs: Sequence[Job]) -> None:
    """Find what is wrong with any of the jobs.

    Raises:
        UserError: Names the job and the mistake.
    """
    from leyden.heavy import build

    build.quiet()
    facts: dict[str, Any] = {}
    for number, job in enumerate(jobs):
        try:
            cfg = job.task_config
            job.run.accept(prepare(cfg, job.run.directory), cfg.resume)
            build.check(cfg, facts)
        except UserError as error:
            raise UserError(f"job {number} of {len(jobs)}, {job.run.directory.name}: {error}") from error


def record_failure(config: dict[str, Any], overrides: list[str], error: str) -> None:
    """Let the directory of a job that has failed say so, unless it has a result or is in use.

    Args:
        config: As the directory keeps it.
        overrides: What the job was composed by.
        error: Its type and message.
    """
    run = Run(config["run_dir"])
    kind, _, message = error.partition(": ")
    with contextlib.suppress(UserError), run.locked(config, resume="auto"):
        if run.result is None:
            if not (run.directory / "config.yaml").exists():
                run.begin(config, overrides)
            run.fail(config, kind, message)
            write_hparams(run)


class Sweep:
    """A sweep directory and the jobs that run in it by a launcher; a context that ends the launcher's workers.

    Args:
        loader: Composes the jobs' configurations.
        config: Of the sweep, Hydra's part included.
        launcher: Any of Hydra's; one that has `run_jobs` gets jobs that are composed.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, launcher: Launcher) -> None:
        self.loader, self.config, self.launcher = loader, config, launcher
        self.directory = Path(config.hydra.sweep.dir).absolute()
        self.num_jobs = 0
        self.failures: dict[str, str] = {}

    def __enter__(self) -> "Sweep":
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self.launcher, "close"):
            self.launcher.close()

    def compose(self, batch: Sequence[Sequence[str]]) -> list[Job]:
        """The next jobs, one a list of overrides."""
        return compose(self.loader, self.config, batch, self.num_jobs)

    def check(self, jobs: Sequence[Job], **facts: Any) -> bool:
        """Find mistakes in the jobs and take the directory; False if that was all that is wanted, by `dry_run`.

        Args:
            jobs: That are to run.
            facts: To be written down about the sweep.

        Raises:
            UserError: A job is wrong, or the directory is that of another sweep.
        """
        if any(override.startswith("run_dir=") for override in jobs[0].overrides):
            raise UserError("run_dir: each job of a sweep has a directory of its own; sweep_name names the sweep")
        check(jobs)
        config = jobs[0].plain_config
        if config["dry_run"]:
            for number, job in enumerate(jobs):
                print(f"{number}: {' '.join(job.overrides)}")
            return False
        if hasattr(self.launcher, "check_jobs") and not self.launcher.check_jobs(jobs):
            return False
        claim(self.directory, {"name": self.config.name, "objective": config["objective"]}, facts)
        return True

    def run(self, jobs: Sequence[Job]) -> Sequence[JobReturn]:
        """Run jobs, and remember which of them failed."""
        if hasattr(self.launcher, "run_jobs"):
            returns: Sequence[JobReturn] = self.launcher.run_jobs(jobs)
        else:
            returns = self.launcher.launch([job.overrides for job in jobs], initial_job_idx=self.num_jobs)
        for job, returned in zip(jobs, returns, strict=False):  # a launcher that does not wait returns nothing
            if returned.status == JobStatus.FAILED:
                self.failures[job.run.directory.name] = f"{returned._return_value}\n    {job.log}"
        self.num_jobs += len(jobs)
        return returns

    def conclude(self) -> None:
        """Write and print the summary.

        Raises:
            UserError: Jobs have failed; it lists them with reason and log.
        """
        try:
            summarize.summarize(self.directory)
        except UserError:
            if not self.failures:  # else they tell why there is nothing
                raise
        if self.failures:
            head = f"{len(self.failures)} of {self.num_jobs} jobs failed; the same command tries them again"
            raise UserError("\n".join([head, *(f"  {name}: {why}" for name, why in self.failures.items())]))


def claim(directory: Path, identity: dict[str, Any], facts: dict[str, Any]) -> None:
    """Make a directory that of a sweep of this name and objective, and write down further facts about it.

    Raises:
        UserError: It is that of another one.
    """
    path = directory / "sweep.json"
    there = read_json(path, identity)
    if differences := [
        f"{key} {there.get(key)} there, {here} here" for key, here in identity.items() if there.get(key) != here
    ]:
        raise UserError(f"{directory} holds another sweep: {'; '.join(differences)}; choose another sweep_name")
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({**there, **facts}) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error

"""The jobs of a sweep: composed, checked before the first one starts, reported when the last one has ended."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, open_dict

from leyden import summarize
from leyden.config import UserError, prepare
from leyden.run import Run
from leyden.sweep.launcher import Job
from leyden.sweep.slug import slug


def compose(loader: ConfigLoader, config: DictConfig, batch: Sequence[Sequence[str]], first: int = 0) -> list[Job]:
    """The job of each list of overrides; `first` is the number of the first one."""
    directory = Path(config.hydra.sweep.dir).absolute()
    jobs = []
    for number, overrides in enumerate(batch, start=first):
        composed = loader.load_sweep_config(config, list(overrides))
        with open_dict(composed):
            composed.hydra.job.id = composed.hydra.job.num = number
        name = slug(composed.hydra.overrides.task)
        jobs.append(Job(composed, Run(directory / name), directory / "logs" / f"{name}.log"))
    return jobs


def task_config(job: Job) -> DictConfig:
    """A job's configuration without Hydra's part."""
    cfg = job.config.copy()
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def check(jobs: Sequence[Job]) -> None:
    """Find what is wrong with any of the jobs.

    Raises:
        UserError: Names the job and the mistake.
    """
    from leyden import build  # imports what takes seconds

    facts: dict[str, Any] = {}
    for number, job in enumerate(jobs):
        try:
            cfg = task_config(job)
            config = prepare(cfg, job.run.directory)
            job.run.accept(config, cfg.resume)
            build.check(cfg, facts)
        except UserError as error:
            raise UserError(f"job {number} of {len(jobs)}, {job.run.directory.name}: {error}") from error


class Sweep:
    """A sweep directory and the jobs that run in it by a launcher; a context that ends the launcher's workers.

    Args:
        loader: Composes the jobs' configurations.
        config: Of the sweep, Hydra's part included.
        launcher: Any of Hydra's.
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

    def check(self, batch: Sequence[Sequence[str]]) -> bool:
        """Find mistakes in the jobs and take the directory; False if that was all that is wanted, by `dry_run`.

        Raises:
            UserError: A job is wrong, or the directory is that of another sweep.
        """
        jobs = compose(self.loader, self.config, batch)
        check(jobs)
        cfg = task_config(jobs[0])
        if cfg.dry_run:
            for number, job in enumerate(jobs):
                print(f"{number}: {' '.join(job.config.hydra.overrides.task)}")
            return False
        claim(self.directory, {"name": cfg.name, "objective": prepare(cfg, self.directory)["objective"]})
        return True

    def run(self, batch: Sequence[Sequence[str]], *, last: bool = True) -> Sequence[JobReturn]:
        """Run jobs; the last ones end with the summary.

        Raises:
            UserError: Jobs have failed; it lists them with reason and log.
        """
        returns = self.launcher.launch(batch, initial_job_idx=self.num_jobs)
        for job, returned in zip(compose(self.loader, self.config, batch), returns, strict=True):
            if returned.status == JobStatus.FAILED:
                self.failures[job.run.directory.name] = f"{returned._return_value}\n    {job.log}"
        self.num_jobs += len(batch)
        if last:
            self.conclude()
        return returns

    def conclude(self) -> None:
        """Write and print the summary; raise for the failures."""
        summarize.summarize(self.directory)
        if self.failures:
            head = f"{len(self.failures)} of {self.num_jobs} jobs failed; the same command tries them again"
            raise UserError("\n".join([head, *(f"  {name}: {why}" for name, why in self.failures.items())]))


def claim(directory: Path, identity: dict[str, Any]) -> None:
    """Make a directory that of a sweep of this name and objective.

    Raises:
        UserError: It is that of another one.
    """
    path = directory / "sweep.json"
    there = json.loads(path.read_text()) if path.exists() else identity
    if differences := [
        f"{key} {there.get(key)} there, {here} here" for key, here in identity.items() if there.get(key) != here
    ]:
        raise UserError(f"{directory} holds another sweep: {'; '.join(differences)}; choose another sweep_name")
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(identity) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error

"""The jobs of a sweep: composed, checked before the first one starts, reported when the last one has ended."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
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


def claim(directory: Path, jobs: Sequence[Job]) -> None:
    """Make the sweep's directory that of this experiment.

    Raises:
        UserError: It is that of another one.
    """
    path = directory / "sweep.json"
    name = str(task_config(jobs[0]).name)
    if path.exists():
        there = json.loads(path.read_text())["name"]
        if there != name:
            raise UserError(f"{directory}: a sweep of {there}, not of {name}; choose another sweep_name")
    try:
        (directory / "logs").mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": name}) + "\n")
    except OSError as error:
        raise UserError(f"{directory}: can't be written to ({error.strerror})") from error


def conclude(directory: Path, jobs: Sequence[Job], failures: dict[str, str]) -> None:
    """Write and print the summary of a sweep.

    Raises:
        UserError: Jobs have failed; it lists them with reason and log.
    """
    summarize.summarize(directory)
    if failures:
        logs = {job.run.directory.name: job.log for job in jobs}
        lines = [f"  {name}: {reason}\n    {logs[name]}" for name, reason in failures.items()]
        raise UserError(
            "\n".join([f"{len(failures)} of {len(jobs)} jobs failed; the same command tries them again", *lines])
        )


def describe(jobs: Sequence[Job]) -> str:
    """A line a job."""
    return "\n".join(f"{number}: {' '.join(job.config.hydra.overrides.task)}" for number, job in enumerate(jobs))

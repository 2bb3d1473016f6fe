"""Submits and leaves: no process stays where the command was typed."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.cluster import slurm
from leyden.cluster.on_node import search_on_node
from leyden.cluster.submit import SlurmRunner
from leyden.config.mistakes import UserError
from leyden.config.terminal import typed
from leyden.run.files import read_json, write_whole
from leyden.sweep.jobs import Job


def leave_jobs(jobs: Sequence[Job], runner: SlurmRunner) -> None:
    """Submit those jobs that have not ended, and say where they can be looked at."""
    todo = [job for job in jobs if not job.run.is_finished(job.choices)]
    for job, number in zip(todo, runner.submit(todo), strict=True):
        print(f"job {number}: {job.run.directory.name}")
    _say_where(runner)


def leave_search(config: DictConfig, runner: SlurmRunner, num_jobs: int) -> None:
    """Submit jobs that go on with a search by themselves, until there are so many, those of earlier calls included.

    Raises:
        UserError: Slurm does not answer, takes no job, or would start several processes per job.
    """
    if (num := runner.cluster.nodes * runner.cluster.tasks_per_node) > 1:
        raise UserError(
            f"cluster.wait=false: the jobs of a search that is left are of one process; these have {num}"
        )
    if any(source.provider == "command-line" for source in config.hydra.runtime.config_sources):
        raise UserError("--config-dir: the jobs of a search that is left know conf/ alone; put the files there")
    config = _for_elsewhere(config, runner.directory)
    # What decides how a job goes on; those that are alive already know no other.
    asked = {"overrides": [*config.hydra.overrides.task, *config.hydra.overrides.hydra]}
    path = runner.directory / "slurm" / "search.json"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_name("search.lock")):
        known = read_json(path, {})
        alive = slurm.alive(jobs := known.get("jobs", []))
        ids = [number for number in jobs if number in alive]
        if ids and known["overrides"] != asked["overrides"]:
            raise UserError(
                f"jobs {', '.join(ids)} are still searching with other settings, and would go on so; let them end, or "
                f"scancel {' '.join(ids)}, before the search is left with these"
            )
        if num_jobs > len(ids):
            new = runner.map(search_on_node, [(runner.module, config)] * (num_jobs - len(ids)))
            ids += [job.job_id for job in new]
            write_whole(path, json.dumps({"jobs": ids, **asked}) + "\n")
    print(f"{len(ids)} jobs search: {', '.join(ids)}")
    print(f"what they print: {runner.directory / 'slurm'}")
    _say_where(runner)


def _for_elsewhere(config: DictConfig, directory: Path) -> DictConfig:
    """The configuration of a sweep with all places in it, from which each trial is composed where the code is a copy."""
    config = config.copy()
    places = {"outputs": directory.parent.parent, "sweep_name": directory.name}
    if root := OmegaConf.select(config, "data.root"):
        places["data.root"] = Path(root).absolute()
    with open_dict(config):
        for key, place in places.items():
            OmegaConf.update(config, key, str(place))
        # As it is typed to Hydra, without what the shell needs.
        config.hydra.overrides.task = [
            *config.hydra.overrides.task,
            *(shlex.split(typed(key, place))[0] for key, place in places.items()),
        ]
    return config


def _say_where(runner: SlurmRunner) -> None:
    print(f"how they are doing: python -m leyden.summarize {shlex.quote(str(runner.directory))}")

"""Submits and leaves: no process stays where the command was typed."""

import json
import shlex
from collections.abc import Sequence

from omegaconf import DictConfig

from leyden.cluster import slurm
from leyden.cluster.on_node import search_on_node
from leyden.cluster.submit import SlurmRunner
from leyden.config.mistakes import UserError
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
    path = runner.directory / "slurm" / "search.json"
    known = read_json(path, [])
    states = slurm.states(known)
    if known and not states:
        raise UserError("cluster: Slurm does not answer, and jobs of this search may be in its queue; try again")
    ids = [number for number in known if states[number] not in slurm.ENDED]
    if num_jobs > len(ids):
        new = runner.map(search_on_node, [(runner.module, config)] * (num_jobs - len(ids)))
        ids += [job.job_id for job in new]
        write_whole(path, json.dumps(ids) + "\n")
    print(f"{len(ids)} jobs search: {', '.join(ids)}")
    _say_where(runner)


def _say_where(runner: SlurmRunner) -> None:
    print(f"how they are doing: python -m leyden.summarize {shlex.quote(str(runner.directory))}")

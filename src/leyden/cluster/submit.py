"""Submission of a sweep's jobs to a cluster, from a snapshot of the code; followed, or left to run."""

import contextlib
import json
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.cluster.on_node import run_on_node, search_on_node, submission
from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import quoted_override, warn
from leyden.run.files import read_json, write_whole
from leyden.run.provenance import GIT_OF_COPY, state_of_code
from leyden.scheduler.protocol import JobState, Scheduler, Submitted
from leyden.sweep.jobs import Job, failure_as_text


def snapshot(directory: Path) -> Path:
    """Copy `src/` and `conf/` to a new folder below `directory`, with the state of the code by git."""
    copy = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (copy / GIT_OF_COPY).write_text(json.dumps(state_of_code(), indent=2) + "\n", encoding="utf-8")
    return copy


MAX_POLL_S = 15.0
MAX_ARRAY = 500  # jobs; Slurm's own limit, MaxArraySize, is 1001 where it was not changed
GRACE_S = {True: 90.0, False: 5.0}  # for the result of a job that has ended, well or not


class ClusterRunner:
    """Runs jobs on a cluster; a `sweep.status.Runner`.

    Args:
        scheduler: Starts the jobs.
        directory: The sweep's; scripts and logs go to a folder with the scheduler's name, copies of the code to `code/`.
        cluster: The resources of a job, as `conf/cluster/slurm.yaml` has them.
        module: Name of the module whose `main.task` a job is.
    """

    def __init__(self, scheduler: Scheduler, directory: Path, cluster: DictConfig, module: str) -> None:
        self.scheduler, self.directory, self.cluster, self.module = scheduler, directory, cluster, module
        self.folder = directory / scheduler.name
        self.code: Path | None = None  # the copy that jobs run from, once there is one
        self.running: dict[str, list[Job]] = {}  # by id; several jobs can be one run
        # When a job without a result was first seen to have ended, and how.
        self.ended: dict[str, tuple[float, JobState]] = {}
        self.pause_s = 1.0

    def script(self, num_jobs: int) -> str:
        """Return the script that would be submitted, which the scheduler has accepted unless `cluster.dry_run`.

        Raises:
            UserError: There is no such scheduler here, or it rejects the script.
        """
        return self.scheduler.script(self.folder, self.cluster, num_jobs, code=self.code)

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit the jobs that do not wait or run already; return the ids of all."""
        known = [job.run.submission for job in jobs]
        alive = self.alive([each["job_id"] for each in known if each])
        active = [bool(each) and each["job_id"] in alive for each in known]
        # Of jobs that are one run, one is submitted.
        pairs = zip(jobs, active, strict=True)
        todo = list({job.run.directory: job for job, is_active in pairs if not is_active}.values())
        for start in range(0, len(todo), MAX_ARRAY):
            self._submit(todo[start : start + MAX_ARRAY])
        for job in jobs:
            job.log = Path(job.run.submission["log"])
        return [job.run.submission["job_id"] for job in jobs]

    def alive(self, ids: Sequence[str]) -> set[str]:
        """Return those jobs that wait or run.

        Raises:
            UserError: The scheduler does not answer.
        """
        states = self.scheduler.states(ids)
        if ids and not states:
            raise UserError(
                f"cluster: {self.scheduler.name} does not answer, and some of the jobs may be in its queue; try again"
            )
        return {job for job, state in states.items() if state.phase != "ended"}

    room = None  # a cluster has a queue

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit them, as `submit` does."""
        for number, job in zip(self.submit(jobs), jobs, strict=True):
            self.running.setdefault(number, []).append(job)
        self.pause_s = 1.0

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Return the jobs that have ended with their errors, and the number of those that run."""
        time.sleep(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        states = self.scheduler.states(list(self.running))
        over = []
        for number, jobs in list(self.running.items()):
            if (error := self._error(number, jobs[0], states.get(number))) is not None:
                over += [(job, error) for job in jobs]
                del self.running[number]
        return over, [state.phase for state in states.values()].count("running")

    def stop(self) -> None:
        """Cancel those that have not ended."""
        if self.running and (problem := self.scheduler.cancel(list(self.running))):
            warn(f"{self.scheduler.name} does not cancel jobs {', '.join(self.running)}: {problem}")

    def _error(self, number: str, job: Job, state: JobState | None) -> str | None:
        """Return the error that a job has ended with, empty for none; None while it has not ended."""
        if result := job.run.result:
            return failure_as_text(result.error) if result.error else ""
        if state is None or state.phase != "ended":
            self.ended.pop(number, None)
            return None
        since, state = self.ended.setdefault(number, (time.monotonic(), state))
        # On a network file system a file can be seen later than a state.
        if time.monotonic() - since <= GRACE_S[state.text == "COMPLETED"]:
            return None
        return f"{self.scheduler.name}: job {number} is {state.text} without a result"

    def _submit(self, jobs: Sequence[Job]) -> None:
        choices = [job.choices for job in jobs]
        arguments = [
            (self.module, job.config_on_node, each, job.overrides) for job, each in zip(jobs, choices, strict=True)
        ]
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits
            for job, each in zip(jobs, choices, strict=True):
                locks.enter_context(job.run.locked(each, resume="auto"))
            submitted = self.map(run_on_node, arguments)
            for job, each, one in zip(jobs, choices, submitted, strict=True):
                job.run.begin(each, job.overrides)  # from now on its directory tells that it is meant to run
                job.run.submission = submission(self.scheduler, one)

    def map(self, work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[Submitted]:
        """Submit one job per tuple of arguments, from a snapshot of the code.

        Raises:
            UserError: The scheduler takes no job.
        """
        if self.cluster.snapshot and self.code is None:
            self.code = snapshot(self.directory / "code")
        return self.scheduler.submit(self.folder, self.cluster, work, arguments, code=self.code)


def leave_jobs(jobs: Sequence[Job], runner: ClusterRunner) -> None:
    """Submit those jobs that have not ended, and say where they can be looked at."""
    todo = [job for job in jobs if not job.run.is_finished(job.choices)]
    for job, number in zip(todo, runner.submit(todo), strict=True):
        print(f"job {number}: {job.run.directory.name}")
    _say_where(runner)


def leave_search(config: DictConfig, runner: ClusterRunner, num_jobs: int) -> None:
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
    path = runner.folder / "search.json"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_name("search.lock")):
        known = read_json(path, {})
        alive = runner.alive(jobs := known.get("jobs", []))
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
    print(f"what they print: {runner.folder}")
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
            *(shlex.split(quoted_override(key, place))[0] for key, place in places.items()),
        ]
    return config


def _say_where(runner: ClusterRunner) -> None:
    print(f"how they are doing: python -m leyden.summarize {shlex.quote(str(runner.directory))}")

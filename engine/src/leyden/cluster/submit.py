"""Submission of a sweep's jobs to a cluster, from a snapshot of the code."""

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
from leyden.config.paths import CONF, LIBRARY, NOT_OWN, ROOT, SRC
from leyden.config.terminal import leyden_command, quoted_override, warn
from leyden.run.files import read_json, write_whole
from leyden.run.provenance import GIT_OF_COPY, state_of_code
from leyden.scheduler.protocol import JobState, Scheduler, Submitted
from leyden.sweep.jobs import Job, failure_as_text


def snapshot(directory: Path) -> Path:
    """Copy the project's code and settings, the library, and the state of the git repository to a new folder.

    Args:
        directory: The folder in which the new folder is created.

    Returns:
        The new folder: a project, with the library in its `engine/src/`.
    """
    copy = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(CONF, copy / "conf", ignore=ignore)
    if SRC != ROOT:
        shutil.copytree(SRC, copy / "src", ignore=ignore)
    else:
        for path in ROOT.glob("*"):
            if path.suffix == ".py":
                shutil.copy2(path, copy)
            elif path.name not in NOT_OWN and any(path.glob("*.py")):
                shutil.copytree(path, copy / path.name, ignore=ignore)
    library = copy / "engine" / "src"
    shutil.copytree(LIBRARY, library / "leyden", ignore=ignore)
    (library / "hydra_plugins").mkdir()
    for path in (LIBRARY.parent / "hydra_plugins").glob("leyden_*.py"):
        shutil.copy2(path, library / "hydra_plugins")
    (copy / GIT_OF_COPY).write_text(json.dumps(state_of_code(), indent=2) + "\n", encoding="utf-8")
    return copy


MAX_POLL_S = 15.0
MAX_ARRAY = 500  # jobs per array; Slurm's limit, MaxArraySize, is 1001 by default
# Seconds to wait for the result of a job that has ended; the key is whether it has completed without failure.
GRACE_S = {True: 90.0, False: 5.0}


class ClusterRunner:
    """Runner of jobs on a cluster, a `leyden.sweep.status.Runner`.

    Args:
        scheduler: The scheduler that starts the jobs.
        directory: The sweep directory; it has scripts and logs in a folder named after the scheduler, and `code/`.
        cluster: The node `cluster` of the configuration, as in `conf/cluster/slurm.yaml`.
        module: Name of the module whose `main.task` runs a job.
    """

    def __init__(self, scheduler: Scheduler, directory: Path, cluster: DictConfig, module: str) -> None:
        self.scheduler, self.directory, self.cluster, self.module = scheduler, directory, cluster, module
        self.folder = directory / scheduler.name
        self.code: Path | None = None  # the snapshot that jobs run from
        self.running: dict[
            str, list[Job]
        ] = {}  # by the scheduler's job id; jobs with the same run directory share one
        # By job id, for jobs that ended without a result: the time when this was noticed, and the state.
        self.ended: dict[str, tuple[float, JobState]] = {}
        self.pause_s = 1.0

    def script(self, num_jobs: int) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, the scheduler tests it first.

        Raises:
            UserError: The scheduler is not installed here, or rejects the script.
        """
        return self.scheduler.script(self.folder, self.cluster, num_jobs, code=self.code)

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit the jobs that are not queued or running already; return the scheduler's job ids of all jobs."""
        known = [job.run.submission for job in jobs]
        alive = self.alive([each["job_id"] for each in known if each])
        active = [bool(each) and each["job_id"] in alive for each in known]
        # Jobs with the same run directory are submitted once.
        pairs = zip(jobs, active, strict=True)
        todo = list({job.run.directory: job for job, is_active in pairs if not is_active}.values())
        for start in range(0, len(todo), MAX_ARRAY):
            self._submit(todo[start : start + MAX_ARRAY])
        for job in jobs:
            job.log = Path(job.run.submission["log"])
        return [job.run.submission["job_id"] for job in jobs]

    def alive(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of jobs that are queued or running.

        Raises:
            UserError: The scheduler does not answer.
        """
        states = self.scheduler.states(ids)
        if ids and not states:
            raise UserError(
                f"cluster: {self.scheduler.title} does not answer, and some of the jobs may be in its queue; try again"
            )
        return {job for job, state in states.items() if state.phase != "ended"}

    num_free = None  # a cluster queues any number of jobs

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs."""
        for number, job in zip(self.submit(jobs), jobs, strict=True):
            self.running.setdefault(number, []).append(job)
        self.pause_s = 1.0

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Wait a moment, then return the jobs that have ended and the number of running ones, as `Runner.wait`."""
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
        """Cancel the jobs that have not ended."""
        if self.running and (problem := self.scheduler.cancel(list(self.running))):
            warn(f"{self.scheduler.title} could not cancel jobs {', '.join(self.running)}: {problem}")

    def _error(self, number: str, job: Job, state: JobState | None) -> str | None:
        """Return the text of the error that a job ended with, empty on success; None if it has not ended."""
        if result := job.run.result:
            return failure_as_text(result.error) if result.error else ""
        if state is None or state.phase != "ended":
            self.ended.pop(number, None)
            return None
        since, state = self.ended.setdefault(number, (time.monotonic(), state))
        # On a network file system, the result may become visible after the state.
        if time.monotonic() - since <= GRACE_S[state.is_completed]:
            return None
        return f"{self.scheduler.title}: job {number} is {state.text} without a result"

    def _submit(self, jobs: Sequence[Job]) -> None:
        arguments = [(self.module, job.config_on_node, job.identity, job.overrides) for job in jobs]
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits for its lock
            for job in jobs:
                locks.enter_context(job.run.locked(job.identity, resume="auto"))
            submitted = self.map(run_on_node, arguments)
            for job, submitted_job in zip(jobs, submitted, strict=True):
                job.run.begin(job.identity, job.overrides)
                job.run.submission = submission(self.scheduler, submitted_job)

    def map(self, work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[Submitted]:
        """Submit a job per tuple of arguments, from a snapshot of the code.

        Raises:
            UserError: The scheduler rejects the jobs.
        """
        if self.cluster.snapshot and self.code is None:
            self.code = snapshot(self.directory / "code")
        return self.scheduler.submit(self.folder, self.cluster, work, arguments, code=self.code)


def submit_jobs(jobs: Sequence[Job], runner: ClusterRunner) -> None:
    """Submit the jobs that have not ended, without waiting for them, and print how to follow them."""
    todo = [job for job in jobs if not job.run.is_finished(job.identity)]
    for job, number in zip(todo, runner.submit(todo), strict=True):
        print(f"job {number}: {job.run.directory.name}")
    _print_summarize_command(runner)


def submit_search(config: DictConfig, runner: ClusterRunner, num_jobs: int) -> None:
    """Submit jobs that run a search without this process, until `num_jobs` of them are queued or running.

    Jobs of earlier calls count.

    Raises:
        UserError: The scheduler does not answer or rejects the jobs, jobs of earlier calls have other settings, or
            a job would have several processes.
    """
    if (num := runner.cluster.nodes * runner.cluster.tasks_per_node) > 1:
        raise UserError(
            f"cluster.wait=false: each job of a detached search must have one process; these have {num}"
        )
    if any(source.provider == "command-line" for source in config.hydra.runtime.config_sources):
        raise UserError("--config-dir: the jobs of a detached search read only conf/; put the files there")
    config = _with_absolute_paths(config, runner.directory)
    # The settings of the search, which must equal those of jobs that are still alive.
    requested = {"overrides": [*config.hydra.overrides.task, *config.hydra.overrides.hydra]}
    path = runner.folder / "search.json"
    path.parent.mkdir(exist_ok=True)
    with FileLock(path.with_name("search.lock")):
        known = read_json(path, {})
        alive = runner.alive(jobs := known.get("jobs", []))
        ids = [number for number in jobs if number in alive]
        if ids and known["overrides"] != requested["overrides"]:
            raise UserError(
                f"jobs {', '.join(ids)} are still searching with different settings; wait for their end, or run "
                f"{runner.scheduler.cancel_command} {' '.join(ids)}, then run the same command again"
            )
        if num_jobs > len(ids):
            new = runner.map(search_on_node, [(runner.module, config)] * (num_jobs - len(ids)))
            ids += [job.job_id for job in new]
            write_whole(path, json.dumps({"jobs": ids, **requested}) + "\n")
    print(f"{len(ids)} jobs are searching: {', '.join(ids)}")
    print(f"their output: {runner.folder}")
    _print_summarize_command(runner)


def _with_absolute_paths(config: DictConfig, directory: Path) -> DictConfig:
    """Return a sweep's configuration with absolute paths, so that jobs compose the same trials from a snapshot."""
    config = config.copy()
    paths = {"outputs": directory.parent.parent, "sweep_name": directory.name}
    if root := OmegaConf.select(config, "data.root"):
        paths["data.root"] = Path(root).absolute()
    with open_dict(config):
        for key, path in paths.items():
            OmegaConf.update(config, key, str(path))
        # Overrides as Hydra parses them, without the shell's quotes.
        config.hydra.overrides.task = [
            *config.hydra.overrides.task,
            *(shlex.split(quoted_override(key, path))[0] for key, path in paths.items()),
        ]
    return config


def _print_summarize_command(runner: ClusterRunner) -> None:
    print(f"their status: {leyden_command('summarize')} {shlex.quote(str(runner.directory))}")

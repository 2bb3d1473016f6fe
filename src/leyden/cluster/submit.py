"""Submission of a sweep's jobs to Slurm, as an array, from a snapshot of the code; followed, or left to run."""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import submitit
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.cluster import slurm
from leyden.cluster.on_node import run_on_node, search_on_node
from leyden.config.errors import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import quoted_override, warn
from leyden.run.files import read_json, write_whole
from leyden.run.provenance import GIT_OF_COPY, state_of_code
from leyden.sweep.jobs import Job, failure_as_text


def snapshot(directory: Path) -> Path:
    """Copy `src/` and `conf/` to a new folder below `directory`, with what git says about them now."""
    copy = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (copy / GIT_OF_COPY).write_text(json.dumps(state_of_code(), indent=2) + "\n", encoding="utf-8")
    return copy


MAX_POLL_S = 15.0
MAX_ARRAY = 500  # jobs; Slurm's own limit, MaxArraySize, is 1001 where it was not changed
GRACE_S = {True: 90.0, False: 5.0}  # for the result of a job that has ended, well or not


class SlurmRunner:
    """Runs jobs on a cluster.

    Args:
        directory: Of the sweep; scripts and logs go to `slurm/` in it, copies of the code to `code/`.
        cluster: As `conf/cluster/slurm.yaml` has it.
        module: Name of the module whose `main.task` a job is.
    """

    def __init__(self, directory: Path, cluster: DictConfig, module: str) -> None:
        self.directory, self.cluster, self.module = directory, cluster, module
        self.code: Path | None = None  # the copy that jobs run from, once there is one
        self.running: dict[str, list[Job]] = {}  # by the number that Slurm gave them; of one run there is one
        self.ended: dict[
            str, tuple[float, str]
        ] = {}  # when a job without a result was first seen to have ended, and how
        self.pause_s = 1.0

    def check(self, num_jobs: int) -> str:
        """The script that would be submitted, which Slurm has found acceptable.

        Raises:
            UserError: There is no Slurm here, or it rejects the script.
        """
        executor = self._executor(num_jobs)
        if num_jobs > 1:
            executor.parameters["map_count"] = num_jobs
        # submitit shows no script without submitting it.
        script = executor._make_submission_file_text(executor._submitit_command_str, "0")
        if not self.cluster.dry_run:
            try:
                done = subprocess.run(
                    ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=slurm.TIMEOUT_S
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                raise UserError(f"cluster: Slurm does not answer ({error})") from error
            if done.returncode:
                raise UserError(f"cluster: sbatch takes no such job: {' '.join(done.stderr.split())}")
        return str(script)

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit those jobs that are not in Slurm's hands already; the ids of all."""
        known = [job.run.submission for job in jobs]
        alive = slurm.alive([each["job_id"] for each in known if each])
        active = [bool(each) and each["job_id"] in alive for each in known]
        # Of jobs that are one run, one is submitted.
        pairs = zip(jobs, active, strict=True)
        todo = list({job.run.directory: job for job, is_active in pairs if not is_active}.values())
        for start in range(0, len(todo), MAX_ARRAY):
            self._submit(todo[start : start + MAX_ARRAY])
        for job in jobs:
            job.log = Path(job.run.submission["log"])
        return [job.run.submission["job_id"] for job in jobs]

    room = None  # Slurm has a queue

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit them, as `submit` does."""
        for number, job in zip(self.submit(jobs), jobs, strict=True):
            self.running.setdefault(number, []).append(job)
        self.pause_s = 1.0

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """As `batch.Runner` says."""
        time.sleep(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        states = slurm.states(list(self.running))
        over = []
        for number, jobs in list(self.running.items()):
            if (error := self._error(number, jobs[0], states.get(number, "UNKNOWN"))) is not None:
                over += [(job, error) for job in jobs]
                del self.running[number]
        return over, list(states.values()).count("RUNNING")

    def stop(self) -> None:
        """Cancel those that have not ended."""
        if self.running and (problem := slurm.cancel(list(self.running))):
            warn(f"Slurm does not cancel jobs {', '.join(self.running)}: {problem}")

    def _error(self, number: str, job: Job, state: str) -> str | None:
        """What a job has ended with, empty for no error; None while it has not ended."""
        if result := job.run.result:
            return failure_as_text(result.error) if result.error else ""
        if state not in slurm.ENDED:
            self.ended.pop(number, None)
            return None
        since, state = self.ended.setdefault(number, (time.monotonic(), state))
        # A file can be seen later than a state, where the folder is one of a network.
        if time.monotonic() - since <= GRACE_S[state == "COMPLETED"]:
            return None
        return f"Slurm: job {number} is {state} without a result"

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
                job.run.submission = {"job_id": one.job_id, "log": str(one.paths.stdout)}

    def map(self, work: Callable[..., None], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Submit one job per tuple of arguments, as an array, from a copy of the code.

        Raises:
            UserError: Slurm takes no job.
        """
        if self.cluster.snapshot and self.code is None:
            self.code = snapshot(self.directory / "code")
        try:
            return list(self._executor(len(arguments)).map_array(work, *zip(*arguments, strict=True)))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise UserError(f"cluster: Slurm takes no job: {' '.join(str(error).split())}") from error

    def _executor(self, num_jobs: int) -> Any:
        c, code = self.cluster, self.code
        # A SIGUSR1 that comes while Python is importing waits until training starts, where it is dealt with.
        python = f"env --block-signal=USR1 {shlex.quote(sys.executable)}"
        try:
            executor = submitit.SlurmExecutor(self.directory / "slurm", python=python)
        except RuntimeError as error:
            raise UserError(f"cluster: there is no Slurm on this machine ({error})") from error
        setup = [f"export PYTHONPATH={shlex.quote(str(code / 'src'))}:$PYTHONPATH"] if code else []
        setup += ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
        options: dict[str, Any] = OmegaConf.to_container(c.options, resolve=True)  # type: ignore[assignment]
        given = {key: c[key] for key in ("partition", "account", "qos", "constraint") if c[key] is not None}
        executor.update_parameters(
            **given,
            job_name="leyden",
            nodes=c.nodes,
            ntasks_per_node=c.tasks_per_node,
            cpus_per_task=c.cpus_per_task,
            gpus_per_node=c.gpus_per_task * c.tasks_per_node or None,
            mem=f"{c.mem_gb}GB",
            time=c.time_min,
            array_parallelism=c.num_jobs or num_jobs,
            stderr_to_stdout=True,
            srun_args=["--kill-on-bad-exit=1"],  # else the others would wait for a process that has failed
            setup=[*setup, *c.setup],
            additional_parameters={"signal": f"USR1@{c.signal_delay_s}", "requeue": True, **options},
        )
        return executor


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
            *(shlex.split(quoted_override(key, place))[0] for key, place in places.items()),
        ]
    return config


def _say_where(runner: SlurmRunner) -> None:
    print(f"how they are doing: python -m leyden.summarize {shlex.quote(str(runner.directory))}")

"""Submits the jobs of a sweep to Slurm, as an array, and tells what became of them."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import submitit
from omegaconf import DictConfig, OmegaConf, open_dict

from leyden.cluster import slurm
from leyden.cluster.job import work
from leyden.cluster.snapshot import snapshot
from leyden.config import UserError
from leyden.sweep.jobs import Job

MAX_POLL_S = 15.0


def check_resources(cluster: DictConfig, trainer: DictConfig) -> None:
    """Make sure that the resources make sense, and that the trainer uses what is asked for.

    Raises:
        UserError: They don't.
    """
    least = {"gpus_per_task": 0, "max_requeues": 0}
    least |= dict.fromkeys(("nodes", "tasks_per_node", "cpus_per_task", "mem_gb", "time_min", "signal_delay_s"), 1)
    for key, smallest in least.items():
        if type(cluster[key]) is not int or cluster[key] < smallest:
            raise UserError(f"cluster.{key}={cluster[key]}: must be a whole number, {smallest} or larger")
    if cluster.num_jobs is not None and (type(cluster.num_jobs) is not int or cluster.num_jobs < 1):
        raise UserError(
            f"cluster.num_jobs={cluster.num_jobs}: must be a positive whole number, or null for no limit"
        )
    for key, source in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
        if trainer[key] != cluster[source]:
            raise UserError(
                f"trainer.{key}={trainer[key]}: follows from cluster.{source}={cluster[source]}; set that"
            )
    if trainer.accelerator == "gpu" and not cluster.gpus_per_task:
        raise UserError("trainer.accelerator=gpu: cluster.gpus_per_task=0 asks for no GPU")
    if trainer.accelerator == "cpu" and cluster.gpus_per_task:
        raise UserError(f"trainer.accelerator=cpu: cluster.gpus_per_task={cluster.gpus_per_task} asks for GPUs")


class SlurmRunner:
    """Runs jobs on a cluster.

    Args:
        directory: Of the sweep; scripts and logs go to `slurm/` in it, copies of the code to `code/`.
        cluster: As `conf/cluster/slurm.yaml` has it.
        module: Name of the module whose `main.task` a job is.
    """

    def __init__(self, directory: Path, cluster: DictConfig, module: str) -> None:
        self.directory, self.cluster, self.module = directory, cluster, module

    def check(self, num_jobs: int) -> str:
        """The script that would be submitted, which Slurm has found acceptable.

        Raises:
            UserError: There is no Slurm here, or it rejects the script.
        """
        executor = self._executor(None)
        if num_jobs > 1:
            executor.parameters["map_count"] = num_jobs
        script = executor._make_submission_file_text(executor._submitit_command_str, "0")
        if not self.cluster.dry_run:
            done = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"cluster: Slurm rejects the job: {' '.join(done.stderr.split())}")
        return str(script)

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit those jobs that are not in Slurm's hands already; the ids of all."""
        known = [job.run.submission for job in jobs]
        states = slurm.states([each["job_id"] for each in known if each])
        active = [bool(each) and states.get(each["job_id"]) not in (None, *slurm.ENDED) for each in known]
        todo = [job for job, is_active in zip(jobs, active, strict=True) if not is_active]
        for job in todo:  # from now on its directory tells that it is meant to run
            with job.run.locked(config := job.plain_config, resume="auto"):
                job.run.begin(config, job.overrides)
        submitted = iter(self._submit(todo))
        ids = []
        for job, each, is_active in zip(jobs, known, active, strict=True):
            if not is_active:
                one = next(submitted)
                each = {"job_id": one.job_id, "log": str(one.paths.stdout)}
                job.run.submission = each
            job.log = Path(each["log"])
            ids.append(each["job_id"])
        return ids

    def run(self, jobs: Sequence[Job], report: Callable[[Sequence[str | None], int], Any]) -> list[str]:
        """Submit and wait, as `batch.Runner` says."""
        ids = self.submit(jobs)
        errors: list[str | None] = [None] * len(jobs)
        suspects: set[int] = set()
        pause = 1.0
        while None in errors:
            time.sleep(pause)
            pause = min(1.2 * pause, MAX_POLL_S)
            waiting = [n for n, error in enumerate(errors) if error is None]
            states = slurm.states([ids[n] for n in waiting])
            for n in waiting:
                result = jobs[n].run.result
                state = states.get(ids[n], "UNKNOWN")
                if result:
                    error = result["error"]
                    errors[n] = f"{error['type']}: {error['message']}" if error else ""
                elif state not in slurm.ENDED:
                    suspects.discard(n)
                elif n in suspects:  # looked at once more: files can come later than states
                    errors[n] = f"Slurm: job {ids[n]} is {state} without a result"
                else:
                    suspects.add(n)
            report(errors, list(states.values()).count("RUNNING"))
        return [error or "" for error in errors]

    def _submit(self, jobs: Sequence[Job]) -> list[Any]:
        if not jobs:
            return []
        executor = self._executor(snapshot(self.directory / "code") if self.cluster.snapshot else None)
        arguments = [(self.module, _for_node(job), job.plain_config, job.overrides) for job in jobs]
        try:
            return list(executor.map_array(work, *zip(*arguments, strict=True)))
        except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
            raise UserError(f"cluster: Slurm takes no job: {' '.join(str(error).split())}") from error

    def _executor(self, code: Path | None) -> Any:
        c = self.cluster
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
            array_parallelism=c.num_jobs or 10_000,
            stderr_to_stdout=True,
            setup=[*setup, *c.setup],
            additional_parameters={"signal": f"USR1@{c.signal_delay_s}", "requeue": True, **options},
        )
        return executor


def submit_and_leave(jobs: Sequence[Job], runner: SlurmRunner) -> None:
    """Submit those jobs that have not ended, and say where they can be looked at."""
    todo = [job for job in jobs if not job.run.is_finished(job.plain_config)]
    for job, number in zip(todo, runner.submit(todo), strict=True):
        print(f"job {number}: {job.run.directory.name}")
    print(f"how they are doing: python -m leyden.summarize {shlex.quote(str(runner.directory))}")


def _for_node(job: Job) -> DictConfig:
    """The job's configuration with nothing left that would be resolved anew, or fetched, on the node."""
    config = job.config.copy()
    with open_dict(config):
        config.update(job.plain_config)
        config.hydra.sweep.dir, config.hydra.sweep.subdir = str(job.run.directory.parent), job.run.directory.name
        config.data.download = False
    return config

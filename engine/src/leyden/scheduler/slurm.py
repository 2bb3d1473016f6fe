"""Slurm: its jobs, their states, and the resources that they request."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from leyden.config.errors import UserError
from leyden.config.paths import ROOT, environment_of
from leyden.scheduler.protocol import JobState, Phase, Submitted

TIMEOUT_S = 60
# States of jobs that will not run again. A job in any other state, even an unknown one, may still run.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}
RESOURCES = (
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "mem_gb",
    "time_min",
    "signal_delay_s",
    "num_trials_at_once",
)


class Slurm:
    """The Slurm scheduler, called through its commands such as `squeue`; the package submitit submits the jobs."""

    name = "slurm"
    title = "Slurm"
    rank_variable = "SLURM_PROCID"
    cancel_command = "scancel"

    def job_id(self) -> str | None:
        """Return the id of the job that this process belongs to; None outside of a job."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        # In an array's last task, SLURM_JOB_ID is the id of the whole array; a command would act on all tasks.
        return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")

    def num_restarts(self) -> int:
        """Return how often this process's job was restarted."""
        return int(os.environ.get("SLURM_RESTART_COUNT", "0"))

    def requeue(self) -> str:
        """Put this process's job back into the queue; return an error message, empty on success."""
        return _call("scontrol", "requeue", str(self.job_id()))[1]

    def cancel(self, ids: Sequence[str]) -> str:
        """Cancel queued and running jobs; return an error message, empty on success."""
        return _call("scancel", *ids)[1]

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if Slurm does not answer.

        A job that Slurm does not know any more is `GONE`: it ended long ago, or was cancelled before it started.
        """
        if not ids:
            return {}
        out, problem = _call(
            "squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--jobs", ",".join(ids)
        )
        if problem and "Invalid job id" not in problem:
            return {}
        known = dict(line.split() for line in out.splitlines())
        return {job: _state(known.get(job, "GONE")) for job in ids}

    def check(self, cluster: DictConfig, trainer: DictConfig) -> None:
        """Check that the requested resources are valid, and that the trainer uses them.

        Raises:
            UserError: A setting is wrong.
        """
        least = {"gpus_per_task": 0, "max_requeues": 0}
        least |= dict.fromkeys(RESOURCES, 1)
        for key, smallest in least.items():
            if type(cluster[key]) is not int or cluster[key] < smallest:
                raise UserError(f"cluster.{key}={cluster[key]}: must be a whole number, {smallest} or larger")
        for key in ("wait", "snapshot", "dry_run"):
            if type(cluster[key]) is not bool:
                raise UserError(f"cluster.{key}={cluster[key]}: must be true or false")
        if not isinstance(cluster.setup, ListConfig):
            raise UserError(f"cluster.setup={cluster.setup}: must be a list of lines, such as ['module load cuda']")
        if not isinstance(cluster.options, DictConfig):
            raise UserError(f"cluster.options={cluster.options}: each is set by +cluster.options.KEY=VALUE")
        if cluster.signal_delay_s >= 60 * cluster.time_min:
            raise UserError(f"cluster.signal_delay_s={cluster.signal_delay_s}: must be less than cluster.time_min")
        if cluster.gpus_per_task > 1:
            raise UserError(f"cluster.gpus_per_task={cluster.gpus_per_task}: a process trains on one device")
        for key, source in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
            if trainer[key] != cluster[source]:
                raise UserError(
                    f"trainer.{key}={trainer[key]}: follows from cluster.{source}={cluster[source]}; set that"
                )
        if trainer.accelerator == "gpu" and not cluster.gpus_per_task:
            raise UserError("trainer.accelerator=gpu: cluster.gpus_per_task=0 asks for no GPU")
        if trainer.accelerator == "auto" and cluster.gpus_per_task:
            raise UserError(
                f"trainer.accelerator=auto: with cluster.gpus_per_task={cluster.gpus_per_task} choose gpu: auto would train on "
                "the CPU of a node whose GPU can't be used"
            )
        if trainer.accelerator == "cpu" and cluster.gpus_per_task:
            raise UserError(f"trainer.accelerator=cpu: cluster.gpus_per_task={cluster.gpus_per_task} asks for GPUs")

    def script(self, folder: Path, cluster: DictConfig, num_jobs: int, *, code: Path | None) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, Slurm tests it first.

        Raises:
            UserError: Slurm is not installed here, or rejects the script.
        """
        executor = _executor(folder, cluster, num_jobs, code)
        if num_jobs > 1:
            executor.parameters["map_count"] = num_jobs
        # submitit has no public function for a script that is not submitted.
        script = executor._make_submission_file_text(executor._submitit_command_str, "0")
        if not cluster.dry_run:
            _, problem = _call("sbatch", "--test-only", text=str(script))
            if problem:
                raise UserError(f"cluster: sbatch rejects this job: {' '.join(problem.split())}")
        return str(script)

    def submit(
        self,
        folder: Path,
        cluster: DictConfig,
        work: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        *,
        code: Path | None,
    ) -> list[Submitted]:
        """Submit an array with one job per tuple of arguments; each job calls `work(*arguments)` on a node.

        Raises:
            UserError: Slurm rejects the jobs.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        try:
            jobs = _executor(folder, cluster, len(arguments), code).map_array(work, *zip(*arguments, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(f"cluster: Slurm rejects the job: {' '.join(str(error).split())}") from error
        return [Submitted(job.job_id, Path(job.paths.stdout)) for job in jobs]

    def log(self) -> Path:
        """Return the file that the job of this process prints to."""
        from submitit import JobEnvironment

        return Path(JobEnvironment().paths.stdout)


def _state(text: str) -> JobState:
    phase: Phase = "ended" if text in ENDED else "running" if text == "RUNNING" else "queued"
    return JobState(phase, text, is_completed=text == "COMPLETED")


def _call(*command: str, text: str | None = None) -> tuple[str, str]:
    """Run a Slurm command; return its output and an error message, empty on success."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"Slurm does not answer ({error})"
    return done.stdout, done.stderr.strip() or "failed" if done.returncode else ""


def _executor(folder: Path, cluster: DictConfig, num_jobs: int, code: Path | None) -> Any:
    """Return submitit's executor with the resources of a job."""
    import submitit

    # SIGUSR1 is blocked during imports, until training starts and can handle it.
    python = f"env --block-signal=USR1 {shlex.quote(sys.executable)}"
    try:
        executor = submitit.SlurmExecutor(folder, python=python)
    except RuntimeError as error:
        raise UserError(f"cluster: there is no Slurm on this machine ({error})") from error
    setup = [f"export {name}={shlex.quote(value)}" for name, value in environment_of(code or ROOT).items()]
    setup += ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
    options: dict[str, Any] = OmegaConf.to_container(cluster.options, resolve=True)  # type: ignore[assignment]
    given = {key: cluster[key] for key in ("partition", "account", "qos", "constraint") if cluster[key] is not None}
    executor.update_parameters(
        **given,
        job_name="leyden",
        nodes=cluster.nodes,
        ntasks_per_node=cluster.tasks_per_node,
        cpus_per_task=cluster.cpus_per_task,
        gpus_per_node=cluster.gpus_per_task * cluster.tasks_per_node or None,
        mem=f"{cluster.mem_gb}GB",
        time=cluster.time_min,
        array_parallelism=cluster.num_jobs or num_jobs,
        stderr_to_stdout=True,
        srun_args=["--kill-on-bad-exit=1"],  # otherwise the others would wait for a failed process
        setup=[*setup, *cluster.setup],
        additional_parameters={"signal": f"USR1@{cluster.signal_delay_s}", "requeue": True, **options},
    )
    return executor

"""Slurm: its jobs, their states, and the resources that they request."""

import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from leyden.config.errors import UserError
from leyden.scheduler.protocol import JobState, Phase, RejectedError, Submitted, check_trainer

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

TIMEOUT_S = 60
# States of jobs that will not run again. A job in any other state, even an unknown one, may still run.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}
# Reasons of a job that simply waits for its turn.
PATIENT = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime"}
MAX_ARRAY = 500  # jobs per array, if Slurm allows it
COMPILED = "${TMPDIR:-/tmp}/leyden-$UID-compiled-$SLURM_JOB_ID"
QUERIED = 200  # job ids per query, since a command line has a limit
RESOURCES = (
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "time_min",
    "signal_delay_s",
    "jobs_per_node",
    "num_trials_at_once",
)


class Slurm:
    """The Slurm scheduler, called through its commands such as `squeue`; the package submitit submits the jobs."""

    name = "slurm"
    title = "Slurm"
    rank_variable = "SLURM_PROCID"
    size_variable = "SLURM_STEP_NUM_TASKS"
    cancel_command = "scancel"

    def job_id(self) -> str | None:
        """Return the id of the job that this process belongs to; None outside of a job."""
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        # In an array's last task, SLURM_JOB_ID is the id of the whole array; a command would act on all tasks.
        return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")

    def num_restarts(self) -> int:
        """Return how often this process's job was restarted."""
        return int(os.environ.get("SLURM_RESTART_COUNT", "0"))

    def leave_job(self) -> None:
        """Remove the variables of this process's job from its environment; jobs that it submits would inherit them."""
        for name in list(os.environ):
            if name.startswith("SLURM_") and name != "SLURM_CONF":  # SBATCH_* are the user's own
                del os.environ[name]

    def requeue(self) -> str:
        """Put this process's job back into the queue; return an error message, empty on success."""
        return _call("scontrol", "requeue", str(self.job_id()))[1]

    def requeue_elsewhere(self) -> str:
        """Put this process's job back into the queue, not to start on this node again if the job has no other node.

        Which of several nodes has failed is not known. Slurm accepts the node once the job is back in the queue, and
        ends this process meanwhile, so that a process of its own asks for it.

        Returns:
            An error message, empty on success.
        """
        job, node = str(self.job_id()), os.environ.get("SLURMD_NODENAME", "")
        if problem := self.requeue():
            return problem
        if node and os.environ.get("SLURM_JOB_NUM_NODES") == "1":
            script = f"trap '' TERM; for n in 1 2 3 4 5; do scontrol update JobId={job} ExcNodeList={node} && exit; sleep 1; done"
            subprocess.Popen(["sh", "-c", script], start_new_session=True)
        return ""

    def cancel(self, ids: Sequence[str]) -> str:
        """Cancel queued and running jobs; return an error message, empty on success."""
        return _call("scancel", *ids)[1]

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if Slurm does not answer.

        A job that Slurm does not know any more is `GONE`: it ended long ago, or was cancelled before it started.
        """
        if not ids:
            return {}
        query = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r")
        out, problem = _call(*query, "--me")
        if problem:
            return {}
        known = _parse_states(out)
        others = [job for job in ids if job not in known]  # of another user, or ended long ago
        for start in range(0, len(others), QUERIED):
            out, problem = _call(*query, "--jobs", ",".join(others[start : start + QUERIED]))
            if problem and "Invalid job id" not in problem:
                return {}
            known |= _parse_states(out)
        return {job: known.get(job, JobState("ended", "GONE")) for job in ids}

    def check(self, cluster: DictConfig, trainer: DictConfig) -> None:
        """Check that the requested resources are valid, and that the trainer uses them.

        Raises:
            UserError: A setting is wrong.
        """
        least = {"max_requeues": 0}
        least |= dict.fromkeys(RESOURCES, 1) | ({} if cluster.mem_gb is None else {"mem_gb": 1})
        for key, smallest in least.items():
            if type(cluster[key]) is not int or cluster[key] < smallest:
                raise UserError(f"cluster.{key}={cluster[key]}: must be a whole number, {smallest} or larger")
        for key in ("wait", "snapshot", "dry_run", "use_srun"):
            if type(cluster[key]) is not bool:
                raise UserError(f"cluster.{key}={cluster[key]}: must be true or false")
        for key, example in {"setup": "['module load cuda']", "srun_args": "['--mpi=none']"}.items():
            if not isinstance(cluster[key], ListConfig):
                raise UserError(f"cluster.{key}={cluster[key]}: must be a list of texts, such as {example}")
        if cluster.gpu_option not in (None, "gpus-per-node", "gres"):
            raise UserError(f"cluster.gpu_option={cluster.gpu_option}: must be gpus-per-node, gres or null")
        if not cluster.use_srun and (num := cluster.nodes * cluster.tasks_per_node) > 1:
            raise UserError(f"cluster.use_srun=false: only srun starts the {num} processes of a job")
        if cluster.jobs_per_node > 1 and (num := cluster.nodes * cluster.tasks_per_node) > 1:
            raise UserError(
                f"cluster.jobs_per_node={cluster.jobs_per_node}: each run must have one process; these have {num}"
            )
        if not isinstance(cluster.options, DictConfig):
            raise UserError(f"cluster.options={cluster.options}: each is set by +cluster.options.KEY=VALUE")
        if cluster.signal_delay_s >= 60 * cluster.time_min:
            raise UserError(f"cluster.signal_delay_s={cluster.signal_delay_s}: must be less than cluster.time_min")
        if isinstance(cluster.gpus_per_task, bool) or not isinstance(cluster.gpus_per_task, int | float):
            raise UserError(f"cluster.gpus_per_task={cluster.gpus_per_task}: must be a number")
        if not 0 <= cluster.gpus_per_task <= 1:
            raise UserError(f"cluster.gpus_per_task={cluster.gpus_per_task}: a process trains on one device")
        if _num_gpus(cluster) != int(_num_gpus(cluster)):
            raise UserError(
                f"cluster.gpus_per_task={cluster.gpus_per_task}: times cluster.tasks_per_node and "
                f"cluster.jobs_per_node it is {_num_gpus(cluster):g}, no whole number of GPUs"
            )
        if cluster.stage is not None and not isinstance(cluster.stage, str):
            raise UserError(f"cluster.stage={cluster.stage}: must be a folder")
        check_trainer(cluster, trainer)

    def environment(self) -> "ClusterEnvironment | None":
        """Return Lightning's environment of this process; None in a terminal on a node."""
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        # The callback `Preemption` requeues.
        return SLURMEnvironment(auto_requeue=False) if SLURMEnvironment.detect() else None

    def max_array(self) -> int:
        """Return the largest number of jobs in an array, by the site's configuration."""
        out, _ = _call("scontrol", "show", "config")
        for line in out.splitlines():
            name, _, value = map(str.strip, line.partition("="))
            if name == "MaxArraySize" and value.isdecimal():
                return max(1, min(MAX_ARRAY, int(value)))
        return MAX_ARRAY

    def script(self, folder: Path, cluster: DictConfig, num_jobs: int, *, python: str) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, Slurm tests it first.

        Raises:
            UserError: Slurm is not installed here, or rejects the script.
        """
        executor = _executor(folder, cluster, num_jobs, python)
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
        python: str,
        starts_processes: bool = False,
    ) -> list[Submitted]:
        """Submit an array with one job per tuple of arguments; each process of a job calls `work(*arguments)`.

        Raises:
            RejectedError: Slurm rejects the jobs.
        """
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        executor = _executor(folder, cluster, len(arguments), python)
        if starts_processes:  # by srun within the script's process; Slurm still signals those that srun starts
            executor.update_parameters(use_srun=False)
        try:
            jobs = executor.map_array(work, *zip(*arguments, strict=True))
        except (FailedJobError, FailedSubmissionError) as error:
            raise RejectedError(f"cluster: Slurm rejects the job: {' '.join(str(error).split())}") from error
        return [Submitted(job.job_id, Path(job.paths.stdout)) for job in jobs]

    def start_command(self, cluster: DictConfig, python: str) -> str:
        """Return the shell command that starts each process of this job with the arguments of Python that follow."""
        return f"srun {shlex.join(_srun_arguments(cluster))} {python}"

    def log(self) -> Path:
        """Return the file that the job of this process prints to."""
        from submitit import JobEnvironment

        return Path(JobEnvironment().paths.stdout)


def _parse_states(output: str) -> dict[str, JobState]:
    """Return the states in lines of job id, state and reason."""
    found = {}
    for line in output.splitlines():
        job, text, reason = line.strip().split("|", 2)
        phase: Phase = "ended" if text in ENDED else "running" if text == "RUNNING" else "queued"
        waits = reason.strip("()") if phase == "queued" and reason not in PATIENT else ""
        found[job] = JobState(phase, text, is_completed=text == "COMPLETED", reason=waits)
    return found


def _call(*command: str, text: str | None = None) -> tuple[str, str]:
    """Run a Slurm command; return its output and an error message, empty on success."""
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"Slurm does not answer ({error})"
    return done.stdout, done.stderr.strip() or "failed" if done.returncode else ""


def _num_gpus(cluster: DictConfig) -> float:
    """Return the number of GPUs per node of a job."""
    return float(cluster.gpus_per_task * cluster.tasks_per_node * cluster.jobs_per_node)


def _srun_arguments(cluster: DictConfig) -> list[str]:
    """Return the arguments of srun; if a process fails, it ends the others, which would wait for it."""
    return ["--kill-on-bad-exit=1", *cluster.srun_args]


def _executor(folder: Path, cluster: DictConfig, num_jobs: int, python: str) -> Any:
    """Return submitit's executor with the resources of a job."""
    import submitit

    # Without srun, Slurm signals nothing but the script's shell, which Python then replaces.
    signal = f"USR1@{cluster.signal_delay_s}" if cluster.use_srun else f"B:USR1@{cluster.signal_delay_s}"
    python = python if cluster.use_srun else f"exec {python}"
    try:
        executor = submitit.SlurmExecutor(folder, python=python)
    except RuntimeError as error:
        raise UserError(f"cluster: there is no Slurm on this machine ({error})") from error
    setup = ["export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK"]
    # By default a part of what torch.compile keeps lies in the home folder, which all nodes share.
    setup += [f"export TORCHINDUCTOR_CACHE_DIR={COMPILED} TRITON_CACHE_DIR={COMPILED}/triton"]
    options: dict[str, Any] = OmegaConf.to_container(cluster.options, resolve=True)  # type: ignore[assignment]
    given = {key: cluster[key] for key in ("partition", "account", "qos", "constraint") if cluster[key] is not None}
    if cluster.mem_gb is not None:
        given["mem"] = f"{cluster.mem_gb}GB"
    if (num_gpus := int(_num_gpus(cluster))) and cluster.gpu_option:
        gpus = f"{cluster.gpu_type}:{num_gpus}" if cluster.gpu_type else str(num_gpus)
        is_gres = cluster.gpu_option == "gres"
        given["gres" if is_gres else "gpus_per_node"] = f"gpu:{gpus}" if is_gres else gpus
    executor.update_parameters(
        **given,
        wckey=cluster.wckey,
        job_name="leyden",
        nodes=cluster.nodes,
        ntasks_per_node=cluster.tasks_per_node,
        cpus_per_task=cluster.cpus_per_task * cluster.jobs_per_node,
        time=cluster.time_min,
        array_parallelism=cluster.num_jobs or num_jobs,
        stderr_to_stdout=True,
        srun_args=_srun_arguments(cluster),
        use_srun=cluster.use_srun,
        setup=[*setup, *cluster.setup],
        teardown=[f"rm -rf {COMPILED}"],
        additional_parameters={"signal": signal, "requeue": True, **options},
    )
    return executor

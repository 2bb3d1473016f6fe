"""Slurm: queries about jobs, and the resources that a job asks for, checked before anything is submitted."""

import subprocess
from collections.abc import Sequence

from omegaconf import DictConfig, ListConfig

from leyden.config.errors import UserError
from leyden.run.process import job_id

TIMEOUT_S = 60
# States in which Slurm has done with a job. Others, known or not, may pass.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}


def requeue() -> str:
    """Ask that this job be started again; the answer, empty if that is granted."""
    return _call("scontrol", "requeue", str(job_id()))[1]


def cancel(ids: Sequence[str]) -> str:
    """End jobs, whether they run or wait; what is in the way, empty for nothing."""
    return _call("scancel", *ids)[1]


def states(ids: Sequence[str]) -> dict[str, str]:
    """The state of each job, as PENDING; nothing where Slurm does not answer.

    GONE is one that Slurm knows no more: it ended long ago, or was cancelled before it started.
    """
    if not ids:
        return {}
    out, problem = _call(
        "squeue", "--noheader", "--array", "--states=all", "--format=%i %T", "--jobs", ",".join(ids)
    )
    if problem and "Invalid job id" not in problem:
        return {}
    known = dict(line.split() for line in out.splitlines())
    return {job: known.get(job, "GONE") for job in ids}


def alive(ids: Sequence[str]) -> set[str]:
    """Those jobs that wait or run.

    Raises:
        UserError: Slurm does not answer.
    """
    known = states(ids)
    if ids and not known:
        raise UserError("cluster: Slurm does not answer, and some of the jobs may be in its queue; try again")
    return {job for job, state in known.items() if state not in ENDED}


def statuses(ids: Sequence[str]) -> dict[str, str]:
    """Whether each job, whose run has no result, is `queued`, `running` or `interrupted`."""
    return {
        job: "interrupted" if state in ENDED else "running" if state == "RUNNING" else "queued"
        for job, state in states(ids).items()
    }


def _call(*command: str) -> tuple[str, str]:
    """Output of a client of Slurm, and what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr.strip() or "failed" if done.returncode else ""


RESOURCES = (
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "mem_gb",
    "time_min",
    "signal_delay_s",
    "num_trials_at_once",
)


def check_resources(cluster: DictConfig, trainer: DictConfig) -> None:
    """Make sure that the resources make sense, and that the trainer uses what is asked for.

    Raises:
        UserError: They don't.
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
        raise UserError(f"cluster.setup={cluster.setup}: must be a list of lines, as ['module load cuda']")
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
            f"trainer.accelerator=auto: with cluster.gpus_per_task={cluster.gpus_per_task} choose gpu: auto would train on the "
            "processor of a node whose GPU can't be used"
        )
    if trainer.accelerator == "cpu" and cluster.gpus_per_task:
        raise UserError(f"trainer.accelerator=cpu: cluster.gpus_per_task={cluster.gpus_per_task} asks for GPUs")

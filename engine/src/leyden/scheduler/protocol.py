"""The protocol of a scheduler: the functions that the other packages use."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from omegaconf import DictConfig

from leyden.config.errors import UserError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

Phase = Literal["queued", "running", "ended"]


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Args:
        phase: Phase that Leyden distinguishes.
        text: Name that the scheduler uses, such as `TIMEOUT`.
        is_completed: True if the job has ended without failure.
        reason: Why a queued job waits, unless it simply waits for its turn, for example `JobHeldUser`.
    """

    phase: Phase
    text: str
    is_completed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Submitted:
    """A job that the scheduler has accepted.

    Args:
        job_id: Id of the job in the scheduler.
        log: File that the job prints to.
    """

    job_id: str
    log: Path


class RejectedError(UserError):
    """The scheduler does not accept a job, for now or for ever."""


class Scheduler(Protocol):
    """A batch system, which starts jobs on the nodes of a cluster when resources are free.

    `cluster.signal_delay_s` before a job's time limit, it must send SIGUSR1 to each process, which then saves and calls
    `requeue` (`exact.stop`). The variables in which its launcher gives a process its rank stand in
    `run.process`.

    Args:
        name: Name in `conf/cluster/` and in a run's `job.json`.
        title: Name in messages.
        cancel_command: Shell command that cancels the jobs whose ids follow, for messages.
    """

    name: str
    title: str
    cancel_command: str

    def job_id(self) -> str | None:
        """Return the id of the job that this process belongs to; None outside of a job."""

    def num_restarts(self) -> int:
        """Return how often this process's job was restarted."""

    def leave_job(self) -> None:
        """Remove the variables of this process's job, such as a terminal on a node, from its environment."""

    def requeue(self) -> str:
        """Put this process's job back into the queue when its processes have ended, or at once, which ends them.

        Returns:
            An error message, empty on success.
        """

    def requeue_elsewhere(self) -> str:
        """Call `requeue`, so that the job does not start on this node again if it has no other node.

        Returns:
            An error message, empty on success.
        """

    def is_requeued(self) -> bool:
        """Return whether a process of this process's job has called `requeue`, if the job ends before that is done."""

    def cancel(self, ids: Sequence[str]) -> str:
        """Cancel queued and running jobs; return an error message, empty on success."""

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if the scheduler does not answer."""

    def check(self, cluster: DictConfig, trainer: DictConfig) -> None:
        """Check that the requested resources are valid, and that the trainer uses them.

        Raises:
            UserError: A setting is wrong.
        """

    def max_array(self) -> int:
        """Return the largest number of jobs that can be submitted at once."""

    def script(self, folder: Path, cluster: DictConfig, num_jobs: int, *, python: str) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, the scheduler tests it first.

        Raises:
            UserError: The scheduler is not installed here, or rejects the script.
        """

    def submit(
        self,
        folder: Path,
        cluster: DictConfig,
        work: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        *,
        python: str,
        starts_processes: bool = False,
        after: Collection[str] = (),
    ) -> list[Submitted]:
        """Submit one job per tuple of arguments, at most `max_array`; each process of a job calls `work(*arguments)`.

        Args:
            folder: Folder for scripts and logs.
            cluster: The node `cluster` of the configuration.
            work: Function that can be pickled, defined in a module.
            arguments: Arguments of each job.
            python: Shell command that starts Python on a node.
            starts_processes: True if `work` starts the job's processes, by `start_command`: one process calls it.
            after: Ids of jobs that must have ended before these start.

        Raises:
            RejectedError: The scheduler rejects the jobs.
            UserError: It is not known whether the scheduler has accepted them.
        """

    def start_command(self, cluster: DictConfig, python: str) -> str:
        """Return the shell command that starts each process of this job with the arguments of Python that follow."""

    def environment(self) -> "ClusterEnvironment | None":
        """Return Lightning's environment of this process; None if the scheduler did not start it as one of a job's."""

    def log(self) -> Path:
        """Return the file that the job of this process prints to."""


def check_trainer(cluster: DictConfig, trainer: DictConfig) -> None:
    """Check that the trainer uses the resources that a cluster's job requests.

    Raises:
        UserError: The trainer uses others.
    """
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

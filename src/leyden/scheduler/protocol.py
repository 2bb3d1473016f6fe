"""The protocol of a batch system: what the rest of the library asks of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from omegaconf import DictConfig

Phase = Literal["queued", "running", "ended"]


@dataclass(frozen=True)
class JobState:
    """The state of a job.

    Args:
        phase: What it means here.
        text: What the scheduler calls it, as `TIMEOUT`.
    """

    phase: Phase
    text: str


@dataclass(frozen=True)
class Submitted:
    """A job that the scheduler has taken.

    Args:
        job_id: The scheduler's id of it.
        log: The file that it prints to.
    """

    job_id: str
    log: Path


class Scheduler(Protocol):
    """A batch system: it starts jobs on the nodes of a cluster when there is room for them.

    Args:
        name: Its name, as in `conf/cluster/` and in a run's `job.json`.
        title: Its name for people.
        rank_variable: The environment variable that has the rank of a process among those of its job.
    """

    name: str
    title: str
    rank_variable: str

    def job_id(self) -> str | None:
        """Return the id of the job that this process belongs to; None where it belongs to none."""

    def num_restarts(self) -> int:
        """Return how often the job of this process was started again."""

    def requeue(self) -> str:
        """Ask that the job of this process be started again; return the error, empty for none."""

    def cancel(self, ids: Sequence[str]) -> str:
        """End jobs, whether they run or wait; return the error, empty for none."""

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; nothing where the scheduler does not answer."""

    def check(self, cluster: DictConfig, trainer: DictConfig) -> None:
        """Check that the resources make sense and that the trainer uses what is asked for.

        Raises:
            UserError: They don't.
        """

    def script(self, folder: Path, cluster: DictConfig, num_jobs: int, *, code: Path | None) -> str:
        """Return the script that would be submitted, which the scheduler has accepted unless `cluster.dry_run`.

        Raises:
            UserError: There is no such scheduler here, or it rejects the script.
        """

    def submit(
        self,
        folder: Path,
        cluster: DictConfig,
        work: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        *,
        code: Path | None,
    ) -> list[Submitted]:
        """Submit one job per tuple of arguments, which calls `work` with it on a node.

        Args:
            folder: Scripts and logs go there.
            cluster: The resources of a job.
            work: A function of a module, which can be pickled.
            arguments: Of each job.
            code: The folder with the copy of the code that jobs run; None: they run the code as it is then.

        Raises:
            UserError: The scheduler takes no job.
        """

    def log(self) -> Path:
        """Return the file that the job of this process prints to."""

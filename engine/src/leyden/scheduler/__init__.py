"""The cluster's batch system, Slurm; other modules ask for a job's state, its requeue and its signal here."""

from leyden.scheduler.slurm import (
    JobState,
    RequeueSignal,
    job_id,
    leave_job,
    num_restarts,
    states,
    this_job,
)

__all__ = ["JobState", "RequeueSignal", "job_id", "leave_job", "num_restarts", "states", "this_job"]

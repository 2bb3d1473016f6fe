"""Slurm, as one asks about jobs."""

import subprocess
from collections.abc import Sequence

from leyden.config.mistakes import UserError
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

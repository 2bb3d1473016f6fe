"""Slurm, as a job sees itself and as one asks about jobs."""

import os
import subprocess
from collections.abc import Sequence

TIMEOUT_S = 60
# States in which Slurm has done with a job. Others, known or not, may pass.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}


def job_id() -> str | None:
    """The job that this process belongs to, None for none."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    # The last task of an array has the number of the whole array: by that, all of it would be meant.
    return f"{array}_{task}" if array else os.environ.get("SLURM_JOB_ID")


def num_requeues() -> int:
    """How often this job was started again."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def requeue() -> str:
    """Ask that this job be started again; the answer, empty if that is granted."""
    return _call("scontrol", "requeue", str(job_id()))[1]


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


def _call(*command: str) -> tuple[str, str]:
    """Output of a client of Slurm, and what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout, done.stderr.strip() or "failed" if done.returncode else ""

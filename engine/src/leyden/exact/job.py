"""The job of Slurm that this process belongs to: its id, and its requeue."""

import os
import subprocess
import sys

REQUEUE_TIMEOUT_S = 60


def job_id() -> str | None:
    """Return the id of this process's job; None outside of a job."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    # In an array's last task, SLURM_JOB_ID is the id of the whole array; a command would act on all
    # tasks.
    if array and task:
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def requeue_job() -> bool:
    """Requeue this process's job, print how that went, and return whether it was requeued.

    Outside of a job it is not.
    """
    job = job_id()
    if job is None:
        return False
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=REQUEUE_TIMEOUT_S
        )
        problem = " ".join(done.stderr.split()) or "failed" if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:  # such as a container without Slurm
        problem = str(error)
    answer = "requested"
    if problem:
        answer = f"{ascii(problem)[1:-1]}; started again, the run resumes"
    print(f"requeue of job {job}: {answer}", file=sys.stderr)
    return not problem

"""Slurm, called through its commands such as `sbatch` and `squeue`: its jobs, their states, scripts and resources."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from leyden.base.errors import UserError
from leyden.base.paths import LIBRARY
from leyden.base.terminal import warn
from leyden.exact.job import job_id as job_id
from leyden.exact.job import requeue_job
from leyden.run.process import COMMAND, JOB, write_call
from leyden.scheduler import ArrayError, JobState, RejectedError

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

TIMEOUT_S = 60
EARLY_S = 60  # before the time at which Slurm is told to send a signal
# States of jobs that will not run again. A job in any other state, even an unknown one, may still run.
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "TIMEOUT",
}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}
# Slurm calls a job so, too, that was preempted and requeued, and then has completed.
MAY_HAVE_COMPLETED = {"COMPLETED", "PREEMPTED"}
# Reasons of a job that simply waits for its turn.
PATIENT = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency"}
# Reasons of a job that will never start; it is cancelled.
NEVER = {
    "DependencyNeverSatisfied",
    "PartitionTimeLimit",
    "BadConstraints",
    "InvalidAccount",
    "InvalidQOS",
}
NEVER |= {"AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit"}
STATE = re.compile(
    r"([\w+]+)\|([A-Z_]+)\|([^|]*)\|", re.ASCII
)  # a line of `squeue`: job id, state, reason
# With what follows the id: an answer that is cut off within it would name another job.
ACCEPTED = re.compile(r"Submitted batch job ([0-9]+)\s", re.ASCII)
JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?", re.ASCII)
MAX_ARRAY = 500  # jobs per array; Slurm may allow fewer (MaxArraySize)
TOO_LARGE = "Invalid job array specification"  # what sbatch says then
QUERIED = 200  # job ids per query, since a command line has a limit
# Variable of a job's script: a file by which a process asks for a requeue.
REQUEUE_VARIABLE = "LEYDEN_REQUEUE"
ENDING = ".requeue"  # of that file's name
# Variables by which sbatch takes an option, where they are not called `SBATCH_` and the option's name.
SBATCH_VARIABLES = {
    "time": "SBATCH_TIMELIMIT",
    "mem": "SBATCH_MEM_PER_NODE",
    "array": "SBATCH_ARRAY_INX",
}
LOG = "{}_{}_log.out"  # of a process, by the id of its job and its number
NO_ANSWER = "Slurm does not answer"
NODE_FOLDER = f'"${{TMPDIR:-/tmp}}/leyden-$UID/${JOB}"'
SETTINGS_FILE = LIBRARY / "conf" / "cluster" / "slurm.yaml"


def num_restarts() -> int:
    """Return how often this process's job was restarted; 0 outside of a job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def environment() -> "ClusterEnvironment | None":
    """Return Lightning's environment of a process that `srun` has started; None for any other, such as torchrun's."""
    from lightning.fabric.plugins.environments.slurm import (
        SLURMEnvironment,
    )  # late: few commands need Lightning
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    is_of_srun = job_id() is not None and SLURMEnvironment.detect()
    if not is_of_srun or TorchElasticEnvironment.detect():
        return None
    return SLURMEnvironment(auto_requeue=False)  # `exact.stop` requeues, and not Lightning


def leave_job() -> None:
    """Remove the variables of this process's job from its environment; jobs that it submits would inherit them."""
    for name in list(os.environ):
        if name.startswith("SLURM_") and name != "SLURM_CONF":  # SBATCH_* are the user's own
            del os.environ[name]


def requeue(*, elsewhere: bool = False) -> bool:
    """Put this process's job back into the queue once its processes have ended, and print how that went.

    The job's script does so, since a container has no `scontrol`; a script of the user's own does not, so that Slurm
    does it at once, and ends the job.

    Args:
        elsewhere: True to avoid this node if the job has no other. Which of several nodes has failed is not known.

    Returns:
        Whether it was requeued; false outside of a job.
    """
    job = job_id()
    if job is None or os.environ.get(JOB) != job:
        return requeue_job()
    file = Path(os.environ[REQUEUE_VARIABLE])
    is_alone = os.environ.get("SLURM_JOB_NUM_NODES") == "1"
    avoided = os.environ.get("SLURMD_NODENAME", "") if elsewhere and is_alone else ""
    problem = ""
    try:
        file.write_text(avoided)
    except OSError as error:
        problem = f"{file} can't be written ({error.strerror})"
    where = " on other nodes" if elsewhere else ""
    print(f"requeue of job {job}{where}: {problem or 'requested'}", file=sys.stderr)
    return not problem


def take_requeue(folder: Path, job: str) -> bool:
    """Return, once, whether an ended job has asked for a requeue that its script could not get.

    Args:
        folder: Folder of scripts and logs.
        job: The job's id.
    """
    asked = [*folder.glob(f"{job}.*{ENDING}")] if JOB_ID.fullmatch(job) else []
    for file in asked:
        file.unlink(missing_ok=True)
    return bool(asked)


def cancel_stuck(states: Mapping[str, JobState]) -> None:
    """Cancel those of some jobs that will never start; they would stay in the queue."""
    if stuck := [job for job, state in states.items() if state.phase == "ended" and state.reason]:
        _call("scancel", *stuck)


def states(ids: Sequence[str]) -> dict[str, JobState]:
    """Return the state of each job; empty if Slurm does not answer.

    A job that Slurm does not know any more is `GONE`: it ended long ago, or was cancelled before it started.
    """
    ids = [
        job for job in ids if JOB_ID.fullmatch(str(job))
    ]  # of a record, which may be a stranger's
    arrays = sorted({job.partition("_")[0] for job in ids})
    known: dict[str, JobState] = {}
    for start in range(0, len(arrays), QUERIED):
        query = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|")
        out, problem = _call(*query, "--jobs", ",".join(arrays[start : start + QUERIED]))
        found, is_whole = _parse_states(out)
        if (problem and "Invalid job id" not in problem) or not is_whole:
            return {}
        known |= found
    known |= _ended([job for job in ids if job not in known])
    return {job: known.get(job, JobState("ended", "GONE")) for job in ids}


def _ended(ids: Sequence[str]) -> dict[str, JobState]:
    """Return the states of jobs that Slurm has forgotten, by its accounting; empty where there is none."""
    found = {}
    for start in range(0, len(ids), QUERIED):
        jobs = ",".join(ids[start : start + QUERIED])
        out, _ = _call(
            "sacct",
            "--noheader",
            "--allocations",
            "--parsable2",
            "--format=JobID,State",
            "--jobs",
            jobs,
        )
        for line in out.splitlines():
            job, _, text = line.partition("|")
            state = text.partition(" ")[0]  # CANCELLED by whom
            if job in ids and state in ENDED:
                found[job] = JobState("ended", state, is_completed=state in MAY_HAVE_COMPLETED)
    return found


def _parse_states(output: str) -> tuple[dict[str, JobState], bool]:
    """Return the states in lines of job id, state and reason, and whether no line is damaged or cut.

    A line without `|` that does not begin with a job's id is not Slurm's.
    """
    found, is_whole = {}, output[-1:] in ("", "\n")
    for line in map(str.strip, output.splitlines()):
        if parts := STATE.fullmatch(line):
            job, text, reason = parts.groups()
            phase: Any = "running" if text == "RUNNING" else "queued"
            if text in ENDED:
                phase = "ended"
            waits = ""
            if phase == "queued" and reason not in PATIENT:
                waits = reason.strip("()")
            if waits in NEVER:
                phase, text = "ended", f"waiting for ever ({waits})"
            found[job] = JobState(
                phase, text, is_completed=text in MAY_HAVE_COMPLETED, reason=waits
            )
        elif "|" in line or line[:1].isdigit():
            is_whole = False
    return found, is_whole


def _call(*command: str, text: str | None = None) -> tuple[str, str]:
    """Run a Slurm command; return its output and an error message, empty on success."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", f"{NO_ANSWER} ({error})"
    return done.stdout, done.stderr.strip() or "failed" if done.returncode else ""


def check_installed() -> None:
    """Raise a `UserError` unless jobs can be submitted from this machine."""
    if shutil.which("sbatch") is None:
        raise UserError("cluster: there is no Slurm on this machine (sbatch is not installed)")


def check_resources(cluster: DictConfig) -> None:
    """Check that the keys of the node `cluster` are those of `conf/cluster/slurm.yaml`, with values of the same types.

    Raises:
        UserError: A setting is wrong.
    """
    defaults = OmegaConf.load(SETTINGS_FILE).cluster
    if unknown := [str(key) for key in cluster if key not in defaults]:  # in a YAML of a site
        raise UserError(
            f"cluster.{unknown[0]}: no such key; there are {', '.join(map(str, defaults))}"
        )
    if cluster.get("gpus_per_task") not in (0, 1, None):
        raise UserError(
            f"cluster.gpus_per_task={cluster.gpus_per_task}: must be 0 or 1, one device for each process"
        )
    for key, default in defaults.items():
        value = cluster.get(key)
        is_right = (
            default is None or type(value) is type(default) or (key == "mem_gb" and value is None)
        )
        if not is_right:
            raise UserError(
                f"cluster.{key}={value}: must be of the same kind as {default}, the default"
            )
    if (
        cluster.signal_delay_s > 60 * cluster.time_min - EARLY_S
    ):  # a job would save at its first step, and be requeued
        raise UserError(
            f"cluster.signal_delay_s={cluster.signal_delay_s}: must be a minute less than cluster.time_min={cluster.time_min}, "
            "as Slurm sends the signal up to a minute early"
        )
    _warn_of_variables(cluster)


def _warn_of_variables(cluster: DictConfig) -> None:
    """Name the variables of sbatch in whose place the settings count."""
    for option, value in _options(Path(), cluster, 1):
        name = SBATCH_VARIABLES.get(option, f"SBATCH_{option.upper().replace('-', '_')}")
        given = os.environ.get(name, "")
        is_setting = value is not True and option not in ("job-name", "open-mode", "output")
        if is_setting and given not in ("", str(value)):
            warn(
                f"{name}={given} has no effect, since the settings of cluster are --{option}={value}"
            )


def check_trainer(cluster: DictConfig, trainer: DictConfig) -> None:
    """Check that the trainer uses the resources that a job requests.

    Raises:
        UserError: The trainer uses others.
    """
    for key, source in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
        if trainer[key] != cluster[source]:
            raise UserError(
                f"trainer.{key}={trainer[key]}: follows from cluster.{source}={cluster[source]}; set that"
            )
    num_gpus, accelerator = cluster.gpus_per_task, trainer.accelerator
    if accelerator in (
        ("auto", "cpu") if num_gpus else ("gpu", "cuda")
    ):  # `auto` trains on the CPU if the GPU fails
        raise UserError(
            f"trainer.accelerator={accelerator}: with cluster.gpus_per_task={num_gpus} must be {'gpu' if num_gpus else 'cpu or auto'}"
        )


def submit(
    folder: Path,
    cluster: DictConfig,
    work: Callable[..., None],
    arguments: Sequence[tuple[Any, ...]],
    *,
    python: str,
    variables: Mapping[str, str],
) -> list[dict[str, str]]:
    """Submit an array with one job per tuple of arguments; each process of a job calls `work(*arguments)`.

    Args:
        folder: Absolute path of the folder for scripts and logs.
        cluster: The node `cluster` of the configuration.
        work: Function that can be pickled, defined in a module.
        arguments: Arguments of each job.
        python: Shell command that starts Python on a node.
        variables: Environment variables of the jobs where their node sets no others, whatever the site exports.

    Returns:
        The content of each job's `job.json`.

    Raises:
        ArrayError: The array is too large.
        RejectedError: Slurm rejects the jobs.
        UserError: `sbatch` can't be called, or its answer can't be read.
    """
    num = len(arguments)
    folder.mkdir(parents=True, exist_ok=True)
    batch = folder / secrets.token_hex(6)
    files = [batch.with_name(f"{batch.name}_{number}.call") for number in range(num)]
    for file, call in zip(files, arguments, strict=True):
        write_call(file, work, call, variables)
    path = batch.with_suffix(".sh")
    path.write_text(script(folder, cluster, num, python, calls=str(batch)))
    # On the command line, since variables such as SBATCH_PARTITION win over the script's options.
    options = _options(_log(folder, num, 0), cluster, num)
    flags = [f"--{key}" if value is True else f"--{key}={value}" for key, value in options]
    out, problem = _call("sbatch", *flags, str(path))
    found = ACCEPTED.search(out)  # a site's banner may stand around it
    if not problem and found:
        accepted = []
        for number, file in enumerate(files):
            job = f"{found[1]}_{number}" if num > 1 else found[1]
            log = str(folder / LOG.format(job, 0))
            accepted.append({"scheduler": "slurm", "job_id": job, "log": log, "call": file.name})
        return accepted
    if not problem or problem.startswith(NO_ANSWER):
        why = problem or f"it says {out.strip()!r}"
        raise UserError(f"cluster: sbatch may have failed; see squeue before you try again: {why}")
    for file in (path, *files):
        file.unlink()
    error = ArrayError if TOO_LARGE in problem else RejectedError
    raise error(f"cluster: Slurm rejects the job: {' '.join(problem.split())}")


def _log(folder: Path, num_jobs: int, process: int | str) -> Path:
    """Return the path of a process's log, with Slurm's pattern for the job's id."""
    return folder / LOG.format("%A_%a" if num_jobs > 1 else "%j", process)


def script(
    folder: Path, cluster: DictConfig, num_jobs: int, python: str, *, calls: str = "CALLS"
) -> str:
    """Return the script of a job, or of an array.

    Args:
        folder: Folder of the logs.
        cluster: The resources.
        num_jobs: Number of jobs; more than one are an array.
        python: Shell command that starts Python on a node.
        calls: Path of the jobs' files of `write_call`, without their number and suffix.
    """
    lines = []
    for key, value in _options(_log(folder, num_jobs, 0), cluster, num_jobs):
        lines.append(f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}"))
    log = shlex.quote(str(_log(folder, num_jobs, "%t")))
    call = f"{shlex.quote(calls)}_${{SLURM_ARRAY_TASK_ID:-0}}.call"
    # If a process fails, srun ends the others, which would wait for it.
    srun = f"srun --unbuffered --output={log} --kill-on-bad-exit=1 {shlex.join(cluster.srun_args)}"
    command = f"{srun} {python} -u -m {COMMAND} {call}"
    before, after = _setup(folder, cluster), _teardown(cluster, call)
    return "\n".join(["#!/bin/bash", *lines, *before, command, *after, ""])


def _options(log: Path, cluster: DictConfig, num_jobs: int) -> list[tuple[str, Any]]:
    """Return the options of sbatch, sorted; those of `cluster.options` take the place of others, or remove them by null."""
    names = ("partition", "account", "qos", "constraint", "wckey")
    options: dict[str, Any] = {name: cluster[name] for name in names}
    if cluster.mem_gb is not None:
        options["mem"] = f"{cluster.mem_gb}GB"
    if num_gpus := cluster.gpus_per_task * cluster.tasks_per_node:
        options["gpus-per-node"] = (
            f"{cluster.gpu_type}:{num_gpus}" if cluster.gpu_type else num_gpus
        )
    if num_jobs > 1:
        options["array"] = f"0-{num_jobs - 1}%{min(num_jobs, cluster.num_jobs or num_jobs)}"
    options |= {
        "job-name": "leyden",
        "nodes": cluster.nodes,
        "ntasks-per-node": cluster.tasks_per_node,
        "cpus-per-task": cluster.cpus_per_task,
        "time": cluster.time_min,
        "output": log,
        "open-mode": "append",
        "signal": f"USR1@{cluster.signal_delay_s}",
        "requeue": True,
    }
    own: Any = OmegaConf.to_container(cluster.options, resolve=True)
    options |= {str(key).replace("_", "-"): value for key, value in own.items()}
    return sorted((key, value) for key, value in options.items() if value is not None)


def _setup(folder: Path, cluster: DictConfig) -> list[str]:
    """Return the shell commands before Python."""
    requeue = f"{shlex.quote(str(folder))}/$LEYDEN_JOB.${{SLURM_RESTART_COUNT:-0}}{ENDING}"
    return [
        "unset SLURM_EXPORT_ENV  # otherwise, where a site sets SBATCH_EXPORT=NONE, srun hands on none of these variables",
        "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        # In an array's last task, SLURM_JOB_ID is the id of the whole array.
        "export LEYDEN_JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f"export {REQUEUE_VARIABLE}={requeue}",
        # By default a part of what torch.compile keeps lies in the home folder, which all nodes share.
        f"LEYDEN_FOLDER={NODE_FOLDER}",
        'export TORCHINDUCTOR_CACHE_DIR="$LEYDEN_FOLDER/compiled" TRITON_CACHE_DIR="$LEYDEN_FOLDER/compiled/triton"',
        "stopped=; trap 'stopped=1' TERM  # this script ends after its processes, which may save",
        *cluster.setup,
        "set +e",
    ]


def _teardown(cluster: DictConfig, call: str) -> list[str]:
    """Return the shell commands after Python, which end with its exit code."""
    num = cluster.nodes
    each_node = f"timeout 60 srun --nodes={num} --ntasks={num} --ntasks-per-node=1 {shlex.join(cluster.srun_args)} "
    return [
        "code=$?",
        # `cluster.setup` may have set another TMPDIR.
        f'{each_node if num > 1 else ""}rm -rf "$LEYDEN_FOLDER" {NODE_FOLDER}',
        f'if [ -e "${REQUEUE_VARIABLE}" ]; then',
        f'  avoid=$(cat "${REQUEUE_VARIABLE}"); rm -f "${REQUEUE_VARIABLE}"',
        # Slurm excludes a node once the job is back in the queue.
        '  if ! scontrol requeue "$LEYDEN_JOB"; then',
        f'    echo >"${REQUEUE_VARIABLE}"  # for the command that waits for the job, which submits it again',
        '  elif [ "$avoid" ]; then',
        "    for n in 1 2 3 4 5; do",
        '      scontrol update JobId="$LEYDEN_JOB" ExcNodeList="$avoid" 2>/dev/null && break; sleep 1',
        "    done",
        "  fi",
        'elif [ -z "$stopped" ]; then',
        f"  rm -f {call}  # it has the key of its owner",
        "fi",
        "exit $code",
    ]

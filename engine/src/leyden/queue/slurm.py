"""Slurm, through commands such as `sbatch`: its jobs, states, scripts and resources."""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from leyden.base.errors import UserError
from leyden.base.terminal import warn
from leyden.exact.job import job_id
from leyden.queue import (
    NOT_NAMED,
    REQUEUE_VARIABLE,
    RESTARTS_VARIABLE,
    ArrayError,
    JobState,
    RejectedError,
    Work,
)
from leyden.queue.script import (
    ENDING,
    NO_ANSWER,
    JobFiles,
    ScriptQueue,
    call,
    check_accelerator,
    check_cluster,
    line_of_process,
    plain_value,
    quoted,
    shown,
)

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

# States of jobs that will not run again. A job in any other state, even an unknown one, may still
# run.
ENDED = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "GONE",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
}
# Slurm calls a job so, too, that was preempted and requeued, and then has completed.
MAY_HAVE_COMPLETED = {"COMPLETED", "PREEMPTED"}
# Reasons of a job that simply waits for its turn.
PATIENT = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency"}
# Reasons of a job that will never start; it is cancelled.
NEVER = {
    "AssocMaxWallDurationPerJobLimit",
    "BadConstraints",
    "DependencyNeverSatisfied",
    "InvalidAccount",
    "InvalidQOS",
    "PartitionTimeLimit",
    "QOSMaxWallDurationPerJobLimit",
}
# A line of `squeue`: job id, state, reason.
STATE = re.compile(r"([\w+]+)\|([A-Z_]+)\|([^|]*)\|", re.ASCII)
# With what follows the id: an answer that is cut off within it would name another job.
ACCEPTED = re.compile(r"Submitted batch job ([0-9]+)\s", re.ASCII)
JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?", re.ASCII)
MAX_ARRAY = 500  # jobs per array; Slurm may allow fewer (MaxArraySize)
TOO_LARGE = "Invalid job array specification"  # what sbatch says then
QUERIED = 5000  # job ids per query: Linux allows an argument of 128 KiB
# Variables by which sbatch takes an option, where they are not called `SBATCH_` and the option's
# name.
SBATCH_VARIABLES = {
    "time": "SBATCH_TIMELIMIT",
    "mem": "SBATCH_MEM_PER_NODE",
    "array": "SBATCH_ARRAY_INX",
}
LOG = "{}_{}_log.out"  # of a process, by the id of its job and its number
SQUEUE = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|", "--jobs")
SACCT = ("sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", "--jobs")


def environment() -> "ClusterEnvironment | None":
    """Return Lightning's environment of a process that `srun` has started.

    None for any other, such as torchrun's.
    """
    # Late: few commands need Lightning.
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    is_of_srun = job_id() is not None and SLURMEnvironment.detect()
    is_of_other = TorchElasticEnvironment.detect() or RESTARTS_VARIABLE in os.environ
    if not is_of_srun or is_of_other:
        return None
    return SLURMEnvironment(auto_requeue=False)  # `exact.stop` requeues, and not Lightning


def num_nodes() -> int | None:
    """Return the nodes of this process's job, which can be others after a requeue.

    None without one.
    """
    if environment() is None:
        return None
    return int(os.environ["SLURM_NNODES"])


def states(jobs: Sequence[Mapping[str, str]]) -> dict[str, JobState]:
    """Return the states of jobs by id; of each its `job.json`."""
    return slurm_states([job["job_id"] for job in jobs])


def slurm_states(ids: Sequence[str]) -> dict[str, JobState]:
    """Return the state of each job; empty if Slurm does not answer.

    A job that Slurm does not know any more is `GONE`: it ended long ago, or was cancelled before it
    started.
    """
    # Ids of a record may be a stranger's.
    ids = [job for job in ids if JOB_ID.fullmatch(str(job))]
    arrays = sorted({job.partition("_")[0] for job in ids})
    known: dict[str, JobState] = {}
    for start in range(0, len(arrays), QUERIED):
        out, problem = call(*SQUEUE, ",".join(arrays[start : start + QUERIED]))
        found, is_whole = _parse_states(out)
        if (problem and "Invalid job id" not in problem) or not is_whole:
            return {}
        known |= found
    known |= _ended([job for job in ids if job not in known])
    return {job: known.get(job, NOT_NAMED) for job in ids}


def _ended(ids: Sequence[str]) -> dict[str, JobState]:
    """Return the states of jobs that Slurm has forgotten, by its accounting.

    Empty where there is none.
    """
    found = {}
    for start in range(0, len(ids), QUERIED):
        out, _ = call(*SACCT, ",".join(ids[start : start + QUERIED]))
        for line in out.splitlines():
            job, _, text = line.partition("|")
            state = text.partition(" ")[0]  # CANCELLED by whom
            if job in ids and state in ENDED:
                found[job] = JobState("ended", state, is_completed=state in MAY_HAVE_COMPLETED)
    return found


def _parse_states(output: str) -> tuple[dict[str, JobState], bool]:
    """Return the states in lines of id, state and reason, and whether all lines are whole.

    A line without `|` that does not begin with a job's id is not Slurm's.
    """
    found = {}
    is_whole = output[-1:] in ("", "\n")
    for line in map(str.strip, output.splitlines()):
        if parts := STATE.fullmatch(line):
            job, text, reason = parts.groups()
            found[job] = _state(text, reason)
        elif "|" in line or line[:1].isdigit():
            is_whole = False
    return found, is_whole


def _state(text: str, reason: str) -> JobState:
    """Return a state by Slurm's names of it and of its reason."""
    if text in ENDED:
        return JobState("ended", text, is_completed=text in MAY_HAVE_COMPLETED)
    if text == "RUNNING":
        return JobState("running", text)
    if reason in PATIENT:
        return JobState("queued", text)
    reason = reason.strip("()")
    if reason in NEVER:
        return JobState("ended", f"waiting for ever ({reason})", reason=reason)
    return JobState("queued", text, reason=reason)


class Slurm(ScriptQueue):
    """The queue of Slurm; several jobs are an array, and `srun` starts the processes of each."""

    several = MAX_ARRAY
    is_each_started = True
    can_follow = True

    @property
    def programs(self) -> dict[str, str]:
        """Programs that must be installed, by what needs them."""
        return {"cluster": "sbatch"}

    def check_settings(self) -> None:
        """Check the keys of the node `cluster`.

        Raises:
            UserError: A setting is wrong.
        """
        cluster = self.cluster
        if cluster.get("gpus_per_task") not in (0, 1, None):
            raise UserError(
                f"cluster.gpus_per_task={cluster.gpus_per_task}: must be 0 or 1, one device for "
                "each process"
            )
        check_cluster(cluster, "slurm", are_own=False)
        _gpus_per_node(cluster)
        self._warn_of_variables()

    def _warn_of_variables(self) -> None:
        """Name the variables of sbatch in whose place the settings count."""
        for option, value in self._options(1):
            name = SBATCH_VARIABLES.get(option, f"SBATCH_{option.upper().replace('-', '_')}")
            given = os.environ.get(name, "")
            is_setting = value is not True and option not in ("job-name", "open-mode", "output")
            if is_setting and given not in ("", str(value)):
                warn(
                    f"{name}={given} has no effect, since the settings of cluster are "
                    f"--{option}={value}"
                )

    def check_trainer(self, trainer: DictConfig) -> None:
        """Check that the trainer uses the resources that a job requests."""
        for key, source in (("devices", "tasks_per_node"), ("num_nodes", "nodes")):
            if trainer[key] != self.cluster[source]:
                raise UserError(
                    f"trainer.{key}={trainer[key]}: follows from "
                    f"cluster.{source}={self.cluster[source]}; set that"
                )
        check_accelerator(trainer, self.cluster.gpus_per_task, "gpus_per_task")

    def submit(
        self, works: Sequence[Work], name: str, python: str, *, after: Sequence[str] = ()
    ) -> list[dict[str, str]]:
        """Submit an array with one job for each work."""
        num = len(works)
        batch = JobFiles(self.folder, works)
        batch.script.write_text(self.script(num, python, str(batch.path)))
        # On the command line, since variables such as SBATCH_PARTITION win over the script's
        # options.
        flags = [f"--{_option(key, value)}" for key, value in self._options(num)]
        if after:
            arrays = sorted({job.partition("_")[0] for job in after})
            flags.append(f"--dependency=afterany:{':'.join(arrays)}")
        out, problem = call("sbatch", *flags, str(batch.script))
        found = ACCEPTED.search(out)  # a site's banner may stand around it
        if not problem and found:
            accepted = []
            for number, file in enumerate(batch.calls):
                job = f"{found[1]}_{number}" if num > 1 else found[1]
                log = str(self.folder / LOG.format(job, 0))
                job_json = {"scheduler": "slurm", "job_id": job, "log": log, "call": file.name}
                accepted.append(job_json)
            return accepted
        batch.remove()  # a job that was accepted nevertheless ends at once
        if not problem or problem.startswith(NO_ANSWER):
            why = problem or f"it says {shown(out)!r}"
            raise RejectedError(
                f"cluster: sbatch may have failed; see squeue before you try again: {why}"
            )
        error = ArrayError if TOO_LARGE in problem else RejectedError
        raise error(f"cluster: Slurm rejects the job: {problem}")

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if Slurm does not answer."""
        return slurm_states(ids)

    def cancel(self, ids: Sequence[str]) -> None:
        """End jobs."""
        call("scancel", *[job for job in ids if JOB_ID.fullmatch(job)])

    def script(self, num_jobs: int, python: str, calls: str = "CALLS") -> str:
        """Return the script of a job, or of an array."""
        lines = []
        for key, value in self._options(num_jobs):
            option = _option(key, value, quote=True).replace(
                "\n", " "
            )  # or the next line would be a command
            lines.append(f"#SBATCH --{option}")
        log = quoted(self._log(num_jobs, "%t"))
        files = f"{quoted(calls)}_${{SLURM_ARRAY_TASK_ID:-0}}"
        of_user = shlex.join(self.cluster.srun_args)
        # If a process fails, srun ends the others, which would wait for it.
        srun = f"srun --unbuffered --output={log} --kill-on-bad-exit=1 {of_user}"
        num = "$SLURM_JOB_NUM_NODES"  # of an elastic run, a requeue may have others
        on_node = (
            f"timeout 60 srun --nodes={num} --ntasks={num} --ntasks-per-node=1 {of_user} "
            if self.cluster.nodes > 1
            else ""
        )
        return "\n".join(
            [
                "#!/bin/bash",
                *lines,
                *BEGIN,
                f"export {REQUEUE_VARIABLE}={files}.${{SLURM_RESTART_COUNT:-0}}{ENDING}",
                *self.setup,
                f"{srun} {line_of_process(python, f'{files}.call')}",
                "code=$?",
                *self.teardown(on_node, PUT_BACK, f"{files}.call"),
            ]
        )

    def _log(self, num_jobs: int, process: int | str) -> Path:
        """Return the path of a process's log, with Slurm's pattern for the job's id."""
        return self.folder / LOG.format("%A_%a" if num_jobs > 1 else "%j", process)

    def _options(self, num_jobs: int) -> list[tuple[str, Any]]:
        """Return the options of sbatch, sorted.

        Those of `cluster.options` replace others, or remove them by null.
        """
        cluster = self.cluster
        names = ("partition", "account", "qos", "constraint", "wckey")
        options: dict[str, Any] = {name: cluster[name] for name in names}
        if cluster.mem_gb is not None:
            options["mem"] = f"{cluster.mem_gb}GB"
        options["gpus-per-node"] = _gpus_per_node(cluster)
        if num_jobs > 1:
            most = min(num_jobs, cluster.num_jobs or num_jobs)
            options["array"] = f"0-{num_jobs - 1}%{most}"
        options |= {
            "job-name": "leyden",
            "nodes": cluster.nodes,
            "ntasks-per-node": cluster.tasks_per_node,
            "cpus-per-task": cluster.cpus_per_task,
            "time": cluster.time_min,
            "output": self._log(num_jobs, 0),
            "open-mode": "append",
            "signal": f"USR1@{cluster.signal_delay_s}",
            "requeue": True,
        }
        for key, value in plain_value(cluster.options).items():
            options[str(key).replace("_", "-")] = value
        given = [(key, value) for key, value in options.items() if value is not None]
        return sorted((key, _as_list(value)) for key, value in given)


BEGIN = [  # the first commands of a script
    # Otherwise, where a site sets SBATCH_EXPORT=NONE, srun hands on none of these variables.
    "unset SLURM_EXPORT_ENV",
    "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
    # In an array's last task, SLURM_JOB_ID is the id of the whole array.
    "LEYDEN_JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
    "export LEYDEN_JOB",
    # This script ends after its processes, which may save.
    "trap 'stopped=1' TERM",
]
# Commands of a script that put its job back into the queue.
PUT_BACK = [
    # Slurm excludes a node once the job is back in the queue.
    '  if ! scontrol requeue "$LEYDEN_JOB"; then',
    # For the command that waits for the job, which submits it again.
    f'    echo >"${REQUEUE_VARIABLE}"',
    '  elif [ "$avoid" ]; then',
    "    for n in 1 2 3 4 5; do",
    '      scontrol update JobId="$LEYDEN_JOB" ExcNodeList="$avoid" 2>/dev/null && break; sleep 1',
    "    done",
    "  fi",
]


def _as_list(value: Any) -> Any:
    """Return a list of names, such as of partitions, as Slurm has it."""
    values = plain_value(value)
    return ",".join(map(str, values)) if isinstance(values, list) else values


def _option(key: str, value: Any, *, quote: bool = False) -> str:
    """Return an option of sbatch without its dashes."""
    if value is True:
        return key
    text = quoted(str(value)) if quote else str(value)
    return f"{key}={text}"


def _gpus_per_node(cluster: DictConfig) -> str | int | None:
    """Return the GPUs of a node, by type where the user asks for one.

    Raises:
        UserError: Their number is not that of the processes.
    """
    num: int = cluster.gpus_per_task * cluster.tasks_per_node
    given = plain_value(cluster.gpus_per_node)
    if given is None:
        if not num:
            return None
        return f"{cluster.gpu_type}:{num}" if cluster.gpu_type else num
    by_type = given.items() if isinstance(given, dict) else [str(given).rpartition(":")[::2]]
    parts = [f"{kind}:{count}" if kind else str(count) for kind, count in by_type]
    counts = [str(count) for _, count in by_type]
    if not all(map(str.isdecimal, counts)) or sum(map(int, counts)) != num:
        raise UserError(
            f"cluster.gpus_per_node={given}: must be {num} (cluster.gpus_per_task x "
            "cluster.tasks_per_node), such as a100:4 or "
            "{a100: 2, h100: 2}"
        )
    return ",".join(parts)

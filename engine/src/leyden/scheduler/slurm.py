"""Slurm: its jobs, their states, and the resources that they request."""

import os
import re
import secrets
import shlex
import shutil
import subprocess
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from leyden.config.errors import UserError
from leyden.run.process import COMMAND, JOB, write_call
from leyden.scheduler.protocol import JobState, Phase, RejectedError, Submitted, check_trainer

if TYPE_CHECKING:
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment

TIMEOUT_S = 60
# States of jobs that will not run again. A job in any other state, even an unknown one, may still run.
ENDED = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
ENDED |= {"PREEMPTED", "REVOKED", "GONE"}
# Reasons of a job that simply waits for its turn.
PATIENT = {"None", "Priority", "Resources", "JobArrayTaskLimit", "BeginTime", "Dependency"}
STATE = re.compile(r"([\w+]+)\|([A-Z_]+)\|([^|]*)\|", re.ASCII)  # a line of `squeue`: job id, state, reason
ACCEPTED = re.compile(r"Submitted batch job ([0-9]+)", re.ASCII)
JOB_ID = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?", re.ASCII)
MAX_ARRAY = 500  # jobs per array, if Slurm allows it
QUERIED = 200  # job ids per query, since a command line has a limit
# Variable of a job's script: a file by which a process asks for a requeue.
REQUEUE = "LEYDEN_REQUEUE"
FOLDER = "LEYDEN_LOGS"  # variable of a job's script: the folder of its logs
LOG = "{}_{}_log.out"  # of a process, by the id of its job and its number
NO_ANSWER = "Slurm does not answer"
NODE_FOLDER = f'"${{TMPDIR:-/tmp}}/leyden-$UID/${JOB}"'
# Slurm signals nothing but the script of a job without srun.
FORWARD = (
    'forward() { for name in USR1 TERM; do trap "kill -$name \\$child; again=1" $name; done; '
    '"$@" & child=$!; again=1; while [ "$again" ]; do again=; wait $child; done; }'
)
RESOURCES = (
    "nodes",
    "tasks_per_node",
    "cpus_per_task",
    "time_min",
    "signal_delay_s",
    "num_trials_at_once",
)


class Slurm:
    """The Slurm scheduler, called through its commands, such as `sbatch` and `squeue`."""

    name = "slurm"
    title = "Slurm"
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

    def requeue(self, avoid: str = "") -> str:
        """Put this process's job back into the queue once its processes have ended.

        The job's script does so, since a container has no `scontrol`; a script of the user's own does not, so that Slurm
        does it at once, and ends the job.

        Args:
            avoid: Node where the job must not start again, empty if there is none.

        Returns:
            An error message, empty on success.
        """
        if (file := self._requeue_file()) is None:
            return _call("scontrol", "requeue", str(self.job_id()))[1]
        try:
            file.write_text(avoid)
        except OSError as error:
            return f"{file} can't be written ({error.strerror})"
        return ""

    def requeue_elsewhere(self) -> str:
        """Put this process's job back into the queue as `requeue` does, to avoid this node if the job has no other.

        Which of several nodes has failed is not known.

        Returns:
            An error message, empty on success.
        """
        is_alone = os.environ.get("SLURM_JOB_NUM_NODES") == "1"
        return self.requeue(os.environ.get("SLURMD_NODENAME", "") if is_alone else "")

    def is_requeued(self) -> bool:
        """Return whether a process of this process's job has asked its script for a requeue."""
        file = self._requeue_file()
        return file is not None and file.exists()

    def _requeue_file(self) -> Path | None:
        """Return the file by which this process asks its job's script for a requeue; None for a user's own script."""
        return Path(os.environ[REQUEUE]) if os.environ.get(JOB) == self.job_id() else None

    def cancel(self, ids: Sequence[str]) -> str:
        """Cancel queued and running jobs; return an error message, empty on success."""
        return _call("scancel", *ids)[1]

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Return the state of each job; empty if Slurm does not answer.

        A job that Slurm does not know any more is `GONE`: it ended long ago, or was cancelled before it started.
        """
        ids = [job for job in ids if JOB_ID.fullmatch(str(job))]  # of a record, which may be a stranger's
        if not ids:
            return {}
        query = ("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T|%r|")
        out, problem = _call(*query, "--me")
        known, is_whole = _parse_states(out)
        if problem or not is_whole:
            return {}
        others = [job for job in ids if job not in known]  # of another user, or ended long ago
        for start in range(0, len(others), QUERIED):
            out, problem = _call(*query, "--jobs", ",".join(others[start : start + QUERIED]))
            found, is_whole = _parse_states(out)
            if (problem and "Invalid job id" not in problem) or not is_whole:
                return {}
            known |= found
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
        if not isinstance(cluster.options, DictConfig):
            raise UserError(f"cluster.options={cluster.options}: each is set by +cluster.options.KEY=VALUE")
        if cluster.signal_delay_s >= 60 * cluster.time_min:
            raise UserError(f"cluster.signal_delay_s={cluster.signal_delay_s}: must be less than cluster.time_min")
        if type(cluster.gpus_per_task) is not int or not 0 <= cluster.gpus_per_task <= 1:
            raise UserError(
                f"cluster.gpus_per_task={cluster.gpus_per_task}: must be 0 or 1, as a process trains on one device"
            )
        if cluster.get("stage") is not None:  # in a YAML for an earlier version
            raise UserError(
                "cluster.stage: is no longer; copy the data by a line of cluster.setup, and set data.root"
            )
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
            if name == "MaxArraySize" and re.fullmatch("[0-9]{1,9}", value):
                return max(1, min(MAX_ARRAY, int(value)))
        return MAX_ARRAY

    def script(self, folder: Path, cluster: DictConfig, num_jobs: int, *, python: str) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, Slurm tests it first.

        Raises:
            UserError: Slurm is not installed here, or rejects the script.
        """
        script = _script(
            folder.absolute(), cluster, num_jobs, f"{python} -u -m {COMMAND} {folder.absolute()}/JOB.pkl"
        )
        if not cluster.dry_run:
            # One job of the array, as each counts for MaxSubmitJobs; that limit is for now, and `submit` meets it.
            command = ("sbatch", "--test-only", *(("--array=0",) if num_jobs > 1 else ()))
            _, problem = _call(*command, text=script)
            if problem and "MaxSubmitJob" not in problem:
                raise UserError(f"cluster: sbatch rejects this job: {' '.join(problem.split())}")
        return script

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
        """Submit an array with one job per tuple of arguments; each process of a job calls `work(*arguments)`.

        Raises:
            RejectedError: Slurm rejects the jobs.
            UserError: `sbatch` can't be called, or its answer can't be read.
        """
        folder, num = folder.absolute(), len(arguments)
        folder.mkdir(parents=True, exist_ok=True)
        batch = folder / secrets.token_hex(6)
        files = [batch.with_name(f"{batch.name}_{number}.pkl") for number in range(num)]
        for file, call in zip(files, arguments, strict=True):
            write_call(file, work, call)
        # By srun, unless it is called within the script's process; Slurm still signals those that srun starts then.
        command = f"{python} -u -m {COMMAND} {shlex.quote(str(batch))}_${{SLURM_ARRAY_TASK_ID:-0}}.pkl"
        script = batch.with_suffix(".sh")
        script.write_text(_script(folder, cluster, num, command, by_srun=not starts_processes, after=after))
        out, problem = _call("sbatch", str(script))
        found = ACCEPTED.search(out)  # a site's banner may stand around it
        if not problem and found:
            ids = [f"{found[1]}_{number}" for number in range(num)] if num > 1 else [found[1]]
            return [Submitted(each, folder / LOG.format(each, 0)) for each in ids]
        if not problem or problem.startswith(NO_ANSWER):
            why = problem or f"it says {out.strip()!r}"
            raise UserError(f"cluster: sbatch may have failed; see squeue before you try again: {why}")
        for file in (script, *files):
            file.unlink()
        raise RejectedError(f"cluster: Slurm rejects the job: {' '.join(problem.split())}")

    def start_command(self, cluster: DictConfig, python: str) -> str:
        """Return the shell command that starts each process of this job with the arguments of Python that follow."""
        return f"srun {shlex.join(_srun_arguments(cluster))} {python}"

    def log(self) -> Path:
        """Return the file that the job of this process prints to."""
        return Path(os.environ[FOLDER], LOG.format(self.job_id(), 0))


def _parse_states(output: str) -> tuple[dict[str, JobState], bool]:
    """Return the states in lines of job id, state and reason, and whether no line is damaged or cut.

    A line without `|` that does not begin with a job's id is not Slurm's.
    """
    found, is_whole = {}, output[-1:] in ("", "\n")
    for line in map(str.strip, output.splitlines()):
        if parts := STATE.fullmatch(line):
            job, text, reason = parts.groups()
            phase: Phase = "ended" if text in ENDED else "running" if text == "RUNNING" else "queued"
            waits = reason.strip("()") if phase == "queued" and reason not in PATIENT else ""
            found[job] = JobState(phase, text, is_completed=text == "COMPLETED", reason=waits)
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


def _srun_arguments(cluster: DictConfig) -> list[str]:
    """Return the arguments of srun; if a process fails, it ends the others, which would wait for it."""
    return ["--kill-on-bad-exit=1", *cluster.srun_args]


def _script(
    folder: Path,
    cluster: DictConfig,
    num_jobs: int,
    command: str,
    *,
    by_srun: bool = True,
    after: Collection[str] = (),
) -> str:
    """Return the script of a job, or of an array, that starts when the jobs `after` have ended.

    Args:
        folder: Folder of the logs.
        cluster: The resources.
        num_jobs: Number of jobs; more than one are an array.
        command: Shell command of each process.
        by_srun: False to run the command in the script's process, where `cluster.use_srun` is true.
        after: Ids of jobs.

    Raises:
        UserError: There is no Slurm on this machine.
    """
    if shutil.which("sbatch") is None:
        raise UserError("cluster: there is no Slurm on this machine (sbatch is not installed)")
    options = _options(folder, cluster, num_jobs, after)
    log = shlex.quote(f"{folder}/{LOG.format(_id_pattern(num_jobs), '%t')}")
    if cluster.use_srun and by_srun:
        command = f"srun --unbuffered --output={log} {shlex.join(_srun_arguments(cluster))} {command}"
    elif not cluster.use_srun:
        command = f"forward {command}"
    lines = [
        f"#SBATCH --{key}" + ("" if value is True else f"={shlex.quote(str(value))}") for key, value in options
    ]
    return "\n".join(["#!/bin/bash", *lines, *_setup(folder, cluster), command, *_teardown(cluster), ""])


def _id_pattern(num_jobs: int) -> str:
    """Return Slurm's pattern for the id of a job, or of one in an array."""
    return "%A_%a" if num_jobs > 1 else "%j"


def _options(folder: Path, cluster: DictConfig, num_jobs: int, after: Collection[str]) -> list[tuple[str, Any]]:
    """Return the options of sbatch, sorted; those of `cluster.options` take the place of others."""
    names = ("partition", "account", "qos", "constraint", "wckey")
    options: dict[str, Any] = {name: cluster[name] for name in names if cluster[name] is not None}
    if cluster.mem_gb is not None:
        options["mem"] = f"{cluster.mem_gb}GB"
    if (num_gpus := cluster.gpus_per_task * cluster.tasks_per_node) and cluster.gpu_option:
        gpus = f"{cluster.gpu_type}:{num_gpus}" if cluster.gpu_type else str(num_gpus)
        options[cluster.gpu_option] = f"gpu:{gpus}" if cluster.gpu_option == "gres" else gpus
    if num_jobs > 1:
        options["array"] = f"0-{num_jobs - 1}%{min(num_jobs, cluster.num_jobs or num_jobs)}"
    # Without srun, Slurm signals nothing but the script's shell.
    signal = f"USR1@{cluster.signal_delay_s}" if cluster.use_srun else f"B:USR1@{cluster.signal_delay_s}"
    options |= {
        "job-name": "leyden",
        "nodes": cluster.nodes,
        "ntasks-per-node": cluster.tasks_per_node,
        "cpus-per-task": cluster.cpus_per_task,
        "time": cluster.time_min,
        "output": f"{folder}/{LOG.format(_id_pattern(num_jobs), 0)}",
        "open-mode": "append",
        "signal": signal,
        "requeue": True,
    }
    own: Any = OmegaConf.to_container(cluster.options, resolve=True)
    options |= {str(key).replace("_", "-"): value for key, value in own.items()}
    if after:
        arrays = ":".join(sorted({job.partition("_")[0] for job in after}))
        options["dependency"] = ",".join([*filter(None, [options.get("dependency")]), f"afterany:{arrays}"])
    return sorted(options.items())


def _setup(folder: Path, cluster: DictConfig) -> list[str]:
    """Return the shell commands before Python."""
    requeue = f"{shlex.quote(str(folder))}/$LEYDEN_JOB.${{SLURM_RESTART_COUNT:-0}}.requeue"
    return [
        "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
        # In an array's last task, SLURM_JOB_ID is the id of the whole array.
        "export LEYDEN_JOB=${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
        f"export {REQUEUE}={requeue} {FOLDER}={shlex.quote(str(folder))}",
        # By default a part of what torch.compile keeps lies in the home folder, which all nodes share.
        f"LEYDEN_FOLDER={NODE_FOLDER}",
        'export TORCHINDUCTOR_CACHE_DIR="$LEYDEN_FOLDER/compiled" TRITON_CACHE_DIR="$LEYDEN_FOLDER/compiled/triton"',
        "trap : TERM  # this script ends after its processes, which may save",
        *([] if cluster.use_srun else [FORWARD]),
        *cluster.setup,
        "set +e",
    ]


def _teardown(cluster: DictConfig) -> list[str]:
    """Return the shell commands after Python, which end with its exit code."""
    num = cluster.nodes
    each_node = f"timeout 60 srun --nodes={num} --ntasks={num} --ntasks-per-node=1 {shlex.join(cluster.srun_args)} "
    return [
        "code=$?",
        # `cluster.setup` may have set another TMPDIR.
        f'{each_node if num > 1 else ""}rm -rf "$LEYDEN_FOLDER" {NODE_FOLDER}',
        f'if [ -e "${REQUEUE}" ]; then',
        f'  avoid=$(cat "${REQUEUE}"); rm -f "${REQUEUE}"',
        # Slurm excludes a node once the job is back in the queue.
        '  scontrol requeue "$LEYDEN_JOB" && [ "$avoid" ] && for n in 1 2 3 4 5; do',
        '    scontrol update JobId="$LEYDEN_JOB" ExcNodeList="$avoid" 2>/dev/null && break; sleep 1',
        "  done",
        "fi",
        "exit $code",
    ]

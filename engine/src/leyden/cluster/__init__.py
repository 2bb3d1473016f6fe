"""The places where a sweep's jobs run: this machine, Ray, and the queue of a scheduler, from a snapshot of the code."""

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden import scheduler
from leyden.base.errors import UserError
from leyden.base.extras import not_installed
from leyden.base.paths import LIBRARY, NOT_OWN_PACKAGES, conf, environment_of, root, src
from leyden.base.terminal import one_line, warn
from leyden.cluster.bootstrap import extract
from leyden.exact.files import opened, replacing
from leyden.run.directory import Run
from leyden.run.files import files_below, read_end
from leyden.run.lock import InUseError
from leyden.run.owner import KEY, key
from leyden.run.provenance import GIT_OF_COPY, VARIABLES, state_of_code
from leyden.run.result import Failure
from leyden.scheduler import SCHEDULERS, ArrayError, JobState, RejectedError
from leyden.sweep.jobs import Call, Job, sweep_directory
from leyden.sweep.launcher import Launcher, LocalLauncher, command_of_job, failure_of, run_job

BOOTSTRAP = LIBRARY / "cluster" / "bootstrap.py"


def snapshot(directory: Path) -> Path:
    """Write the project's code and settings, the library, and the state of the git repository to a new archive.

    It is one file, since sites limit the number of files. `bootstrap.py` unpacks it on a node.

    Args:
        directory: The folder in which the archive is created.

    Returns:
        The archive: a project, with the library in its `engine/src/`; a copy of `bootstrap.py` lies beside it.
    """
    archive = directory / f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}.tar.gz"
    directory.mkdir(parents=True, exist_ok=True)
    contents = {"conf": conf(), "engine/src/leyden": LIBRARY}
    if src() != root():
        contents["src"] = src()
    else:
        for path in root().glob("*"):
            is_package = path.name not in NOT_OWN_PACKAGES and any(path.glob("*.py"))
            if is_package or (path.suffix == ".py" and path.is_file()):
                contents[path.name] = path
    git = json.dumps(state_of_code(), indent=2).encode() + b"\n"
    # Links are archived as the files that they lead to, so that later edits don't change waiting jobs.
    with (
        replacing(archive) as file,
        tarfile.open(fileobj=file, mode="w:gz", dereference=True) as tar,
    ):
        for name, path in contents.items():
            files: Iterable[Path] = files_below(path) if path.is_dir() else [path]
            for each in files:
                tar.add(each, str(Path(name) / each.relative_to(path)), filter=_as_new)
        info = tarfile.TarInfo(GIT_OF_COPY)
        info.size, info.mtime = len(git), time.time()
        tar.addfile(info, io.BytesIO(git))
    shutil.copy(BOOTSTRAP, _bootstrap_of(archive))
    return archive


def _bootstrap_of(archive: Path) -> Path:
    """Return the path of the copy of `bootstrap.py` beside an archive."""
    return archive.with_name(archive.name.removesuffix(".tar.gz") + ".py")


def _as_new(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Set the time of an archive member to now, since nodes remove old temporary files; return None to omit it."""
    if any(part == "__pycache__" or part.endswith(".egg-info") for part in Path(info.name).parts):
        return None
    info.mtime = time.time()
    return info


MAX_POLL_S = 15.0  # between looks at the runs' results
MIN_QUERY_S, POLLS_PER_QUERY = 5.0, 4  # between queries, which many sites allow once a minute
# Seconds to wait for the result of a job that has ended; the key is whether it has completed without failure.
GRACE_S = {True: 90.0, False: 5.0}
LOG_BYTES = 4096  # at the end of a log, in which a cause is looked for
IN_USE_S = 60.0  # to wait for another command that submits the same jobs, if this one does not wait for jobs
CALL = re.compile(r"[0-9a-f]{12}_[0-9]+\.call", re.ASCII)  # name of a job's file of `write_call`


class QueueLauncher(Launcher):
    """Launcher of jobs in the queue of a cluster's scheduler; if this process is in a job itself, it leaves that."""

    is_queue = True

    def __init__(self, config: DictConfig, module: str) -> None:
        super().__init__(config, module)
        self.scheduler = scheduler.named(config.cluster.launcher)
        self.scheduler.leave_job()
        self.cluster, self.waits = config.cluster, config.cluster.get("wait", True)
        if not self.waits:
            self.num_at_once = None  # the scheduler limits an array
        self.directory = sweep_directory(config)
        self.folder = self.directory / config.cluster.launcher  # of scripts and logs
        self.code: Path | None = None  # the snapshot that jobs run from
        # By job id; jobs with the same run directory share one.
        self.running: dict[str, list[Job]] = {}
        self.ended: dict[
            str, float
        ] = {}  # when jobs were seen to have ended without a result, by job id
        self.states: dict[str, JobState] = {}  # the last answer of the scheduler, by job id
        self.queried_at = 0.0
        self.waiting: list[Job] = []  # not accepted yet
        self.in_use: dict[
            Path, InUseError
        ] = {}  # those of them that another process uses, by run directory
        self.has_jobs = False  # in the queue, now or before
        self.max_array = self.scheduler.MAX_ARRAY
        self.num_again: Counter[Path] = (
            Counter()
        )  # jobs submitted in place of a requeue, by run directory

    @property
    def note(self) -> str:  # type: ignore[override]
        """Why jobs wait, except for their turn in the queue; empty if none does."""
        reasons = Counter(self.states[job].reason for job in self.running if job in self.states)
        parts = [f"{num} wait ({reason})" for reason, num in reasons.items() if reason]
        if num_rejected := len(self.waiting) - len(self.in_use):
            parts.append(f"{num_rejected} not accepted yet")
        if self.in_use:
            parts.append(f"{len(self.in_use)} in use by other processes")
        return ", ".join(parts)

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check the resources of the jobs; for `cluster.dry_run`, print the script and return False."""
        self.scheduler.check_resources(self.cluster)
        for job in jobs:
            self.scheduler.check_trainer(self.cluster, job.compose().trainer)
        if self.cluster.dry_run:
            most = self.scheduler.MAX_ARRAY
            print(self.scheduler.script(self.folder, self.cluster, min(num, most), self.python))
            return False
        self.scheduler.check_installed()
        return True

    @property
    def python(self) -> str:
        """Shell command that starts Python on a node, from the snapshot if there is one."""
        python = self.cluster.python or shlex.quote(sys.executable)
        library = ["engine/src"] if self.code or (root() / "engine" / "src").is_dir() else []
        folders = ":".join([*library, "src" if src() != root() else "."])
        bootstrap = _bootstrap_of(self.code) if self.code else BOOTSTRAP
        return f"{python} {shlex.join([str(bootstrap), str(self.code or root()), folders])}"

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs that are not queued or running already; one that the scheduler does not accept yet is submitted later."""
        self.waiting += jobs
        self._submit_waiting()
        self.pause_s = 1.0  # as most mistakes end a job at once
        if not self.waits:
            for number, submitted in self.running.items():
                print(f"job {number}: {submitted[0].run.directory.name}")

    def _submit_waiting(self) -> None:
        """Submit the waiting jobs, in arrays; those that another process uses are left for the next time.

        Raises:
            InUseError: Another process uses them, and this launcher doesn't wait for jobs.
            UserError: The scheduler does not answer, or rejects the first jobs.
        """
        end = time.monotonic() + IN_USE_S
        self._submit_once()
        while self.in_use and not self.waits:
            if time.monotonic() > end:
                raise next(iter(self.in_use.values()))
            time.sleep(1)
            self._submit_once()

    def _submit_once(self) -> None:
        by_directory = {
            job.run.directory: job for job in self.waiting
        }  # those of one directory are submitted once
        known = {path: job.run.submission.get("job_id", "") for path, job in by_directory.items()}
        alive = self._alive({*known.values()} - {""})
        todo = [by_directory[path] for path, number in known.items() if number not in alive]
        self.has_jobs |= bool(alive)
        self.in_use = {}
        max_array = self.max_array
        while todo:
            batch = todo[: self.max_array]
            try:
                self._submit(batch, known)
            except ArrayError:
                if len(batch) == 1:
                    raise
                self.max_array = len(batch) // 2
                continue
            except RejectedError:
                if not self.waits or not self.has_jobs:
                    raise
                break  # sites limit the number of jobs in the queue
            todo = todo[len(batch) :]
            self.has_jobs = True
        if self.max_array < max_array:
            self._report_smaller_arrays()
        left = {job.run.directory for job in todo} | {*self.in_use}
        jobs, self.waiting = self.waiting, []
        for job in jobs:
            if job.run.directory in left:
                self.waiting.append(job)
            else:
                submission = job.run.submission
                job.log = Path(submission["log"])
                self.running.setdefault(submission["job_id"], []).append(job)

    def _report_smaller_arrays(self) -> None:
        limit = self.cluster.num_jobs
        effect = ""
        if limit and not self.waits:
            effect = f"; cluster.num_jobs={limit} limits each array by itself"
        warn(
            f"the scheduler takes no larger arrays (MaxArraySize): {self.max_array} jobs in each{effect}"
        )

    def _alive(self, ids: Collection[str]) -> set[str]:
        """Return the ids of jobs that are queued or running.

        Raises:
            UserError: The scheduler does not answer.
        """
        states = self.scheduler.states(sorted(ids))
        if ids and not states:
            raise UserError(
                "cluster: its scheduler does not answer, and some of the jobs may be in its queue; try again"
            )
        self.scheduler.cancel_stuck(states)
        return {job for job, state in states.items() if state.phase != "ended"}

    def _submit(self, jobs: Sequence[Job], ended: Mapping[Path, str]) -> None:
        """Submit an array; each run is locked until its job is recorded.

        Args:
            jobs: The jobs; those that another process uses, or has submitted, are left out.
            ended: Id of each run's job that has ended, by the run directory; empty for none.
        """
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits for its lock
            free = [job for job in jobs if self._lock(job, ended[job.run.directory], locks)]
            if not free:
                return
            if self.cluster.snapshot and self.code is None:
                self.code = snapshot(self.directory / "code")
            calls = [job.call(self.module, on_node=True) for job in free]
            accepted = self.scheduler.submit(
                self.folder,
                self.cluster,
                run_job,
                calls,
                python=self.python,
                variables=_variables(),
            )
            for job, call, submission in zip(free, calls, accepted, strict=True):
                self._remove_call(job.run.submission)
                job.run.begin(call.identity, job.overrides)
                job.run.submission = submission

    def _lock(self, job: Job, ended: str, locks: contextlib.ExitStack) -> bool:
        """Lock a run, and return whether it is to be submitted; the same sweep may be typed on two machines at once."""
        is_ours = job.run.submission.get("job_id", "") == ended
        if not is_ours:
            return False
        try:
            locks.enter_context(job.run.locked(job.identity(), resume="auto", ended_job=ended))
        except InUseError as error:
            self.in_use[job.run.directory] = error
            return False
        return job.run.submission.get("job_id", "") == ended

    def _remove_call(self, submission: Mapping[str, str]) -> None:
        """Remove the file of a job that has ended, as it has the user's key."""
        name = submission.get("call", "")
        if CALL.fullmatch(name):  # in a record that others may have written
            (self.folder / name).unlink(missing_ok=True)

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait a moment, then return the jobs that have ended and the number of running ones, as `Launcher.wait`."""
        time.sleep(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        self._query()
        over: list[tuple[Job, Failure | None]] = []
        for number, jobs in list(self.running.items()):
            run = jobs[0].run
            result = run.result
            state = "" if result else self._lost(number)
            if state:
                self.scheduler.cancel_stuck({number: self.states[number]})
            if not result and not state:
                continue
            del self.running[number]
            self.ended.pop(number, None)
            if state and self._is_submitted_again(number, run):
                self.waiting += jobs
                continue
            if (
                run.submission.get("job_id") == number
            ):  # otherwise another command has submitted it again
                self._remove_call(run.submission)
            failure = result.error if result else self._failure(number, state, jobs[0].log)
            over += [(job, failure) for job in jobs]
        if self.waiting:
            self._submit_waiting()
        running = [number for number in self.running if number in self.states]
        return over, [self.states[number].phase for number in running].count("running")

    def _failure(self, number: str, state: str, log: Path) -> Failure:
        """Return the failure of a job without a result, with the last error in its log."""
        what = f"job {number} is {state} without a result"
        try:
            lines = read_end(log, LOG_BYTES).splitlines()
        except OSError:
            return Failure("Scheduler", what)
        errors = [
            line for line in lines if "error: " in line.lower() or line.startswith("leyden: ")
        ]
        # The scheduler's program that starts processes says last that one of them has ended.
        causes = [line for line in errors if not line.startswith("srun: ")] or errors
        return Failure("Scheduler", ": ".join([what, *map(one_line, causes[-1:])]))

    def _is_submitted_again(self, number: str, run: Run) -> bool:
        """Return whether a job that has ended is submitted in place of the requeue that it could not get."""
        if not self.scheduler.take_requeue(self.folder, number):
            return False
        self.num_again[run.directory] += 1
        num, most = self.num_again[run.directory], self.cluster.max_requeues
        what = f"{run.directory.name}: job {number} has saved, and its node could not requeue it (see its log)"
        if num > most:
            warn(f"{what}; cluster.max_requeues={most} is reached")
            return False
        warn(f"{what}: submitted again, {num} of {most} times")
        return True

    def _lost(self, number: str) -> str:
        """Return the state of a job that has ended and will have no result; empty while it may have one."""
        state = self.states.get(number)
        if state is None or state.phase != "ended":
            self.ended.pop(number, None)
            return ""
        # On a network file system, the result may become visible after the state; and a requeued job ends, too.
        since = self.ended.setdefault(number, self.queried_at)
        return "" if self.queried_at - since < GRACE_S[state.is_completed] else state.text

    def _query(self) -> None:
        """Ask the scheduler for the jobs' states, if the last answer is old or a job may have failed."""
        now = time.monotonic()
        pause_s = MIN_QUERY_S if self.ended else max(MIN_QUERY_S, POLLS_PER_QUERY * self.pause_s)
        if now < self.queried_at + pause_s:
            return
        if states := self.scheduler.states(list(self.running)):
            self.states, self.queried_at = states, now


def _variables() -> dict[str, str]:
    """Return the variables that a job needs, whatever its site hands on: the user's key, and what can change bits."""
    names = ("PYTHONPATH", *VARIABLES)
    found = {name: os.environ[name] for name in names if name in os.environ}
    if signing_key := key():  # a node may have another home directory
        found[KEY] = signing_key
    return found


QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}


class RayLauncher(Launcher):
    """Launcher of jobs on a Ray cluster, whose nodes share the folders of the project, the runs and the data.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self, config: DictConfig, module: str) -> None:
        super().__init__(config, module)
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError(f"cluster=ray: {not_installed('ray', 'ray')}") from error
        self.ray = ray
        self.running: dict[Any, Job] = {}  # by Ray's reference
        self.code: Path | None = None  # the snapshot that jobs run from

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Connect to the cluster."""
        cluster = self.config.cluster
        variables = {**environment_of(root()), KEY: key()}  # a node may have another home directory
        try:
            self.ray.init(address=cluster.address, runtime_env={"env_vars": variables}, **QUIET)
            run = self.ray.remote(max_calls=1, max_retries=cluster.max_requeues)(_run_on_ray)
            self.remote = run.options(num_cpus=cluster.cpus, num_gpus=cluster.gpus).remote
        except Exception as error:  # Ray raises many types
            raise UserError(
                f"cluster: Ray can't be used: {' '.join(str(error).split())}"
            ) from error
        return True

    def start(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to Ray, which starts each where its resources are free."""
        self.code = self.code or snapshot(sweep_directory(self.config) / "code")
        for job in jobs:
            self.running[
                self.remote(job.call(self.module, on_node=True), str(job.log), str(self.code))
            ] = job

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait up to a second for jobs to end, as `Launcher.wait`."""
        done, _ = self.ray.wait([*self.running], timeout=1)
        ended: list[tuple[Job, Failure | None]] = []
        for each in done:
            try:
                failure = self.ray.get(each)
            except Exception as error:  # of Ray: its node was lost too often, for example
                failure = Failure("Ray", " ".join(str(error).split()))
            ended.append((self.running.pop(each), failure))
        return ended, len(self.running)

    def stop(self) -> None:
        """End the running jobs."""
        for each in self.running:
            self.ray.cancel(each, force=True)


def _run_on_ray(call: Call, log: str, code: str) -> Failure | None:
    """Run a job in this process of Ray, which runs nothing else; return its failure, None on success."""
    scheduler.own().leave_job()  # if Ray is in one: a requeue would be of all of Ray's nodes
    with opened(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        extract(Path(code), Path(folder))
        os.environ.update(environment_of(Path(folder)))
        run = Run(call.identity.config["run_dir"])
        num_starts = len(run.starts)
        return failure_of(run, command_of_job(*call), num_starts)


LAUNCHERS: dict[str, Callable[[DictConfig, str], Launcher]] = {  # by `cluster.launcher`
    "local": LocalLauncher,
    "ray": RayLauncher,
    **dict.fromkeys(SCHEDULERS, QueueLauncher),
}


def launcher(config: DictConfig, module: str) -> Launcher:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: There is no such launcher, or one of Hydra's plugins is chosen.
    """
    if (
        chosen := config.hydra.runtime.choices["hydra/launcher"]
    ) != "basic":  # Hydra's default, which is not used
        raise UserError(
            f"hydra/launcher={chosen}: has no effect; cluster=NAME chooses where jobs run"
        )
    if (name := config.cluster.get("launcher")) not in LAUNCHERS:
        raise UserError(f"cluster.launcher={name}: must be one of {', '.join(LAUNCHERS)}")
    return LAUNCHERS[name](config, module)

"""Submission of a sweep's jobs to a cluster, from a snapshot of the code."""

import contextlib
import io
import json
import math
import os
import shlex
import shutil
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError
from leyden.config.paths import CONF, LIBRARY, NOT_OWN, ROOT, SRC
from leyden.config.terminal import warn
from leyden.exact.files import replacing
from leyden.run.files import files_below
from leyden.run.provenance import GIT_OF_COPY, state_of_code
from leyden.run.record import KEY, key
from leyden.run.result import Failure
from leyden.scheduler import slurm
from leyden.scheduler.slurm import JobState, RejectedError
from leyden.sweep.jobs import Job, sweep_directory
from leyden.sweep.worker import run_on_node

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
    contents = {"conf": CONF, "engine/src/leyden": LIBRARY}
    if SRC != ROOT:
        contents["src"] = SRC
    else:
        for path in ROOT.glob("*"):
            is_package = path.name not in NOT_OWN and any(path.glob("*.py"))
            if is_package or (path.suffix == ".py" and path.is_file()):
                contents[path.name] = path
    git = json.dumps(state_of_code(), indent=2).encode() + b"\n"
    # Links are archived as the files that they lead to, so that later edits don't change waiting jobs.
    with replacing(archive) as file, tarfile.open(fileobj=file, mode="w:gz", dereference=True) as opened:
        for name, path in contents.items():
            for each in files_below(path) if path.is_dir() else [path]:
                opened.add(each, str(Path(name) / each.relative_to(path)), filter=_as_new)
        info = tarfile.TarInfo(GIT_OF_COPY)
        info.size, info.mtime = len(git), time.time()
        opened.addfile(info, io.BytesIO(git))
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


def python_on_node(cluster: DictConfig, code: Path | None = None) -> str:
    """Return the shell command that starts Python on a node, from a snapshot if there is one."""
    python = cluster.python or shlex.quote(sys.executable)
    library = ["engine/src"] if code or (ROOT / "engine" / "src").is_dir() else []
    folders = ":".join([*library, "src" if SRC != ROOT else "."])
    bootstrap = _bootstrap_of(code) if code else BOOTSTRAP
    return f"{python} {shlex.join([str(bootstrap), str(code or ROOT), folders])}"


MAX_POLL_S = 15.0  # between looks at the runs' results
FREED_S = 10.0  # between a run's result and the end of its job, after which another job may be accepted
FIRST_QUERY_S, MAX_QUERY_S = 5.0, 60.0  # between queries of Slurm, which many sites allow once a minute
# Seconds to wait for the result of a job that has ended; the key is whether it has completed without failure.
GRACE_S = {True: 90.0, False: 5.0}


NUM_TRIALS = 10  # of a search at once, if nothing else is set


class SlurmLauncher:
    """Launcher of jobs on a cluster; if this process is in a job itself, it leaves that.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.
    """

    is_queue = True
    num_free = None  # Slurm queues any number of jobs

    def __init__(self, config: DictConfig, module: str) -> None:
        if sys.platform == "win32":
            raise UserError(
                "cluster: clusters can't be used from Windows; cluster=local runs the jobs on this machine"
            )
        self.cluster, self.module = config.cluster, module
        check_num_jobs(self.cluster.num_jobs)  # here, since it is used before the jobs are checked
        slurm.leave_job()
        self.waits, self.num_at_once = self.cluster.wait, self.cluster.num_jobs or NUM_TRIALS
        self.directory = sweep_directory(config)
        self.folder = self.directory / "slurm"  # of scripts and logs
        self.code: Path | None = None  # the snapshot that jobs run from
        # By Slurm's job id; jobs with the same run directory share one.
        self.running: dict[str, list[Job]] = {}
        # By job id, for jobs that ended without a result: the time when this was noticed, and the state.
        self.ended: dict[str, tuple[float, JobState]] = {}
        self.waiting: list[Job] = []  # not accepted yet
        self.states: dict[str, JobState] = {}  # the last answer of Slurm, by job id
        self.queried_at = 0.0
        self.room = math.inf  # for how many more jobs the queue may have room
        self.freed: list[float] = []  # times when jobs have ended that still count for the queue
        self._expect_changes()

    def _expect_changes(self) -> None:
        """Look at the jobs often at first, as most mistakes end a job at once."""
        self.pause_s, self.query_pause_s = 1.0, FIRST_QUERY_S

    @property
    def note(self) -> str:
        """Text for the status line: why jobs wait, except for their turn in the queue; empty if none does."""
        reasons = Counter(self.states[job].reason for job in self.running if job in self.states)
        parts = [f"{num} wait ({reason})" for reason, num in reasons.items() if reason]
        return ", ".join([*parts, *([f"{len(self.waiting)} not accepted yet"] if self.waiting else [])])

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that Slurm accepts the jobs; for `cluster.dry_run`, print the script and return False."""
        slurm.check_resources(self.cluster)
        for job in jobs:
            slurm.check_trainer(self.cluster, job.config.trainer)
            job.release()
        script = slurm.script(self.folder, self.cluster, min(num, slurm.MAX_ARRAY), self.python)
        if self.cluster.dry_run:
            print(script)
            return False
        slurm.try_script(script)
        return True

    @property
    def python(self) -> str:
        """Shell command that starts Python on a node, from the snapshot if there is one."""
        return python_on_node(self.cluster, self.code)

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs; those that are not accepted are submitted later, or, if nothing waits, by the same command."""
        self.waiting += jobs
        self._submit_waiting()
        self._expect_changes()
        if self.waits:
            return
        for number, submitted in self.running.items():
            print(f"job {number}: {submitted[0].run.directory.name}")
        if self.waiting:
            raise UserError(
                f"Slurm accepts no more jobs for now: {len(self.waiting)} of {len(jobs)} are missing; "
                "the same command submits them when others have ended"
            )

    def _submit_waiting(self) -> None:
        """Submit the waiting jobs that are not queued or running already.

        Sites limit the number of jobs in the queue; the others can be submitted when some have ended.

        Raises:
            UserError: Slurm does not answer, or accepts no job at all.
        """
        limit = self.cluster.num_jobs or math.inf
        by_directory = {job.run.directory: job for job in self.waiting}  # those of one directory are submitted once
        known = {path: job.run.submission.get("job_id", "") for path, job in by_directory.items()}
        queued = self._alive({*known.values()} - {""})
        todo = [by_directory[path] for path, number in known.items() if number not in queued]
        has_jobs, is_rejected = bool(self.running or queued or self.freed), False
        while todo and self.room:
            room = math.ceil(self.room / 2) if is_rejected else self.room
            size = int(min(len(todo), slurm.MAX_ARRAY, room))
            # Slurm's limit is of an array, so that another one waits for the end of those before.
            after = queued if len(queued) + len(todo) > limit else ()
            try:
                queued |= self._submit(todo[:size], after)
            except RejectedError:
                if size == 1 and not has_jobs:
                    raise
                self.room, is_rejected = size - 1, True
            else:
                todo, self.room, has_jobs = todo[size:], self.room - size, True
        rejected = {job.run.directory for job in todo}
        jobs, self.waiting = self.waiting, [job for job in self.waiting if job.run.directory in rejected]
        for job in jobs:
            if job.run.directory not in rejected:
                job.log = Path(job.run.submission["log"])
                self.running.setdefault(job.run.submission["job_id"], []).append(job)

    def _alive(self, ids: Collection[str]) -> set[str]:
        """Return the ids of jobs that are queued or running.

        Raises:
            UserError: Slurm does not answer.
        """
        states = slurm.states(sorted(ids))
        if ids and not states:
            raise UserError("cluster: Slurm does not answer, and some of the jobs may be in its queue; try again")
        slurm.cancel_stuck(states)
        return {job for job, state in states.items() if state.phase != "ended"}

    def _submit(self, jobs: Sequence[Job], after: Collection[str]) -> set[str]:
        """Submit an array and return its jobs' ids; each run is locked until its job is recorded."""
        if self.cluster.snapshot and self.code is None:
            self.code = snapshot(self.directory / "code")
        os.environ.setdefault(KEY, key())  # a node may have another home directory
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits for its lock
            held = []
            for job in jobs:
                held.append(locks.enter_context(contextlib.ExitStack()))
                ended_job = job.run.submission.get("job_id", "")  # otherwise it would not be submitted again
                held[-1].enter_context(job.run.locked(job.identity, resume="auto", ended_job=ended_job))
            calls = [(self.module, job.config_on_node, job.identity, job.overrides) for job in jobs]
            accepted = slurm.submit(self.folder, self.cluster, run_on_node, calls, python=self.python, after=after)
            for locked, job, each in zip(held, jobs, accepted, strict=True):
                job.run.begin(job.identity, job.overrides)
                job.run.submission = each
                job.release()
                locked.close()
        return {each["job_id"] for each in accepted}

    def wait(self) -> tuple[list[tuple[Job, Failure | None]], int]:
        """Wait a moment, then return the jobs that have ended and the number of running ones, as `Launcher.wait`."""
        time.sleep(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        self._query()
        over: list[tuple[Job, Failure | None]] = []
        for number, jobs in list(self.running.items()):
            result = jobs[0].run.result
            state = "" if result else self._lost(number)
            if state:
                slurm.cancel_stuck({number: self.states[number]})
            if result or state:
                failure = result.error if result else Failure("Slurm", f"job {number} is {state} without a result")
                over += [(job, failure) for job in jobs]
                del self.running[number]
                self.ended.pop(number, None)
                self.freed.append(time.monotonic())
        freed = [since for since in self.freed if time.monotonic() - since < FREED_S]
        self.room += len(self.freed) - len(freed)
        self.freed = freed
        if self.waiting and self.room and not (self.cluster.num_jobs and self.running):
            self._submit_waiting()
        running = [number for number in self.running if number in self.states]
        return over, [self.states[number].phase for number in running].count("running")

    def _lost(self, number: str) -> str:
        """Return the state of a job that has ended and will have no result; empty while it may have one."""
        state = self.states.get(number)
        if state is None or state.phase != "ended":
            self.ended.pop(number, None)
            return ""
        since, state = self.ended.setdefault(number, (self.queried_at, state))
        # On a network file system, the result may become visible after the state; and a requeued job ends, too.
        return "" if self.queried_at - since < GRACE_S[state.is_completed] else state.text

    def _query(self) -> None:
        """Ask Slurm for the jobs' states, if the last answer is old or a job may have failed."""
        now = time.monotonic()
        due = [since + GRACE_S[state.is_completed] for since, state in self.ended.values()]
        if now < min([self.queried_at + self.query_pause_s, *due]):
            return
        self.query_pause_s = min(1.5 * self.query_pause_s, MAX_QUERY_S)
        self.room += 1 + len(self.running) // 8  # other jobs of the user may have ended
        if states := slurm.states(list(self.running)):
            self.states, self.queried_at = states, now

    def stop(self) -> None:
        """Cancel the jobs that have not ended."""
        if self.running and (problem := slurm.cancel(list(self.running))):
            warn(f"Slurm could not cancel jobs {', '.join(self.running)}: {problem}")

"""Submission of a sweep's jobs to a cluster, from a snapshot of the code."""

import contextlib
import functools
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
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from leyden.cluster.on_node import run_on_node, search_on_node, submission
from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError
from leyden.config.hydra import COMMAND_LINE, task_overrides
from leyden.config.paths import CONF, LIBRARY, NOT_OWN, ROOT, SRC
from leyden.config.terminal import leyden_command, quoted_override, warn
from leyden.exact.files import replacing
from leyden.run import lock
from leyden.run.directory import Run
from leyden.run.files import files_below, read_json, write_whole
from leyden.run.provenance import GIT_OF_COPY, state_of_code
from leyden.run.record import KEY, key
from leyden.scheduler import SCHEDULERS
from leyden.scheduler.protocol import JobState, RejectedError, Scheduler, Submitted
from leyden.sweep.jobs import Job, recorded_error
from leyden.sweep.launcher import LocalLauncher, StatusLine, run_jobs
from leyden.sweep.sweep import JobRunner

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


MAX_POLL_S = 15.0  # between looks at the runs' results
FREED_S = 10.0  # between a run's result and the end of its job, after which another job may be accepted
FIRST_QUERY_S, MAX_QUERY_S = 5.0, 60.0  # between queries of the scheduler, which many sites allow once a minute
# Seconds to wait for the result of a job that has ended; the key is whether it has completed without failure.
GRACE_S = {True: 90.0, False: 5.0}


class ClusterRunner:
    """Runner of jobs on a cluster, a `leyden.sweep.launcher.Runner`.

    Args:
        scheduler: The scheduler that starts the jobs.
        directory: The sweep directory; it has scripts and logs in a folder named after the scheduler, and `code/`.
        cluster: The node `cluster` of the configuration, as in `conf/cluster/slurm.yaml`.
        module: Name of the module whose `main.task` runs a job.
    """

    def __init__(self, scheduler: Scheduler, directory: Path, cluster: DictConfig, module: str) -> None:
        self.scheduler, self.directory, self.cluster, self.module = scheduler, directory, cluster, module
        os.environ.setdefault(KEY, key())  # a node may have another home directory
        self.folder = directory / scheduler.name
        self.code: Path | None = None  # the snapshot that jobs run from
        # By the scheduler's job id; jobs with the same run directory share one.
        self.running: dict[str, list[Job]] = {}
        # By job id, for jobs that ended without a result: the time when this was noticed, and the state.
        self.ended: dict[str, tuple[float, JobState]] = {}
        self.waiting: list[Job] = []  # not accepted yet
        self.states: dict[str, JobState] = {}  # the last answer of the scheduler, by job id
        self.queried_at = 0.0
        self.room = math.inf  # for how many more jobs the queue may have room
        self.freed: list[float] = []  # times when jobs have ended that still count for the queue
        self.num_at_once = cluster.num_jobs  # of an array; None where jobs are submitted one by one
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

    def script(self, num_jobs: int) -> str:
        """Return the script that would be submitted; unless `cluster.dry_run` is set, the scheduler tests it first.

        Raises:
            UserError: The scheduler is not installed here, or rejects the script.
        """
        num = min(num_jobs, self.max_array)
        return self.scheduler.script(self.folder, self.cluster, num, python=self.python)

    @functools.cached_property
    def max_array(self) -> int:
        """The largest number of jobs that can be submitted at once."""
        return self.scheduler.max_array()

    @property
    def python(self) -> str:
        """Shell command that starts Python on a node, from the snapshot if there is one."""
        python = self.cluster.python or shlex.quote(sys.executable)
        library = ["engine/src"] if self.code or (ROOT / "engine" / "src").is_dir() else []
        folders = ":".join([*library, "src" if SRC != ROOT else "."])
        bootstrap = _bootstrap_of(self.code) if self.code else BOOTSTRAP
        return f"{python} {shlex.join([str(bootstrap), str(self.code or ROOT), folders])}"

    def submit(self, jobs: Sequence[Job]) -> list[Job]:
        """Submit the jobs that are not queued or running already, and return the jobs that were not accepted.

        Sites limit the number of jobs in the queue; the others can be submitted when some have ended.

        Raises:
            UserError: The scheduler does not answer, or accepts no job at all.
        """
        known = [job.run.submission for job in jobs]
        ids = {each["job_id"] for each in known if each}
        if self.num_at_once:  # jobs of the sweep that another command has submitted count, too
            runs = [Run(path.parent) for path in self.directory.glob("*/job.json")]
            others = [run.submission for run in runs if run.result is None]
            ids |= {each["job_id"] for each in others if each.get("scheduler") == self.scheduler.name}
        queued = self.alive(sorted(ids))
        active = [bool(each) and each["job_id"] in queued for each in known]
        # Jobs with the same run directory are submitted once.
        pairs = zip(jobs, active, strict=True)
        todo = list({job.run.directory: job for job, is_active in pairs if not is_active}.values())
        has_jobs, is_rejected = bool(self.running or queued or self.freed), False
        while todo and self.room:
            room = math.ceil(self.room / 2) if is_rejected else self.room
            size = int(min(len(todo), self.max_array, room))
            try:
                # Slurm's limit is of an array, so that another one waits for the end of those before.
                queued |= self._submit(todo[:size], after=queued if self.num_at_once else ())
            except RejectedError:
                if size == 1 and not has_jobs:
                    raise
                self.room, is_rejected = size - 1, True
            else:
                todo, self.room, has_jobs = todo[size:], self.room - size, True
        rejected = {job.run.directory for job in todo}
        for job in jobs:
            if job.run.directory not in rejected:
                job.log = Path(job.run.submission["log"])
        return [job for job in jobs if job.run.directory in rejected]

    def alive(self, ids: Sequence[str]) -> set[str]:
        """Return the ids of jobs that are queued or running.

        Raises:
            UserError: The scheduler does not answer.
        """
        states = self.scheduler.states(ids)
        if ids and not states:
            raise UserError(
                f"cluster: {self.scheduler.title} does not answer, and some of the jobs may be in its queue; try again"
            )
        return {job for job, state in states.items() if state.phase != "ended"}

    num_free = None  # a cluster queues any number of jobs
    shares = False  # its jobs run elsewhere, and are known by their ids

    def start(self, jobs: Sequence[Job]) -> None:
        """Submit jobs; those that are not accepted are submitted later."""
        self.waiting += jobs
        self._submit_waiting()
        self._expect_changes()

    def _submit_waiting(self) -> None:
        jobs, self.waiting = self.waiting, self.submit(self.waiting)
        waiting = {job.run.directory for job in self.waiting}
        for job in jobs:
            if job.run.directory not in waiting:
                self.running.setdefault(job.run.submission["job_id"], []).append(job)

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Wait a moment, then return the jobs that have ended and the number of running ones, as `Runner.wait`."""
        time.sleep(self.pause_s)
        self.pause_s = min(1.2 * self.pause_s, MAX_POLL_S)
        self._query()
        over = []
        for number, jobs in list(self.running.items()):
            ended = [(job, self._error(number, job, self.states.get(number))) for job in jobs]
            over += [(job, error) for job, error in ended if error is not None]
            self.running[number] = [job for job, error in ended if error is None]
            if not self.running[number]:
                del self.running[number]
                self.ended.pop(number, None)
                self.freed.append(time.monotonic())
        freed = [since for since in self.freed if time.monotonic() - since < FREED_S]
        self.room += len(self.freed) - len(freed)
        self.freed = freed
        if self.waiting and self.room and not (self.num_at_once and self.running):
            self._submit_waiting()
        running = [number for number in self.running if number in self.states]
        return over, [self.states[number].phase for number in running].count("running")

    def _query(self) -> None:
        """Ask the scheduler for the jobs' states, if the last answer is old or a job may have failed."""
        now = time.monotonic()
        due = [since + GRACE_S[state.is_completed] for since, state in self.ended.values()]
        if now < min([self.queried_at + self.query_pause_s, *due]):
            return
        self.query_pause_s = min(1.5 * self.query_pause_s, MAX_QUERY_S)
        self.room += 1 + len(self.running) // 8  # other jobs of the user may have ended
        if states := self.scheduler.states(list(self.running)):
            self.states, self.queried_at = states, now

    def stop(self) -> None:
        """Cancel the jobs that have not ended."""
        if self.running and (problem := self.scheduler.cancel(list(self.running))):
            warn(f"{self.scheduler.title} could not cancel jobs {', '.join(self.running)}: {problem}")

    def _error(self, number: str, job: Job, state: JobState | None) -> str | None:
        """Return the text of the error that a job ended with, empty on success; None if it has not ended."""
        if (recorded := recorded_error(job.run.result)) is not None:
            return recorded
        if state is None or state.phase != "ended":
            self.ended.pop(number, None)
            return None
        since, state = self.ended.setdefault(number, (self.queried_at, state))
        # On a network file system, the result may become visible after the state; and a requeued job ends, too.
        if self.queried_at - since < GRACE_S[state.is_completed]:
            return None
        return f"{self.scheduler.title}: job {number} is {state.text} without a result"

    def _submit(self, jobs: Sequence[Job], after: Collection[str]) -> set[str]:
        """Submit an array and return its jobs' ids; each run is locked until its job is recorded."""
        with contextlib.ExitStack() as locks:  # a job that starts meanwhile waits for its lock
            held = []
            for job in jobs:
                held.append(locks.enter_context(contextlib.ExitStack()))
                ended_job = job.run.submission.get("job_id", "")  # otherwise it would not be submitted again
                held[-1].enter_context(job.run.locked(job.identity, resume="auto", ended_job=ended_job))
            arguments = [(self.module, job.config_on_node, job.identity, job.overrides) for job in jobs]
            accepted = self.map(run_on_node, arguments, after=after)
            for locked, job, each in zip(held, jobs, accepted, strict=True):
                job.run.begin(job.identity, job.overrides)
                job.run.submission = submission(self.scheduler, each)
                job.release()
                locked.close()
        return {each.job_id for each in accepted}

    def take_snapshot(self) -> None:
        """Make all later jobs run from a snapshot of the code as it is now, if `cluster.snapshot` is set."""
        if self.cluster.snapshot and self.code is None:
            self.code = snapshot(self.directory / "code")

    def map(
        self,
        function: Callable[..., None],
        arguments: Sequence[tuple[Any, ...]],
        *,
        starts_processes: bool = False,
        after: Collection[str] = (),
    ) -> list[Submitted]:
        """Submit a job for each call of a function, from a snapshot of the code.

        Args:
            function: A function that can be pickled.
            arguments: Its positional arguments in each job.
            starts_processes: As of `Scheduler.submit`.
            after: As of `Scheduler.submit`.

        Raises:
            UserError: The scheduler rejects the jobs.
        """
        self.take_snapshot()
        return self.scheduler.submit(
            self.folder,
            self.cluster,
            function,
            arguments,
            python=self.python,
            starts_processes=starts_processes,
            after=after,
        )


def launcher(config: DictConfig, module: str) -> JobRunner:
    """Return the launcher of a sweep, as its configuration chooses it.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: Hydra's own launcher or a plugin's is chosen.
    """
    node = config.hydra.launcher
    if "_target_" in node:
        names = ["local", *SCHEDULERS]
        raise UserError(
            f"hydra/launcher={config.hydra.runtime.choices['hydra/launcher']}: must be {' or '.join(names)}, whose runs can "
            f"be checked and resumed; set {' or '.join(f'cluster={name}' for name in names)}"
        )
    return LocalLauncher(config, module) if node.scheduler is None else ClusterLauncher(config, module)


class ClusterLauncher:
    """Launcher of jobs on a cluster, a `leyden.sweep.sweep.JobRunner`; it leaves the job of this process, if it is in one.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.
    """

    def __init__(self, config: DictConfig, module: str) -> None:
        if sys.platform == "win32":
            raise UserError(
                "cluster: clusters can't be used from Windows; cluster=local runs the jobs on this machine"
            )
        self.cluster, self.module = config.cluster, module
        check_num_jobs(self.cluster.num_jobs)  # here, since it is used before the jobs are checked
        self.scheduler, self.waits = SCHEDULERS[config.hydra.launcher.scheduler], self.cluster.wait
        self.scheduler.leave_job()
        self.num_at_once = self.cluster.num_jobs or self.cluster.num_trials_at_once

    def check_jobs(self, jobs: Sequence[Job]) -> bool:
        """Check that the scheduler accepts the jobs; for `cluster.dry_run`, print the script and return False."""
        for job in jobs:
            self.scheduler.check(self.cluster, job.config.trainer)
            job.release()
        self.runner = ClusterRunner(self.scheduler, jobs[0].run.directory.parent, self.cluster, self.module)
        script = self.runner.script(len(jobs))
        if self.cluster.dry_run:
            print(script)
        return not self.cluster.dry_run

    def run_jobs(
        self,
        ask: Callable[[], Job | None],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, str], bool],
    ) -> None:
        """Submit the jobs, and wait for them if `cluster.wait` is true."""
        if not self.waits:
            submit_jobs(list(iter(ask, None)), self.runner)
            return
        if at_once and self.cluster.num_jobs:  # no array limits jobs that are submitted one by one
            at_once, self.runner.num_at_once = min(at_once, self.cluster.num_jobs), None
        run_jobs(ask, self.runner, status, at_once=at_once, ended=ended)

    def submit_search(self, config: DictConfig, num_jobs: int) -> None:
        """Submit jobs that run a search without this process."""
        submit_search(config, self.runner, num_jobs)

    def close(self) -> None:
        """No-op: the jobs run without this process."""


def submit_jobs(jobs: Sequence[Job], runner: ClusterRunner) -> None:
    """Submit the jobs that have not ended, without waiting for them, and print how to follow them."""
    todo = []
    for job in jobs:
        if not job.run.is_finished(job.identity):
            todo.append(job)
        job.release()
    rejected = runner.submit(todo)
    missing = {job.run.directory for job in rejected}
    for job in todo:
        if job.run.directory not in missing:
            print(f"job {job.run.submission['job_id']}: {job.run.directory.name}")
    _print_summarize_command(runner)
    if rejected:
        raise UserError(
            f"{runner.scheduler.title} accepts no more jobs for now: {len(rejected)} of {len(todo)} are missing; "
            "the same command submits them when others have ended"
        )


def submit_search(config: DictConfig, runner: ClusterRunner, num_jobs: int) -> None:
    """Submit jobs that run a search without this process, until `num_jobs` of them are queued or running.

    Jobs of earlier calls count.

    Raises:
        UserError: The scheduler does not answer or rejects the jobs, or jobs of earlier calls have other settings.
    """
    if any(source.provider == COMMAND_LINE for source in config.hydra.runtime.config_sources):
        raise UserError("--config-dir: the jobs of a detached search read only conf/; put the files there")
    config = _with_absolute_paths(config, runner.directory)
    # The settings of the search, which must equal those of jobs that are still alive.
    requested = {"overrides": [*task_overrides(config.hydra), *config.hydra.overrides.hydra]}
    path = runner.folder / "search.json"
    path.parent.mkdir(exist_ok=True)
    with lock.hold(runner.directory / "locks" / "submit") as held:
        known = read_json(path, {})
        alive = runner.alive(jobs := known.get("jobs", []))
        ids = [number for number in jobs if number in alive]
        if ids and known["overrides"] != requested["overrides"]:
            raise UserError(
                f"jobs {', '.join(ids)} are still searching with different settings; wait for their end, or run "
                f"{runner.scheduler.cancel_command} {' '.join(ids)}, then run the same command again"
            )
        if (missing := num_jobs - len(ids)) > 0:
            held.check()
            runner.take_snapshot()
            has_processes = runner.cluster.nodes * runner.cluster.tasks_per_node > 1
            command = runner.scheduler.start_command(runner.cluster, runner.python) if has_processes else None
            call = (runner.module, config, command)
            new = runner.map(search_on_node, [call] * missing, starts_processes=has_processes)
            ids += [job.job_id for job in new]
            write_whole(path, json.dumps({"jobs": ids, **requested}) + "\n")
    print(f"{len(ids)} jobs are searching: {', '.join(ids)}")
    print(f"their output: {runner.folder}")
    _print_summarize_command(runner)


def _with_absolute_paths(config: DictConfig, directory: Path) -> DictConfig:
    """Return a sweep's configuration with absolute paths, so that jobs compose the same trials from a snapshot."""
    config = config.copy()
    paths = {"outputs": directory.parent.parent, "sweep_name": directory.name}
    if root := OmegaConf.select(config, "data.root"):
        paths["data.root"] = Path(root).absolute()
    with open_dict(config), read_write(config.hydra):
        for key, path in paths.items():
            OmegaConf.update(config, key, str(path))
        # Overrides as Hydra parses them, without the shell's quotes.
        config.hydra.overrides.task = [
            *task_overrides(config.hydra),
            *(shlex.split(quoted_override(key, path))[0] for key, path in paths.items()),
        ]
    return config


def _print_summarize_command(runner: ClusterRunner) -> None:
    print(f"their status: {leyden_command('summarize')} {shlex.quote(str(runner.directory))}")

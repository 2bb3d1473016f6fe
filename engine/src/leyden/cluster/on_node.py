"""The functions that run on a cluster's node: a sweep's job, or trials of a search one after another."""

import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence

from omegaconf import DictConfig

from leyden.config.errors import Exit, UserError, ending, leave
from leyden.config.hydra import composing
from leyden.config.paths import prepare_process
from leyden.run.directory import Run, is_communication_error, wait_for_result
from leyden.run.identity import RunIdentity
from leyden.run.process import COMMAND, importing, is_main_process, num_processes, release_memory, write_call
from leyden.scheduler import current, num_restarts
from leyden.scheduler.protocol import Scheduler, Submitted
from leyden.sweep.grid import run_sweep
from leyden.sweep.jobs import Job, failure_text, record_failure, recorded_error
from leyden.sweep.launcher import StatusLine, run_jobs
from leyden.sweep.worker import execute_job


def run_on_node(module: str, config: DictConfig, identity: RunIdentity, overrides: list[str]) -> None:
    """Run a job; on an error, record the failure as its result and end with the code of a command.

    Args:
        module: Name of the module whose `main.task` runs the job.
        config: The job's configuration, including the node `hydra`.
        identity: The settings that identify the job's run.
        overrides: The overrides that the job was composed with.
    """
    with ending():
        try:
            execute_job(module, config)
        except Exception as error:
            if not is_main_process():  # its end ends the main process, which may be about to record its own error
                wait_for_result(Run(identity.config["run_dir"]))
            if is_main_process() or not is_communication_error(error, num_processes()):
                record_failure(identity, overrides, failure_text(error))
            raise


def search_on_node(module: str, config: DictConfig, start_command: str | None) -> None:
    """Run trials until the search has its number of trials; several jobs can do so at once.

    Args:
        module: Name of the module whose `main.task` runs a trial.
        config: The sweep's configuration, including the node `hydra`, with absolute paths.
        start_command: As of `Scheduler`, for trials with several processes; None to train in this process.

    Raises:
        UserError: This job was requeued too often.
    """
    prepare_process()
    if num_restarts() > config.cluster.max_requeues:
        raise UserError(
            f"requeued {num_restarts()} times, more than cluster.max_requeues={config.cluster.max_requeues}"
        )
    with importing():
        from leyden import assembly  # noqa: F401 - imports PyTorch, so that the checks run in this process
    with composing():
        scheduler = current()
        assert scheduler is not None  # it has started this process
        run_sweep(config, JobLauncher(module, scheduler, start_command))


def submission(scheduler: Scheduler, job: Submitted) -> dict[str, str]:
    """Return the content of a run's `job.json` for a submitted job."""
    return {"scheduler": scheduler.name, "job_id": job.job_id, "log": str(job.log)}


class JobLauncher:
    """Launcher that runs one sweep job after another within this job of the scheduler; a `JobRunner` and a `Runner`.

    Shortly before the time limit, the scheduler sends a signal: the current run saves a checkpoint and requeues
    this job, which then resumes the run. Between two runs the signal is blocked.

    Args:
        module: Name of the module whose `main.task` runs a job.
        scheduler: The scheduler that started this process.
        start_command: As of `search_on_node`.
    """

    waits = True
    num_at_once = 1
    num_free = 1
    note, shares = "", False  # processes share the trials

    def __init__(self, module: str, scheduler: Scheduler, start_command: str | None) -> None:
        self.module, self.scheduler, self.start_command = module, scheduler, start_command
        self.log = scheduler.log()
        self.started: list[Job] = []

    def check_jobs(self, jobs: Sequence[Job]) -> bool:
        """No-op: the jobs were checked when the search was submitted."""
        return True

    def run_jobs(
        self,
        ask: Callable[[], Job | None],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, str], bool],
    ) -> None:
        """Run jobs one after another, with the arguments of `leyden.sweep.launcher.run_jobs`."""
        run_jobs(ask, self, status, at_once=1, ended=ended)

    def start(self, jobs: Sequence[Job]) -> None:
        """Record the scheduler's job in the jobs' run directories; `wait` runs the jobs."""
        for job in jobs:
            job.log = self.log
            with job.run.locked(identity := job.identity, resume="auto"):
                job.run.begin(identity, job.overrides, job=self.scheduler.job_id())
                job.run.submission = submission(self.scheduler, Submitted(str(self.scheduler.job_id()), self.log))
        self.started += jobs

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Run the started job to its end."""
        job, error = self.started.pop(), ""
        config = job.config_on_node
        # The limit is for the scheduler's job, which trains many runs; `search_on_node` has checked it.
        config.cluster.max_requeues = sys.maxsize
        if self.start_command:
            return [(job, self._run_in_processes(job, config))], 0
        try:
            execute_job(self.module, config)
        except Exception as raised:
            traceback.print_exc()
            error = failure_text(raised)
        release_memory()  # of the GPU, too
        return [(job, error)], 0

    def _run_in_processes(self, job: Job, config: DictConfig) -> str:
        """Run a job in the processes of the scheduler's job; return the text of its error, empty on success."""
        call = self.log.with_name(f"{self.scheduler.job_id()}_trial.pkl")  # on the file system of all nodes
        write_call(call, run_on_node, (self.module, config, job.identity, job.overrides))
        command = f"{self.start_command} -m {COMMAND} {shlex.quote(str(call))}"
        code = subprocess.run(command, shell=True).returncode
        call.unlink()
        if (recorded := recorded_error(job.run.result)) is not None:
            return recorded
        if self.scheduler.is_requeued() or code == 128 + signal.SIGTERM:  # the run will be resumed
            leave(code or Exit.REQUEUED)
        return f"{self.scheduler.title}: its processes ended with {code} and without a result"

    def stop(self) -> None:
        """No-op: jobs run synchronously in `wait`."""

    close = stop

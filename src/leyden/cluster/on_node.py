"""What a job of a sweep does on a node: a run, or the trials of a search one after another."""

import gc
import importlib
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from hydra._internal.callbacks import Callbacks  # Hydra has no public class of callbacks that do nothing
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from leyden.config.errors import UserError
from leyden.config.hydra import composing
from leyden.run.identity import RunIdentity
from leyden.run.process import importing, is_main_process
from leyden.scheduler import current, num_restarts
from leyden.scheduler.protocol import Scheduler, Submitted
from leyden.sweep.jobs import Job, failure_text, record_failure
from leyden.sweep.status import StatusLine, run_jobs
from leyden.sweep.worker import execute_job


def run_on_node(module: str, config: DictConfig, choices: RunIdentity, overrides: list[str]) -> None:
    """Run a job; whatever it fails by stands in its `result.json`.

    Args:
        module: Name of the module whose `main.task` it is.
        config: Of the job, Hydra's part included.
        choices: What it is asked to be.
        overrides: What it was composed by.
    """
    setup_globals()
    try:
        execute_job(module, config)
    except Exception as error:
        if is_main_process():
            record_failure(choices, overrides, failure_text(error))
        raise


def search_on_node(module: str, config: DictConfig) -> None:
    """Go on with a search until it has its number of trials, beside others that do the same.

    Args:
        module: Name of the module whose `main.task` a trial is.
        config: Of the sweep, Hydra's part included, with nothing in it that would be something else here.

    Raises:
        UserError: This job was started again too often.
    """
    setup_globals()
    if num_restarts() > config.cluster.max_requeues:
        raise UserError(
            f"requeued {num_restarts()} times, more than cluster.max_requeues={config.cluster.max_requeues}"
        )
    with importing():
        from leyden import assembly  # noqa: F401 - and PyTorch: what is checked is checked in this process
    with composing():
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        task = importlib.import_module(module).main.task
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=task, config=config
        )
        scheduler = current()
        assert scheduler is not None  # it has started this process
        sweeper.launcher = InThisProcess(module, scheduler)
        sweeper.sweep(list(config.hydra.overrides.task))


def submission(scheduler: Scheduler, job: Submitted) -> dict[str, str]:
    """Return what a run's `job.json` holds of its job."""
    return {"scheduler": scheduler.name, "job_id": job.job_id, "log": str(job.log)}


class InThisProcess:
    """Runs jobs one after another in this process; as a launcher, and as a `batch.Runner`.

    What tells the process to end, as a scheduler before the time limit, is for the run that is under way: it saves, and asks that
    the job be started again, which then goes on with that run. Between two runs it waits for the next one to begin.

    Args:
        module: Name of the module whose `main.task` a job is.
        scheduler: Has started this process.
    """

    waits = True
    num_at_once = 1
    room = 1

    def __init__(self, module: str, scheduler: Scheduler) -> None:
        self.module, self.scheduler, self.log = module, scheduler, scheduler.log()
        self.given: list[Job] = []

    def check_jobs(self, jobs: Sequence[Job]) -> bool:
        """Nothing: they were checked where the search was left."""
        return True

    def run_jobs(
        self,
        ask: Callable[[], Job | None],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, str], bool],
    ) -> None:
        """Run jobs, as `batch.run` says, but one at once."""
        run_jobs(ask, self, status, at_once=1, ended=ended)

    def start(self, jobs: Sequence[Job]) -> None:
        """Take a job, which belongs to this job from now on; `wait` runs it."""
        for job in jobs:
            job.log = self.log
            with job.run.locked(choices := job.choices, resume="auto"):
                job.run.begin(choices, job.overrides)
                job.run.submission = submission(self.scheduler, Submitted(str(self.scheduler.job_id()), self.log))
        self.given += jobs

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Run it to its end."""
        job, error = self.given.pop(), ""
        config = job.config_on_node
        config.cluster.max_requeues = sys.maxsize  # that of this job, in which there are many runs, was looked at
        try:
            execute_job(self.module, config)
        except Exception as raised:
            traceback.print_exc()
            error = failure_text(raised)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # a run that has failed leaves it open
        gc.collect()  # of a network that was, nothing is left on a GPU
        return [(job, error)], 0

    def stop(self) -> None:
        """Nothing: a job that is told of has ended."""

    close = stop

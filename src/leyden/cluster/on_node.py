"""What a job of a sweep does on a node: a run, or the trials of a search one after another."""

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import hydra
from hydra._internal.callbacks import Callbacks  # Hydra has no public class of callbacks that do nothing
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from leyden.config.paths import CONF
from leyden.run.choices import Choices
from leyden.run.process import is_main_process
from leyden.sweep import batch, failure
from leyden.sweep.jobs import Job, record_failure
from leyden.sweep.status_line import StatusLine
from leyden.sweep.worker import execute


def run_on_node(module: str, config: DictConfig, choices: Choices, overrides: list[str]) -> None:
    """Run a job; whatever it fails by stands in its `result.json`.

    Args:
        module: Name of the module whose `main.task` it is.
        config: Of the job, Hydra's part included.
        choices: What it is asked to be.
        overrides: What it was composed by.
    """
    setup_globals()
    try:
        execute(module, config)
    except Exception as error:
        if is_main_process():
            record_failure(choices, overrides, failure.of(error))
        raise


def search_on_node(module: str, config: DictConfig) -> None:
    """Go on with a search until it has its number of trials, beside others that do the same.

    Args:
        module: Name of the module whose `main.task` a trial is.
        config: Of the sweep, Hydra's part included.
    """
    setup_globals()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        context = HydraContext(GlobalHydra.instance().config_loader(), Callbacks())
        task = importlib.import_module(module).main.task
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            hydra_context=context, task_function=task, config=config
        )
        sweeper.launcher = InThisProcess(module)
        sweeper.sweep(list(config.hydra.overrides.task))


class InThisProcess:
    """Runs jobs one after another in this process; as a launcher of Hydra's, and as a `batch.Runner`.

    What tells the process to end, as Slurm before the time limit, is for the run that is under way: it saves, and asks that
    the job be started again, which then goes on with that run.

    Args:
        module: Name of the module whose `main.task` a job is.
    """

    num_at_once = 1

    def __init__(self, module: str) -> None:
        self.module = module
        self.given: list[Job] = []

    def run_jobs(
        self,
        jobs: Iterable[Job],
        status: StatusLine,
        *,
        at_once: int | None,
        ended: Callable[[Job, JobReturn], None],
    ) -> None:
        """Run jobs, as `batch.run` says, but one at once."""
        batch.run(jobs, self, status, at_once=1, ended=ended)

    room = 1

    def start(self, jobs: Sequence[Job]) -> None:
        """Take a job; `wait` runs it."""
        self.given += jobs

    def wait(self) -> tuple[list[tuple[Job, str]], int]:
        """Run it to its end."""
        job = self.given.pop()
        try:
            execute(self.module, job.config_on_node)
        except Exception as error:
            return [(job, failure.of(error))], 0
        return [(job, "")], 0

    def stop(self) -> None:
        """Nothing: a job that is told of has ended."""

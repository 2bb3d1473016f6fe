"""Where Hydra looks for plugins: the launcher and the sweeper of Leyden. The work is done in `leyden.sweep`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Runs the jobs in parallel on this machine; a job that has ended before is not run again.

    Args:
        num_jobs: At once; None for one a GPU, or one a core where there is no GPU.
    """

    def __init__(self, num_jobs: int | None) -> None:
        self.num_jobs = num_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what launching needs."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run a batch; a job's return value is its objective, or the error that it ended with."""
        from leyden.sweep import jobs, local

        module = sys.modules[self.task_function.__module__]
        name = module.__spec__.name if module.__spec__ else module.__name__
        batch = jobs.compose(self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx)
        returns = []
        for job, (value, error) in zip(batch, local.run(batch, self.num_jobs, module=name), strict=True):
            returned = JobReturn(overrides=list(job.config.hydra.overrides.task), cfg=jobs.task_config(job))
            returned.status = JobStatus.FAILED if error else JobStatus.COMPLETED
            returned.return_value = RuntimeError(error) if error else value
            returns.append(returned)
        return returns


class GridSweeper(BasicSweeper):
    """All combinations, as Hydra's own, but all are checked first, all are run, and a summary ends it."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that the arguments span."""
        from leyden.config import UserError
        from leyden.sweep import jobs

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        loader = self.hydra_context.config_loader
        overrides = OverridesParser.create(config_loader=loader).parse_overrides(self._parse_config() + arguments)
        for override in overrides:
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: a grid takes lists, as 0.1,0.01; use sweep=tpe for intervals"
                )
        (batch,) = self.split_arguments(overrides, None)
        composed = jobs.compose(loader, self.config, batch)
        jobs.check(composed)
        if jobs.task_config(composed[0]).dry_run:
            print(jobs.describe(composed))
            return []
        directory = Path(self.config.hydra.sweep.dir).absolute()
        jobs.claim(directory, composed)
        returns = self.launcher.launch(batch, initial_job_idx=0)
        failures = {
            job.run.directory.name: str(returned._return_value)
            for job, returned in zip(composed, returns, strict=True)
            if returned.status == JobStatus.FAILED
        }
        jobs.conclude(directory, composed, failures)
        return returns

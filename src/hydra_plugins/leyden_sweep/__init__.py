"""Where Hydra looks for plugins: the launchers and the sweepers. The work is done in `leyden.sweep`."""

import os
import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from leyden.config import UserError


class JobLauncher(Launcher):
    """Runs jobs somewhere; one that has ended before is not run again."""

    total: int | None = None  # of a search that runs several batches
    wait = True  # for the jobs to end
    runner: Any = None
    num_at_once: int

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what launching needs."""
        self.hydra_context, self.config = hydra_context, config
        module = sys.modules[task_function.__module__]
        self.module = module.__spec__.name if module.__spec__ else module.__name__
        self.progress: Any = None

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        """Run a batch; a job's return value is the list of its objectives, or the error that it ended with."""
        from leyden.sweep.jobs import compose

        jobs = compose(self.hydra_context.config_loader, self.config, job_overrides, initial_job_idx)
        return self.run_jobs(jobs) if self.check_jobs(jobs) else []

    @abstractmethod
    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Find what is wrong with the jobs, and make the runner; False if that was all that is wanted."""

    def run_jobs(self, jobs: Sequence[Any]) -> list[JobReturn]:
        """The same for jobs that are composed and checked."""
        from leyden.sweep import batch
        from leyden.sweep.progress import Progress

        self.progress = self.progress or Progress(self.total)
        return batch.run(jobs, self.runner, self.progress)


class LocalLauncher(JobLauncher):
    """Runs the jobs in parallel on this machine.

    Args:
        num_jobs: At once; None for one a GPU, or one a core where there is no GPU.
    """

    def __init__(self, num_jobs: int | None) -> None:
        from leyden.sweep.launcher import slots, visible_devices

        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.slots = slots(num_jobs, visible_devices(), allowed or 1)
        self.num_at_once = len(self.slots)

    def setup(self, **kwargs: Any) -> None:
        """Start the process that workers are copies of: it imports while the jobs are checked."""
        from leyden.sweep.launcher import warm_up

        super().setup(**kwargs)
        warm_up()

    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Make sure that the jobs can be run here."""
        from leyden.sweep.launcher import Pool

        for job in jobs:
            trainer = job.config.trainer
            if (trainer.devices, trainer.num_nodes, trainer.strategy) != (1, 1, "auto"):
                raise UserError(
                    "trainer: a sweep on this machine runs a job a process and device; use trainer=auto, "
                    "or run jobs of several processes one by one, without -m"
                )
        if self.runner is None:
            self.runner = Pool(self.slots, self.module)
        return True

    def close(self) -> None:
        """End the workers."""
        if self.runner is not None:
            self.runner.close()


class SlurmLauncher(JobLauncher):
    """Runs the jobs on a cluster, as an array.

    Args:
        cluster: As `conf/cluster/slurm.yaml` has it.
    """

    def __init__(self, cluster: DictConfig) -> None:
        self.cluster, self.wait = cluster, cluster.wait
        self.num_at_once = cluster.num_jobs or 10

    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Make sure that Slurm takes the jobs; False if the script for sbatch was all that is wanted."""
        from leyden.cluster.submit import SlurmRunner, check_resources

        for job in jobs:
            check_resources(self.cluster, job.config.trainer)
        self.runner = SlurmRunner(jobs[0].run.directory.parent, self.cluster, self.module)
        script = self.runner.check(len(jobs))
        if self.cluster.dry_run:
            print(script)
        return not self.cluster.dry_run

    def run_jobs(self, jobs: Sequence[Any]) -> list[JobReturn]:
        """Submit, and wait unless that is not wanted."""
        from leyden.cluster.submit import submit_and_leave

        if self.wait:
            return super().run_jobs(jobs)
        submit_and_leave(jobs, self.runner)
        return []


class GridSweeper(BasicSweeper):
    """All combinations, as Hydra's own, but all are checked first, all are run, and a summary ends it."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that the arguments span."""
        from leyden.sweep.jobs import Sweep

        for override in (overrides := _parse(self, arguments)):
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: a grid takes lists, as 0.1,0.01; use sweep=tpe for intervals"
                )
        (batch,) = self.split_arguments(overrides, None)
        with Sweep(self.hydra_context.config_loader, self.config, self.launcher) as sweep:  # type: ignore[union-attr, arg-type]
            if sweep.check(jobs := sweep.compose(batch)):
                sweep.run(jobs)
                if getattr(self.launcher, "wait", True):
                    sweep.conclude()


class OptunaSweeper(BasicSweeper):
    """A search by Optuna 5: ask, run a batch by the launcher, tell; over restarts and beside others.

    Args:
        sampler: One of Optuna's.
        num_trials: How many trials there are to be in the end.
        batch_size: Trials at once; None for as many as the launcher runs at once.
        params: Search space by key, in Hydra's override syntax, as on the command line.
    """

    def __init__(
        self, sampler: Any, num_trials: int, batch_size: int | None, params: dict[str, str] | None = None
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.sampler, self.num_trials, self.batch_size = sampler, num_trials, batch_size

    def sweep(self, arguments: list[str]) -> Any:
        """Search the space that the arguments span."""
        from leyden.sweep import optimize
        from leyden.sweep.jobs import Sweep

        with Sweep(self.hydra_context.config_loader, self.config, self.launcher) as sweep:  # type: ignore[union-attr, arg-type]
            optimize.search(
                sweep,
                _parse(self, arguments),
                sampler=self.sampler,
                num_trials=self.num_trials,
                batch_size=self.batch_size,
            )


def _parse(sweeper: BasicSweeper, arguments: list[str]) -> list[Override]:
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)  # type: ignore[union-attr]
    return parser.parse_overrides(sweeper._parse_config() + arguments)

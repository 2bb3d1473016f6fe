"""Where Hydra looks for launchers. The work is done in `leyden.sweep` and `leyden.cluster`."""

import sys
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError
from leyden.run.process import num_cores, num_threads
from leyden.scheduler import SCHEDULERS


class JobLauncher(Launcher):
    """Runs jobs somewhere; one that has ended before is not run again. A `leyden.sweep.sweep.JobRunner`."""

    waits = True  # for the jobs to end
    runner: Any = None
    num_at_once: int

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Remember what launching needs."""
        check_num_jobs(config.cluster.num_jobs)  # by it the work is shared out, before any job is checked
        self.config = config
        module = sys.modules[task_function.__module__]
        self.module = module.__spec__.name if module.__spec__ else module.__name__

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Refuse the sweeper: Leyden's own give composed jobs to `run_jobs`."""
        raise UserError(
            f"hydra/sweeper={self.config.hydra.runtime.choices['hydra/sweeper']}: must be grid or optuna, whose jobs are runs that are "
            "checked and resumed"
        )

    @abstractmethod
    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Find what is wrong with the jobs, and make the runner; False if that was all that is wanted."""

    def run_jobs(
        self,
        ask: Callable[[], Any],
        status: Any,
        *,
        at_once: int | None = None,
        ended: Callable[[Any, str], bool],
    ) -> None:
        """Run jobs that are composed and checked, as `batch.run` says."""
        from leyden.sweep.status import run_jobs

        run_jobs(ask, self.runner, status, at_once=at_once, ended=ended)

    def close(self) -> None:
        """End the workers, if there are any."""


class LocalLauncher(JobLauncher):
    """Runs the jobs in parallel on this machine; jobs of several processes one after another.

    Args:
        num_jobs: At once; None for one per GPU, or one per core where there is no GPU.
    """

    def __init__(self, num_jobs: int | None) -> None:
        self.num_jobs = num_jobs

    def setup(self, **kwargs: Any) -> None:
        """Start the process that workers are copies of: it imports while the jobs are checked. A dry run has no workers."""
        from leyden.sweep.launcher import warm_up, worker_environments
        from leyden.sweep.worker import USES_CUDA, visible_devices

        super().setup(**kwargs)
        self.num_cores = num_cores()
        self.devices = visible_devices() if self.config.trainer.accelerator in USES_CUDA else []
        self.slots = worker_environments(self.num_jobs, self.devices, self.num_cores)
        self.num_at_once = len(self.slots)
        if not self.config.dry_run:
            warm_up(self.config.data)

    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Make sure that the jobs can be run here."""
        from leyden.sweep.launcher import Pool, num_devices
        from leyden.sweep.worker import run_as_command

        trainers = [job.config.trainer for job in jobs]
        if nodes := [trainer.num_nodes for trainer in trainers if trainer.num_nodes != 1]:
            raise UserError(f"trainer.num_nodes={nodes[0]}: a sweep on this machine has no other nodes")
        if self.runner is None and all((each.devices, each.strategy) == (1, "auto") for each in trainers):
            self.runner = Pool(self.slots, self.module)
        elif (
            self.runner is None
        ):  # each job has all devices that it asks for, and its share of the cores per process
            most = max(num_devices(each.devices, self.devices) for each in trainers)
            if most > 1 and any(device.startswith("MIG-") for device in self.devices):
                raise UserError(f"trainer.devices={most}: CUDA gives a process one part of a GPU (MIG) at most")
            environment = {"OMP_NUM_THREADS": str(num_threads(self.num_cores // most))}
            if self.devices:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
            self.runner = Pool([environment], self.module, run_as_command)
        return True

    def close(self) -> None:
        """End the workers."""
        if self.runner is not None:
            self.runner.stop()


class ClusterLauncher(JobLauncher):
    """Runs the jobs on a cluster.

    Args:
        cluster: The resources of a job, as `conf/cluster/slurm.yaml` has them.
        scheduler: Name of the scheduler that starts them.
    """

    def __init__(self, cluster: DictConfig, scheduler: str) -> None:
        self.cluster, self.scheduler, self.waits = cluster, SCHEDULERS[scheduler], cluster.wait

    def setup(self, **kwargs: Any) -> None:
        """Find how many jobs there are at once."""
        if sys.platform == "win32":
            raise UserError(
                "cluster: no cluster is reached from Windows; cluster=local runs the jobs on this machine"
            )
        super().setup(**kwargs)
        self.num_at_once = self.cluster.num_jobs or self.cluster.num_trials_at_once

    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Check that the scheduler takes the jobs; False for `cluster.dry_run`, which only prints the script."""
        from leyden.cluster.submit import ClusterRunner

        for job in jobs:
            self.scheduler.check(self.cluster, job.config.trainer)
        self.runner = ClusterRunner(self.scheduler, jobs[0].run.directory.parent, self.cluster, self.module)
        script = self.runner.script(len(jobs))
        if self.cluster.dry_run:
            print(script)
        return not self.cluster.dry_run

    def run_jobs(self, ask: Callable[[], Any], status: Any, *, at_once: int | None = None, **further: Any) -> None:
        """Submit, and wait unless that is not wanted."""
        from leyden.cluster.submit import leave_jobs

        if self.waits:
            if at_once and self.cluster.num_jobs:  # of a search, whose jobs are no array that the scheduler limits
                at_once = min(at_once, self.cluster.num_jobs)
            super().run_jobs(ask, status, at_once=at_once, **further)
        else:
            leave_jobs(list(iter(ask, None)), self.runner)

    def leave_search(self, config: DictConfig, num_jobs: int) -> None:
        """Submit jobs that go on with a search by themselves."""
        from leyden.cluster.submit import leave_search

        leave_search(config, self.runner, num_jobs)

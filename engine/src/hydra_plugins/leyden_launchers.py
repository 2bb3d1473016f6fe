"""Hydra's launcher plugins; they delegate to `leyden.sweep` and `leyden.cluster`."""

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
    """Base class of launchers that run composed jobs; a `leyden.sweep.sweep.JobRunner`.

    Jobs that ended in an earlier start are skipped.
    """

    waits = True
    runner: Any = None
    num_at_once: int

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store the configuration and the module of the task."""
        check_num_jobs(config.cluster.num_jobs)  # here, since it is used before the jobs are checked
        self.config = config
        module = sys.modules[task_function.__module__]
        self.module = module.__spec__.name if module.__spec__ else module.__name__

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> NoReturn:
        """Refuse other sweepers: Leyden's sweepers call `run_jobs` with composed jobs."""
        raise UserError(
            f"hydra/sweeper={self.config.hydra.runtime.choices['hydra/sweeper']}: must be grid or optuna, whose runs can "
            "be checked and resumed"
        )

    @abstractmethod
    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Check the jobs and create the runner; return False if the user asked for the check only."""

    def run_jobs(
        self,
        ask: Callable[[], Any],
        status: Any,
        *,
        at_once: int | None = None,
        ended: Callable[[Any, str], bool],
    ) -> None:
        """Run checked jobs, with the arguments of `leyden.sweep.status.run_jobs`."""
        from leyden.sweep.status import run_jobs

        run_jobs(ask, self.runner, status, at_once=at_once, ended=ended)

    def close(self) -> None:
        """Stop the jobs' processes, if there are any."""


class LocalLauncher(JobLauncher):
    """Launcher of parallel jobs on this machine; jobs with several processes run one after another.

    Args:
        num_jobs: Number of jobs at once; None for one per GPU or, without GPUs, one per core.
    """

    def __init__(self, num_jobs: int | None) -> None:
        self.num_jobs = num_jobs

    def setup(self, **kwargs: Any) -> None:
        """Find devices and slots, and start the fork server, which imports PyTorch while the jobs are checked."""
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
        """Check that the jobs can run on this machine."""
        from leyden.sweep.launcher import Pool, num_devices
        from leyden.sweep.worker import run_as_command

        used, is_one_process = [], True
        for job in jobs:
            trainer = job.config.trainer
            if trainer.num_nodes != 1:
                raise UserError(
                    f"trainer.num_nodes={trainer.num_nodes}: a sweep on this machine has no other nodes"
                )
            used.append(num_devices(trainer.devices, self.devices))
            is_one_process &= (trainer.devices, trainer.strategy) == (1, "auto")
            job.release()
        if self.runner is None and is_one_process:
            self.runner = Pool(self.slots, self.module)
        elif self.runner is None:  # one job at a time, with all its devices; its processes share the cores
            most = max(used)
            if most > 1 and any(device.startswith("MIG-") for device in self.devices):
                raise UserError(f"trainer.devices={most}: a process can use at most one MIG device")
            environment = {"OMP_NUM_THREADS": str(num_threads(self.num_cores // most))}
            if self.devices:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(self.devices)
            self.runner = Pool([environment], self.module, run_as_command)
        return True

    def close(self) -> None:
        """Stop the jobs' processes."""
        if self.runner is not None:
            self.runner.stop()


class ClusterLauncher(JobLauncher):
    """Launcher of jobs on a cluster.

    Args:
        cluster: The node `cluster` of the configuration, as in `conf/cluster/slurm.yaml`.
        scheduler: Name of the scheduler that starts the jobs.
    """

    def __init__(self, cluster: DictConfig, scheduler: str) -> None:
        self.cluster, self.scheduler, self.waits = cluster, SCHEDULERS[scheduler], cluster.wait

    def setup(self, **kwargs: Any) -> None:
        """Set the number of jobs at once, and leave the job of this process, if it is in one."""
        if sys.platform == "win32":
            raise UserError(
                "cluster: clusters can't be used from Windows; cluster=local runs the jobs on this machine"
            )
        super().setup(**kwargs)
        self.scheduler.leave_job()
        self.num_at_once = self.cluster.num_jobs or self.cluster.num_trials_at_once

    def check_jobs(self, jobs: Sequence[Any]) -> bool:
        """Check that the scheduler accepts the jobs; for `cluster.dry_run`, print the script and return False."""
        from leyden.cluster.submit import ClusterRunner

        for job in jobs:
            self.scheduler.check(self.cluster, job.config.trainer)
            job.release()
        self.runner = ClusterRunner(self.scheduler, jobs[0].run.directory.parent, self.cluster, self.module)
        script = self.runner.script(len(jobs))
        if self.cluster.dry_run:
            print(script)
        return not self.cluster.dry_run

    def run_jobs(self, ask: Callable[[], Any], status: Any, *, at_once: int | None = None, **kwargs: Any) -> None:
        """Submit the jobs, and wait for them if `cluster.wait` is true."""
        from leyden.cluster.submit import submit_jobs

        if self.waits:
            if at_once and self.cluster.num_jobs:  # no array limits jobs that are submitted one by one
                at_once, self.runner.num_at_once = min(at_once, self.cluster.num_jobs), None
            super().run_jobs(ask, status, at_once=at_once, **kwargs)
        else:
            submit_jobs(list(iter(ask, None)), self.runner)

    def submit_search(self, config: DictConfig, num_jobs: int) -> None:
        """Submit jobs that run a search without this process."""
        from leyden.cluster.submit import submit_search

        submit_search(config, self.runner, num_jobs)

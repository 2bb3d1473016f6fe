"""Jobs on a Ray cluster: machines, clouds and Kubernetes, which somebody has started by `ray start`, KubeRay or SkyPilot.

Each job is a command of its own on one node, from a snapshot of the code. If its node is lost, Ray starts it on another
one, where the run resumes.
"""

import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from leyden.cluster.submit import NUM_TRIALS, snapshot
from leyden.config.checks import check_num_jobs
from leyden.config.errors import UserError
from leyden.config.paths import ROOT, environment_of
from leyden.run.identity import RunIdentity
from leyden.run.record import KEY, key
from leyden.run.result import Failure
from leyden.scheduler import slurm
from leyden.sweep.jobs import Job, sweep_directory
from leyden.sweep.worker import run_as_command


class RayLauncher:
    """Launcher of jobs on a Ray cluster, whose nodes share the folders of the project, the runs and the data.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        module: Name of the module whose `main.task` runs a job.

    Raises:
        UserError: Ray is not installed, or a resource is no number.
    """

    is_queue, waits, note = False, True, ""

    def __init__(self, config: DictConfig, module: str) -> None:
        self.cluster, self.module, self.directory = config.cluster, module, sweep_directory(config)
        check_num_jobs(self.cluster.num_jobs)
        for name, least in (("cpus", 1), ("gpus", 0), ("max_requeues", 0)):
            if type(value := self.cluster[name]) is not int or value < least:
                raise UserError(f"cluster.{name}={value}: must be a whole number, {least} or larger")
        self.num_at_once = self.cluster.num_jobs or NUM_TRIALS
        self.running: dict[Any, Job] = {}  # by Ray's reference
        self.code: Path | None = None  # the snapshot that jobs run from
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("cluster=ray: ray is not installed; pip install 'leyden[ray]' installs it") from error
        self.ray = ray

    @property
    def num_free(self) -> int | None:
        """Number of jobs that can be started now; None for any number, as they wait for resources in Ray."""
        limit: int | None = self.cluster.num_jobs
        return limit and limit - len(self.running)

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Check that the jobs fit on a node, and connect to the cluster."""
        for job in jobs:
            trainer = job.config.trainer
            if trainer.num_nodes != 1:
                raise UserError(
                    f"trainer.num_nodes={trainer.num_nodes}: with cluster=ray a run is on one node; use cluster=slurm_multinode"
                )
            slurm.check_accelerator(trainer.accelerator, "cluster.gpus", self.cluster.gpus)
            job.release()
        variables = {**environment_of(ROOT), KEY: key()}  # a node may have another home directory
        try:
            self.ray.init(
                address=self.cluster.address,
                runtime_env={"env_vars": variables},
                log_to_driver=False,
                logging_level="error",
            )
        except Exception as error:  # Ray raises many types
            raise UserError(f"cluster.address={self.cluster.address}: no Ray cluster is there ({error})") from error
        return True

    def start(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to Ray, which starts each where its resources are free."""
        self.code = self.code or snapshot(self.directory / "code")
        task = self.ray.remote(max_calls=1, max_retries=self.cluster.max_requeues)(_run)
        for job in jobs:
            given = task.options(num_cpus=self.cluster.cpus, num_gpus=self.cluster.gpus)
            call = (self.module, job.config_on_node, job.identity, job.overrides)
            self.running[given.remote(*call, str(job.log), str(self.code), self.cluster.cpus)] = job
            job.release()

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
        self.running = {}


def _run(
    module: str,
    config: DictConfig,
    identity: RunIdentity,
    overrides: list[str],
    log: str,
    code: str,
    num_cpus: int,
) -> Failure | None:
    """Run a job in this process of Ray, which runs nothing else; return its failure, None on success."""
    slurm.leave_job()  # if Ray is in one: a requeue would be of all of Ray's nodes
    with open(log, "ab") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        with tarfile.open(code) as archive:
            archive.extractall(folder)  # our own archive
        os.environ.update({**environment_of(Path(folder)), "OMP_NUM_THREADS": str(num_cpus)})
        return run_as_command(module, config, identity, overrides)

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

from leyden import scheduler
from leyden.cluster.submit import snapshot
from leyden.config.errors import UserError
from leyden.config.paths import ROOT, environment_of
from leyden.run.directory import Run
from leyden.run.record import KEY, key
from leyden.run.result import Failure
from leyden.sweep.jobs import Call, Job, sweep_directory
from leyden.sweep.launcher import Launcher, command_of_job, failure_of

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}


class RayLauncher(Launcher):
    """Launcher of jobs on a Ray cluster, whose nodes share the folders of the project, the runs and the data.

    Raises:
        UserError: Ray is not installed.
    """

    def __init__(self, config: DictConfig, module: str) -> None:
        super().__init__(config, module)
        try:
            import ray
        except ModuleNotFoundError as error:
            raise UserError("cluster=ray: ray is not installed; pip install 'leyden[ray]' installs it") from error
        self.ray = ray
        self.running: dict[Any, Job] = {}  # by Ray's reference
        self.code: Path | None = None  # the snapshot that jobs run from

    def check(self, jobs: Sequence[Job], num: int) -> bool:
        """Connect to the cluster."""
        cluster = self.config.cluster
        variables = {**environment_of(ROOT), KEY: key()}  # a node may have another home directory
        try:
            self.ray.init(address=cluster.address, runtime_env={"env_vars": variables}, **QUIET)
            run = self.ray.remote(max_calls=1, max_retries=cluster.max_requeues)(_run)
            self.remote = run.options(num_cpus=cluster.cpus, num_gpus=cluster.gpus).remote
        except Exception as error:  # Ray raises many types
            raise UserError(f"cluster: Ray can't be used: {' '.join(str(error).split())}") from error
        return True

    def start(self, jobs: Sequence[Job]) -> None:
        """Hand jobs to Ray, which starts each where its resources are free."""
        self.code = self.code or snapshot(sweep_directory(self.config) / "code")
        for job in jobs:
            self.running[self.remote(job.call(self.module, on_node=True), str(job.log), str(self.code))] = job

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


def _run(call: Call, log: str, code: str) -> Failure | None:
    """Run a job in this process of Ray, which runs nothing else; return its failure, None on success."""
    scheduler.own().leave_job()  # if Ray is in one: a requeue would be of all of Ray's nodes
    with open(log, "ab") as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    with tempfile.TemporaryDirectory(prefix="leyden-") as folder:
        with tarfile.open(code) as archive:
            archive.extractall(folder)  # our own archive
        os.environ.update(environment_of(Path(folder)))
        run = Run(call.identity.config["run_dir"])
        num_starts = len(run.starts)
        return failure_of(run, command_of_job(*call), num_starts)

"""From configuration to objects."""

from leyden.build.check import check, check_run, evaluates
from leyden.build.data import check_world_size, datamodule
from leyden.build.fork import read_fork
from leyden.build.init import inherit
from leyden.build.instantiate import instantiate
from leyden.build.network import network
from leyden.build.resume import check_fits, read_checkpoint, restoring
from leyden.build.run_trainer import RunTrainer, run_trainer
from leyden.build.task import task, task_module
from leyden.build.trainer import plain_trainer, quiet
from leyden.build.trust import trusted

__all__ = [
    "RunTrainer",
    "check",
    "check_fits",
    "check_run",
    "check_world_size",
    "datamodule",
    "evaluates",
    "inherit",
    "instantiate",
    "network",
    "plain_trainer",
    "quiet",
    "read_checkpoint",
    "read_fork",
    "restoring",
    "run_trainer",
    "task",
    "task_module",
    "trusted",
]

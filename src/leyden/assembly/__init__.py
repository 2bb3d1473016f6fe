"""From configuration to objects."""

from leyden.assembly.check import check, check_run, evaluates
from leyden.assembly.data import check_world_size, datamodule
from leyden.assembly.instantiate import instantiate, user_errors
from leyden.assembly.run_trainer import RunTrainer, run_trainer
from leyden.assembly.start_from import check_fits, inherit, read_checkpoint, read_fork, restoring
from leyden.assembly.task import network, task, task_module
from leyden.assembly.trainer import plain_trainer, quiet
from leyden.assembly.trust import trusted

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
    "user_errors",
]

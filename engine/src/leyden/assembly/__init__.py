"""Building the parts of a run from its configuration."""

from leyden.assembly.check import check_overrides, check_run, dry_build, evaluates_test_set
from leyden.assembly.data import check_world_size, datamodule
from leyden.assembly.instantiate import import_targets, instantiate, user_errors
from leyden.assembly.run_trainer import RunTrainer, run_trainer
from leyden.assembly.start_from import (
    check_fits,
    load_parent_weights,
    read_checkpoint,
    read_fork,
    reporting_restore_errors,
)
from leyden.assembly.task import network, taken_arguments, task, task_module
from leyden.assembly.trainer import plain_trainer, silence_lightning

__all__ = [
    "RunTrainer",
    "check_fits",
    "check_overrides",
    "check_run",
    "check_world_size",
    "datamodule",
    "dry_build",
    "evaluates_test_set",
    "import_targets",
    "instantiate",
    "load_parent_weights",
    "network",
    "plain_trainer",
    "read_checkpoint",
    "read_fork",
    "reporting_restore_errors",
    "run_trainer",
    "silence_lightning",
    "taken_arguments",
    "task",
    "task_module",
    "user_errors",
]

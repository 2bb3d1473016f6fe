"""Building the parts of a run from its configuration."""

from leyden.assembly.build import Build, build, check_overrides, dry_build
from leyden.assembly.data import datamodule
from leyden.assembly.instantiate import import_targets, instantiate, user_errors
from leyden.assembly.start_from import read_checkpoint, starting_point
from leyden.assembly.task import network, task, task_module
from leyden.assembly.trainer import plain_trainer, run_trainer, silence_lightning

__all__ = [
    "Build",
    "build",
    "check_overrides",
    "datamodule",
    "dry_build",
    "import_targets",
    "instantiate",
    "network",
    "plain_trainer",
    "read_checkpoint",
    "run_trainer",
    "silence_lightning",
    "starting_point",
    "task",
    "task_module",
    "user_errors",
]

"""Building the parts of a run from its configuration."""

from leyden.assembly.build import datamodule, dry_build
from leyden.assembly.task import network, task, task_module
from leyden.assembly.trainer import plain_trainer, run_trainer, silence_lightning

__all__ = [
    "datamodule",
    "dry_build",
    "network",
    "plain_trainer",
    "run_trainer",
    "silence_lightning",
    "task",
    "task_module",
]

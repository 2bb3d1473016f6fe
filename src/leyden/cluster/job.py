"""What a job of a sweep does on a node."""

from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from leyden.run import is_main_process
from leyden.sweep.jobs import record_failure
from leyden.sweep.worker import execute


def work(module: str, config: DictConfig, plain_config: dict[str, Any], overrides: list[str]) -> None:
    """Run a job; whatever it fails by stands in its `result.json`.

    Args:
        module: Name of the module whose `main.task` it is.
        config: Of the job, Hydra's part included.
        plain_config: As its run directory keeps it.
        overrides: What it was composed by.
    """
    setup_globals()
    try:
        execute(module, config)
    except Exception as error:
        if is_main_process():
            record_failure(plain_config, overrides, f"{type(error).__name__}: {error}")
        raise

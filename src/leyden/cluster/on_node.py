"""What a job of a sweep does on a node."""

from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from leyden.run.choices import Choices
from leyden.run.process import is_main_process
from leyden.sweep import failure
from leyden.sweep.jobs import record_failure
from leyden.sweep.worker import execute


def run_on_node(module: str, config: DictConfig, choices: Choices, overrides: list[str]) -> None:
    """Run a job; whatever it fails by stands in its `result.json`.

    Args:
        module: Name of the module whose `main.task` it is.
        config: Of the job, Hydra's part included.
        choices: What it is asked to be.
        overrides: What it was composed by.
    """
    setup_globals()
    try:
        execute(module, config)
    except Exception as error:
        if is_main_process():
            record_failure(choices, overrides, failure.of(error))
        raise

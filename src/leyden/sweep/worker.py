"""A process that runs one job after another."""

import gc
import importlib
import os
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from hydra._internal.callbacks import (
    Callbacks,  # `run_job` calls them, and Hydra has no public class that does nothing
)
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from leyden.config.importing import importing
from leyden.run.process import die_with_parent
from leyden.sweep import failure

with importing():  # once, in the process that the workers are copies of
    import torch

    from leyden import build


def serve(connection: Connection, module: str, environment: dict[str, str]) -> None:
    """Run the jobs that come through the connection, until it is closed or the parent is gone.

    Args:
        connection: Gives pairs of a job's configuration and the path of its log; takes its error, empty for none.
        module: Name of the module whose `main.task` a job is.
        environment: Threads and devices.
    """
    os.environ.update(environment)
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))  # it has read the environment before
    die_with_parent()  # the sweep, started again, would find the job's directory in use
    setup_globals()
    build.quiet()
    while True:
        try:
            config, log = connection.recv()
        except EOFError:
            return
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        connection.send(_error_of(module, config))
        sys.stdout.flush()
        gc.collect()


def execute(module: str, config: DictConfig) -> None:
    """Run a job in this process; what it raises is raised."""
    context: Any = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
    _ = run_job(
        task_function=importlib.import_module(module).main.task,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    ).return_value  # raises, if the job has raised


def _error_of(module: str, config: DictConfig) -> str:
    try:
        execute(module, config)
    except BaseException as error:  # whatever a job does, the next one is to run
        traceback.print_exc()
        return failure.of(error)
    return ""

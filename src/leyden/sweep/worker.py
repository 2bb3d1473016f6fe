"""A process that runs one job after another, so that its imports are done once."""

import gc
import importlib
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig


@dataclass
class Outcome:
    """What came of a job: its objective, or why it has none."""

    value: float | None = None
    error: str = ""


def work(connection: Connection, module: str, environment: dict[str, str], parent: int) -> None:
    """Run the jobs that come through the connection, until it is closed or the parent is gone.

    Args:
        connection: Gives pairs of a job's configuration and the path of its log; takes an `Outcome` for each.
        module: Name of the module whose `main.task` a job is.
        environment: Set before anything heavy is imported: threads, devices.
        parent: Process id of the sweep. A job must not outlive it: started again, it would find the job's
            directory in use.
    """
    os.environ.update(environment)
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    setup_globals()
    while True:
        try:
            config, log = connection.recv()
        except EOFError:
            return
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        connection.send(_run(module, config))
        sys.stdout.flush()
        gc.collect()


def _run(module: str, config: DictConfig) -> Outcome:
    try:
        context: Any = HydraContext(config_loader=None, callbacks=Callbacks())  # type: ignore[arg-type]
        returned: JobReturn = run_job(
            task_function=importlib.import_module(module).main.task,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
            hydra_context=context,
        )
        return Outcome(value=returned.return_value)
    except BaseException as error:  # whatever a job does, the next one is to run
        traceback.print_exc()
        return Outcome(error=f"{type(error).__name__}: {error}")


def _die_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)

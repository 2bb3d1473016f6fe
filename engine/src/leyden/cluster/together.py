"""Several calls at once on a node, each in a process of its own with its share of the GPUs and cores."""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from leyden.config.errors import UserError
from leyden.run.process import end_with_parent
from leyden.sweep.worker import visible_devices

Call = tuple[Callable[..., None], tuple[Any, ...]]


def run_together(calls: Sequence[Call], logs: Sequence[Path | None], cores: int) -> None:
    """Call functions at once, and wait for all of them.

    Args:
        calls: Functions that can be pickled, each with its arguments.
        logs: File for the output of each call; None for the output of this process.
        cores: Cores per call.

    Raises:
        UserError: A process has failed.
    """
    devices = visible_devices()
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        for number, (call, log) in enumerate(zip(calls, logs, strict=True)):
            file = Path(folder) / str(number)
            file.write_bytes(pickle.dumps(call))
            environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
            if devices:
                environment["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
            command = [sys.executable, "-m", "leyden.cluster.together", str(file)]
            with log.open("ab") if log else os.fdopen(os.dup(1), "wb") as output:
                processes.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        preexec_fn=end_with_parent,
                    )
                )
        failed = [process.pid for process in processes if process.wait()]
    if failed:
        raise UserError(f"{len(failed)} of {len(calls)} processes of this job failed or were interrupted")


if __name__ == "__main__":
    function, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())  # trusted: written by the parent process
    function(*arguments)

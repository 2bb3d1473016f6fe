"""A function called by a command of its own: `python -m leyden.run.call FILE`.

FILE has the function and its arguments, written by the process that starts the command. A run with several processes
needs a command, since Lightning starts the other processes by repeating the command line of the first one; so does a job
of a cluster.
"""

import os
import pickle
import platform
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leyden.run.process import JOB

COMMAND = "leyden.run.call"  # the name of this module, which is another one while it runs


def write_call(path: Path, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Write the file of a call: a function that can be imported, and its arguments."""
    path.write_bytes(pickle.dumps((function, arguments)))


if __name__ == "__main__":
    if job := os.environ.get(JOB):  # of a cluster
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} job {job} on {platform.node()}", flush=True)
        # If another process of the job dies, srun sends SIGTERM to this one, which then has to requeue the job; while it
        # trains, `exact.stop` receives it. The scheduler's SIGKILL follows where it means to end the job.
        signal.signal(signal.SIGTERM, lambda *_: None)
    function, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())  # trusted: written by the parent process
    function(*arguments)

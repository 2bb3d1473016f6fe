"""A job with several processes, started as a command of its own: `leyden sweep.command FILE`.

Lightning starts the other processes of a run by repeating the command line of the first one.
"""

import pickle
import sys
from pathlib import Path

from hydra.core.utils import setup_globals

from leyden.run.process import is_main_process
from leyden.sweep.jobs import failure_text
from leyden.sweep.worker import execute_job


def main() -> None:
    """Run the pickled job in the file; write the text of an error to the file `error` beside it."""
    path = Path(sys.argv[1])
    setup_globals()
    try:
        execute_job(*pickle.loads(path.read_bytes()))  # trusted: written by the parent process
    except Exception as error:
        if is_main_process():
            path.with_name("error").write_text(failure_text(error), encoding="utf-8")
        raise


if __name__ == "__main__":
    main()

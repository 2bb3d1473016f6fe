"""A function called by a command of its own: `python -m leyden.sweep.command FILE`.

FILE has the function and its arguments, pickled by the process that starts the command. A run with several processes
needs a command, since Lightning starts the other processes by repeating the command line of the first one.
"""

import pickle
import sys
from pathlib import Path

if __name__ == "__main__":
    function, arguments = pickle.loads(Path(sys.argv[1]).read_bytes())  # trusted: written by the parent process
    function(*arguments)

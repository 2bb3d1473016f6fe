"""Kill a training command at drawn steps, resume it, and compare its steps.

leyden resumetest [kills=3] [seed=0] [timeout_min=60] -- COMMAND … {dir} …

Runs a command undisturbed, then kills it at drawn steps and starts it again
until it ends, and compares the hashes of all steps. The command may train with
any framework. {dir} stands for a new folder, where it keeps its checkpoints and
from which it resumes by itself; it calls leyden.exact.mark(step, model,
optimizer, batch) after each step. Exit code 0: the same bits; 1: not the same,
and the first step that parts is named (docs/exact.md).

  kills=3          the number of kills
  seed=0           draws the steps at which the command is killed
  timeout_min=60   a limit for each start of the command
"""

import signal
import sys
import tempfile
from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_number
from leyden.base.errors import Exit, UserError, ending, leave, require_packages
from leyden.base.terminal import show

DEFAULTS = {"kills": "3", "seed": "0", "timeout_min": "60"}


def main() -> None:
    """Run the command."""
    with ending():
        end = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
        command = sys.argv[end + 1 :]
        del sys.argv[end:]  # its options are not those of this command
        _, options = parse_arguments(__doc__, DEFAULTS, max_folders=0)
        require_packages(["torch"], "exact")  # without it, marks have no hashes
        kills = parse_number(options, "kills") or 0
        timeout_min = parse_number(options, "timeout_min") or 0
        seed = options["seed"]
        if not (seed.isascii() and seed.isdecimal() and len(seed) < 19):
            raise UserError(f"seed={seed}: must be a whole number")
        if not command:
            raise UserError("the command is missing: leyden resumetest -- python train.py {dir}")
        # A scheduler, or a terminal that closes, must not leave the command behind: leave() ends
        # all contexts.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
                signal.signal(number, lambda number, _: leave(128 + number))
        from leyden.exact.resumption import Starts, compare_killed

        temporary = tempfile.TemporaryDirectory(
            prefix="leyden-resumetest-", ignore_cleanup_errors=True
        )
        with temporary as folder:
            starts = Starts(command, Path(folder), timeout_min * 60, show)
            is_same, text = compare_killed(starts, kills, int(seed))
        show(text)
    leave(Exit.DONE if is_same else Exit.DIFFERENT)


if __name__ == "__main__":
    main()

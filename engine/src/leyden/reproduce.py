"""Reproduce a run, or compare two runs bit for bit.

leyden reproduce run=DIR [output=DIR] [data_root=DIR] [threads=N]
                           [trust=true] [exit=bisect]
leyden reproduce run=A against=B

Trains a run again with the commit, the configuration, the threads and the
environment variables that it recorded, and compares the fingerprints of both
runs. With against= nothing is trained. Exit code 0: equal bit for bit; 1: not
equal.

  output=DIR       the new run directory; default: one below outputs/reproduced/
  data_root=DIR    the folder of the data; default: the one used in training
  threads=N        a different number of threads
  exit=bisect      for `git bisect run`: the code is that of the work tree, and
                   the exit code 125 if it can't be trained (docs/reproducing.md)
  trust=true       execute the code and the settings that run.json names, though
                   the run is not yours (docs/security.md)
"""

from collections.abc import Mapping
from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_choice, parse_flag, parse_number
from leyden.base.errors import Exit, UserError, ending, leave
from leyden.base.terminal import warn

REPRODUCE_OPTIONS = dict.fromkeys(("run", "against", "output", "data_root", "threads", "exit"), "")
REPRODUCE_OPTIONS |= {"trust": "false"}


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(__doc__, REPRODUCE_OPTIONS, max_folders=0)
        for_git = parse_choice(options, "exit", "", "bisect") == "bisect"
        try:
            equal = _is_equal(options, for_git)
        except Exception as error:  # whatever it is, git bisect must not take it for a change
            if not for_git:
                raise
            warn(str(error))
            leave(Exit.SKIPPED)
    leave(Exit.DONE if equal else Exit.DIFFERENT)


def _is_equal(options: Mapping[str, str], for_git: bool) -> bool:
    """Train the run again, or take the other one, and return whether both are equal."""
    from leyden.report.difference import show_equality
    from leyden.run.directory import Run
    from leyden.run.provenance import state_of_code
    from leyden.trained.reproduction import reproduce

    if not options["run"]:
        raise UserError("run=DIR: is missing; name a run directory, such as run=outputs/a")
    original = Run(options["run"], trust=parse_flag(options, "trust"))
    threads = parse_number(options, "threads")
    if options["against"]:
        for key, value in options.items():
            if key not in ("run", "against") and value not in ("", "false"):
                raise UserError(f"{key}: has no effect with against=, which trains nothing")
        return show_equality(original, Run(options["against"]))
    output = Path(options["output"]) if options["output"] else None
    code = state_of_code() if for_git else None
    return show_equality(original, reproduce(original, output, options["data_root"], threads, code))


if __name__ == "__main__":
    main()

"""Try what a command proposes, and keep what is better.

leyden propose [night=DIR] [proposals=60] [seeds=16] [runs=N] [minutes=N]
    [timeout_min=60] [OVERRIDE ...] -- COMMAND …

Asks the command again and again for a proposal: it prints overrides, or edits
the work tree that it is started in, a copy; nothing of both ends the night. On
stdin it gets the ledger. A proposal is trained with the seeds of the base, as
long as it may be kept, and kept by a verdict; in 95 % of nights no proposal is
kept that is no better. The same command continues a night that was killed
(docs/proposals.md).

  night=DIR        the night's folder; default: outputs/night
  proposals=60     the most proposals, which share the 5 % equally
  seeds=16         the seeds after which a proposal is decided
  runs=N           the most runs; default: any number
  minutes=N        the time after which no run begins; default: any
  timeout_min=60   a limit for each proposal, and for each run
"""

import math
import signal
import sys
from pathlib import Path

from leyden.base.arguments import parse_arguments, parse_number
from leyden.base.errors import UserError, ending, leave, require_project

PROPOSE_OPTIONS = {"night": "outputs/night", "proposals": "60", "seeds": "16"}
PROPOSE_OPTIONS |= {"runs": "", "minutes": "", "timeout_min": "60"}


def main() -> None:
    """Run the command."""
    with ending():
        words = sys.argv[1:]
        end = words.index("--") if "--" in words else len(words)
        own: list[str] = []
        overrides: list[str] = []
        for word in words[:end]:
            is_own = word.startswith("-") or word.partition("=")[0] in PROPOSE_OPTIONS
            (own if is_own else overrides).append(word)
        sys.argv[1:] = own
        _, options = parse_arguments(__doc__, PROPOSE_OPTIONS, max_folders=0)
        numbers = {key: parse_number(options, key) for key in PROPOSE_OPTIONS if key != "night"}
        command = words[end + 1 :]
        if not command:
            raise UserError("the command is missing: leyden propose -- python propose.py")
        if (numbers["seeds"] or 0) < 4:
            raise UserError(f"seeds={options['seeds']}: must be 4 or more")
        signal.signal(signal.SIGTERM, lambda number, _: leave(128 + number))
        from leyden.sweep.proposals import Night

        require_project()
        shared = {key: numbers[key] for key in ("proposals", "seeds")}
        asked = {"command": command, "overrides": overrides, **shared}
        folder = Path(options["night"]).absolute()
        limits = [numbers[key] or math.inf for key in ("runs", "minutes", "timeout_min")]
        Night(folder, asked, *limits).run()


if __name__ == "__main__":
    main()

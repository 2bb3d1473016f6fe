"""Make a run anew, or compare two: equal bit for bit, or from which step on they differ."""

from pathlib import Path

from leyden.config import arguments
from leyden.config.errors import UserError
from leyden.report.difference import show_equality
from leyden.reproduction.anew import ReproduceOptions, reproduce
from leyden.run.directory import Run

USAGE = """\
python -m leyden.reproduce run=DIR [output=DIR] [data_root=DIR] [threads=N] [env=true] [apply_diff=true] [trust=true]
python -m leyden.reproduce run=A against=B

Trains a run anew, by the commit, the configuration and the number of threads that it has written down, and compares
the fingerprints of both. With against= nothing is trained. Exit code 0: equal, bit for bit; 1: not.

  output=DIR       the new run directory; else one below outputs/reproduced/
  data_root=DIR    where the data are, if not in data/ of the project
  threads=N        another number of threads than the run had
  env=true         installs the versions that the run had, in an environment of its own
  apply_diff=true  you trust the changes of the code that are in no commit; they are executed
  trust=true       you trust all that config.yaml makes, where no role allows it (docs/security.md)"""
CONSENTS = ("apply_diff", "trust", "env")


def main() -> None:
    """The command."""
    with arguments.exit_on_user_error():
        places = dict.fromkeys(("run", "against", "output", "data_root", "threads"), "")
        _, options = arguments.parse_arguments(USAGE, {**places, **dict.fromkeys(CONSENTS, "false")}, most=0)
        if not options["run"]:
            raise UserError("run=DIR: is missing; name a run directory, as run=outputs/a")
        there = Run(options["run"])
        if options["against"]:
            used = [key for key, value in options.items() if value not in ("", "false")]
            if other := [key for key in used if key not in ("run", "against")]:
                raise UserError(f"{other[0]}: is for a run that is trained, which against= does not do")
            here = Run(options["against"])
        else:
            consents = {key: arguments.parse_choice(options, key, "true", "false") == "true" for key in CONSENTS}
            output = Path(options["output"]) if options["output"] else None
            here = reproduce(
                there,
                ReproduceOptions(output, options["data_root"], arguments.number(options, "threads"), **consents),
            )
        equal = show_equality(there, here)
    raise SystemExit(0 if equal else 1)


if __name__ == "__main__":
    main()

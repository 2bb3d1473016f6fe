"""List the runs below a folder, or tell what differs between two of them."""

import sys
from pathlib import Path

from leyden.cluster import slurm
from leyden.config.mistakes import UserError
from leyden.config.paths import ROOT
from leyden.config.terminal import printable
from leyden.report.difference import show_difference
from leyden.report.formats import show
from leyden.report.listing import lines

USAGE = """\
python -m leyden.runs [DIR] [where=CONDITION] [sort=KEY] [format=table|json|csv]
python -m leyden.runs diff=[A,B]

All runs in or below a folder, outputs/ if none is given: status, age, how far, objective, what was typed.

  where='val/acc > 0.97 and optimizer.lr < 0.01'   those alone; by metrics, keys of config.yaml, status, age (s), epochs
  sort=val/acc                                     by such a key; sort=-val/acc, the largest first
  diff=[outputs/a,outputs/b]                       what differs in configuration, code and result"""


def main() -> None:
    """The command."""
    if {"-h", "--help"} & {*sys.argv[1:]}:
        print(USAGE)
        return
    options = {"where": "", "sort": "age", "format": "table", "diff": ""}
    folders = []
    try:
        for argument in sys.argv[1:]:
            key, sign, value = argument.partition("=")
            if sign and key in options:
                options[key] = value
            elif sign and not Path(argument).exists():
                raise UserError(
                    f"{argument}: must be a folder, or one of {', '.join(f'{key}=' for key in options)}"
                )
            else:
                folders.append(argument)
        if len(folders) > 1:
            raise UserError(f"{folders[1]}: there can be one folder, and {', '.join(f'{key}=' for key in options)}")
        if options["diff"] and (len(sys.argv) > 2 or folders):
            raise UserError("diff: stands alone, without a folder or another option")
        if options["diff"]:
            show_difference(*options["diff"].strip("[]").split(","))
            return
        folder = Path(folders[0]) if folders else ROOT / "outputs"
        show(lines(folder, slurm.statuses, where=options["where"], sort=options["sort"]), options["format"])
    except (UserError, OSError) as error:
        raise SystemExit(f"leyden: {printable(str(error))}") from None


if __name__ == "__main__":
    main()

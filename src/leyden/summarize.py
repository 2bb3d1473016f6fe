"""Summarise the runs below a folder: a table and a picture."""

import argparse
from pathlib import Path

from leyden.cluster import slurm
from leyden.config.mistakes import UserError
from leyden.config.terminal import printable
from leyden.report.summary import summarize


def main() -> None:
    """The command: `python -m leyden.summarize DIR`."""
    parser = argparse.ArgumentParser(
        prog="python -m leyden.summarize", description="Many runs as one table and picture."
    )
    parser.add_argument("directory", type=Path, help="any folder with runs in or below it, as outputs/sweeps/NAME")
    try:
        summarize(parser.parse_args().directory, slurm.statuses)
    except (UserError, OSError) as error:
        raise SystemExit(f"leyden: {printable(str(error))}") from None


if __name__ == "__main__":
    main()

"""Summarise the runs below a folder: a table and a picture."""

from leyden.config import arguments
from leyden.config.errors import UserError, ending
from leyden.report.summary import summarize

USAGE = """\
leyden summarize DIR [failed=drop|worst] [over=seeds|datasets] [format=table|json]

Writes summary.csv, summary.md and summary.png: a table of all runs in or below a folder, best first, and a picture.
The folder can be a sweep, such as outputs/sweeps/NAME, or any other. failed=worst counts a failed run as the worst
value of all runs; by default failed runs are left out of the means. Verdicts are over seeds, on this dataset; over=datasets widens them
to other datasets of its kind. format=json prints the table as JSON."""


def main() -> None:
    """Run the command."""
    with ending(), arguments.without_garbage_collection():
        folders, options = arguments.parse_arguments(
            USAGE, {"failed": "drop", "over": "seeds", "format": "table"}, max_folders=1
        )
        form = arguments.parse_choice(options, "format", "table", "json")
        if not folders:
            raise UserError("a folder is missing: leyden summarize outputs/sweeps/NAME")
        failed = arguments.parse_choice(options, "failed", "drop", "worst")
        summarize(folders[0], form, failed, arguments.parse_choice(options, "over", "seeds", "datasets"))


if __name__ == "__main__":
    main()

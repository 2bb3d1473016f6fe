"""Summarise the runs below a folder: a table and a picture."""

from leyden.config import arguments
from leyden.config.errors import UserError
from leyden.report.summary import summarize

USAGE = """\
leyden summarize DIR [format=table|json]

Writes summary.csv, summary.md and summary.png: a table of all runs in or below a folder, best first, and a picture.
The folder can be a sweep, such as outputs/sweeps/NAME, or any other. format=json prints the table as JSON."""


def main() -> None:
    """Run the command."""
    with arguments.exit_on_user_error():
        folders, options = arguments.parse_arguments(USAGE, {"format": "table"}, max_folders=1)
        form = arguments.parse_choice(options, "format", "table", "json")
        if not folders:
            raise UserError("a folder is missing: leyden summarize outputs/sweeps/NAME")
        summarize(folders[0], form)


if __name__ == "__main__":
    main()

"""Summarise the runs below a folder: a table and a picture."""

from leyden.config import arguments
from leyden.config.errors import UserError
from leyden.report.summary import summarize

USAGE = """\
python -m leyden.summarize DIR [format=table|json]

Many runs as one table and picture, the best first: summary.csv, summary.md and summary.png in the folder, which is any
with runs in or below it, as outputs/sweeps/NAME. With format=json the table is printed for other programs."""


def main() -> None:
    """The command."""
    with arguments.exit_on_user_error():
        folders, options = arguments.parse_arguments(USAGE, {"format": "table"}, most=1)
        form = arguments.parse_choice(options, "format", "table", "json")
        if not folders:
            raise UserError("a folder is missing: python -m leyden.summarize outputs/sweeps/NAME")
        summarize(folders[0], form)


if __name__ == "__main__":
    main()

"""Summarise the runs below a folder, or a table: which settings may be the best."""

from leyden.config.errors import UserError, ending, parse_arguments, parse_choice, without_garbage_collection
from leyden.report.comparison import AIM, OF_TABLES, refuse_table_options, summarize_table, table_errors
from leyden.report.summary import summarize

USAGE = """\
leyden summarize DIR [format=table|json]
leyden summarize results.csv metric=acc mode=min|max [seed=seed] [ignore=time,id] [over=COLUMN]

Writes summary.csv and summary.png: a table of all runs in or below a folder, best first, and a picture.
The folder can be a sweep, such as outputs/sweeps/NAME, or any other. Of a table, only the verdict is printed.

Of a table, each row is a run; columns other than metric, seed and those of ignore= are its setting. over=COLUMN names
the one with the data set: then settings are ranked on each, and over all by their mean ranks."""


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection(), table_errors():
        of_tables = {**AIM, **OF_TABLES, "over": ""}
        folders, options = parse_arguments(USAGE, {"format": "table", **of_tables}, max_folders=1)
        form = parse_choice(options, "format", "table", "json")
        if not folders:
            raise UserError("a folder is missing: leyden summarize outputs/sweeps/NAME")
        if folders[0].is_file():
            summarize_table(folders[0], options)
        else:
            refuse_table_options(options, of_tables)
            summarize(folders[0], form)


if __name__ == "__main__":
    main()

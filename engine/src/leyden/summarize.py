"""Summarise the runs below a folder, or a table: which settings may be the best.

leyden summarize DIR [over=data] [format=table|json|markdown|latex] [pdf=FILE]
leyden summarize results.csv metric=acc mode=min|max [seed=seed]
    [ignore=time,id] [over=COLUMN] [format=...] [pdf=FILE]
leyden summarize DIR|results.csv front=val/acc:max,num_parameters:min
    [format=table|json]

Writes summary.csv: a table of all runs in or below a folder, best first. The
folder can be a sweep, such as outputs/sweeps/NAME, or any other. Of a table,
only the verdict is printed.

  metric=A:max,B:min a verdict on each of these columns of a table
  front=...          the settings that no other one beats in each of these
                     metrics, by their means (Pareto front)
  over=data          settings are ranked on each data set, and with this over
                     all of them, too, by their mean ranks; of a table,
                     over=COLUMN names the one with the data set
  format=latex       the table for a paper; format=markdown, json likewise
  pdf=FILE           the intervals of the differences from the best setting as a
                     picture; with over= the mean ranks of a table's settings

Of a table, each row is a run; columns other than metric, seed and those of
ignore= are its setting.
"""

from leyden.base.arguments import parse_arguments, parse_choice
from leyden.base.errors import UserError, ending, without_garbage_collection
from leyden.report.tables import (
    AIM,
    OF_TABLES,
    PRINT_FORMATS,
    PRINTED,
    is_table,
    options_by_metric,
    print_reports,
    refuse_options,
    show_front_of_table,
    summarize_table,
)


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection():
        defaults = {**PRINTED, "front": "", "over": "", **AIM, **OF_TABLES}
        folders, options = parse_arguments(__doc__, defaults, max_folders=1)
        form = parse_choice(options, "format", *PRINT_FORMATS)
        if not folders:
            raise UserError("a folder is missing: leyden summarize outputs/sweeps/NAME")
        place = folders[0]
        over = options["over"]
        if options["front"]:
            refuse_options(options, {**AIM, "over": "", "pdf": ""}, "has no effect on front=")
            parse_choice(options, "format", "table", "json")
        if is_table(place):
            if options["front"]:
                show_front_of_table(place, options)
            else:
                asked = options_by_metric(options, of_table=True)
                reports = [summarize_table(place, each) for each in asked]
                print_reports(reports, form, options["pdf"])
            return
        from leyden.report.comparison import show_front  # late, as runs need more
        from leyden.report.summary import summarize

        if options["front"]:
            show_front(place, options)
            return
        refuse_options(options, {**AIM, **OF_TABLES})
        if over not in ("", "data"):
            raise UserError(
                f"over={over}: must be data, for runs; a column is for a table in a file"
            )
        summarize(place, form, over, options["pdf"])


if __name__ == "__main__":
    main()

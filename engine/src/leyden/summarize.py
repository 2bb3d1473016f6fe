"""Summarise the runs below a folder, or a table: which settings may be the best."""

from leyden.config.errors import UserError, ending, parse_arguments, parse_choice, without_garbage_collection
from leyden.report.summary import summarize
from leyden.report.tables import NOT_OF_RUNS, OPTIONS, refuse_options, show_front, summarize_table, table_errors

USAGE = """\
leyden summarize DIR [over=seeds|data] [format=table|json]
leyden summarize results.csv metric=acc mode=min|max [seed=seed] [ignore=time,id] [over=COLUMN] [format=table|json]

Writes summary.csv and summary.png: a table of all runs in or below a folder, best first, and a picture.
The folder can be a sweep, such as outputs/sweeps/NAME, or any other. Of a table, only the verdict is printed.

  front=val/acc:max,num_parameters:min   the settings that no other one beats in both, by their means (Pareto front)
  over=data          also ranks the settings over several data sets, by their mean ranks; of a table, over=COLUMN

Of a table, each row is a run; columns other than metric, seed and those of ignore= are its setting."""


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection(), table_errors():
        defaults = {"over": "seeds", "format": "table", "front": "", **OPTIONS}
        folders, options = parse_arguments(USAGE, defaults, max_folders=1)
        form = parse_choice(options, "format", "table", "json")
        if not folders:
            raise UserError("a folder is missing: leyden summarize outputs/sweeps/NAME")
        if options["front"]:
            show_front(folders[0], options, form)
        elif folders[0].is_file():
            summarize_table(folders[0], options)
        else:
            refuse_options(options, OPTIONS, NOT_OF_RUNS)
            summarize(folders[0], form, parse_choice(options, "over", "seeds", "data"))


if __name__ == "__main__":
    main()

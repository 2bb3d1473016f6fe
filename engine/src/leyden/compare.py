"""Compare two groups of runs, or two settings of a table: which is better.

leyden compare A B [a=CONDITION] [b=CONDITION] [margin=X] [planned=true]
leyden compare DIR a=CONDITION b=CONDITION [format=table|json|markdown|latex]
leyden compare DIR control=CONDITION [format=...] [pdf=FILE]
leyden compare results.csv metric=acc:max a=model=mlp b=model=moe [seed=seed]
    [ignore=time,id] [over=data]
leyden compare results.csv metric=acc:max control=model=mlp [...]

Compares two groups of runs by their objective: the means, their difference with
its interval, and whether it is significant. A group is a run directory, a
sweep, any folder of runs, or those runs there that meet a condition. If a group
has several settings, its best one is compared. The interval is widened by the
number of settings in the folders, since the two may have been chosen by their
results; planned=true if they were named before.

  margin=0.002       the largest difference that does not matter: then "the same
                     within 0.002" is an answer, too
  metric=A:max,B:min a verdict on each of these, as val/acc:max, at the best
                     checkpoints, not on the objective
  a='optimizer=sgd and optimizer.lr > 0.01'
                     a condition, as in leyden runs where=...
  pairs=true         four shared seeds are compared in pairs, not only six; if
                     that was decided before the results were seen
  estimand=iqm       interquartile means, of the middle half of the runs, where
                     some collapse; of eight or more runs of each
  control=CONDITION  each other setting is compared with this one, in place of
                     a= and b=: as many comparisons as there are others
  pdf=FILE           the intervals of the differences as a picture

Of a table, each row is a run; columns other than metric, seed and those of
ignore= are its setting. over=COLUMN compares the two on each data set, and over
all of them; with control= on each of them.
"""

from functools import partial

from leyden.base.arguments import parse_arguments, parse_choice, parse_flag, parse_size
from leyden.base.errors import ending, without_garbage_collection
from leyden.report.tables import (
    AIM,
    ASKED,
    OF_TABLES,
    PRINT_FORMATS,
    PRINTED,
    compare_each,
    compare_table,
    is_table,
    print_reports,
)
from leyden.verdict.comparison import ESTIMANDS, Question


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection():
        defaults = {**ASKED, **PRINTED, **AIM, **OF_TABLES}
        folders, options = parse_arguments(__doc__, defaults, max_folders=2)
        form = parse_choice(options, "format", *PRINT_FORMATS)
        estimand = parse_choice(options, "estimand", *ESTIMANDS)
        planned = parse_flag(options, "planned")
        pairs = parse_flag(options, "pairs")
        margin = parse_size(options, "margin")
        asked = Question(margin=margin, planned=planned, pairs=pairs, estimand=estimand)
        of_table = len(folders) == 1 and is_table(folders[0])
        if of_table:
            compare_one = partial(compare_table, folders[0])
        else:
            from leyden.report.comparison import compare_folders  # late, as runs need more

            compare_one = partial(compare_folders, folders)
        found = compare_each(options, asked, compare_one, of_table=of_table)
        print_reports(found, form, options["pdf"])


if __name__ == "__main__":
    main()

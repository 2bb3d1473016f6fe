"""Plan a sweep: how many seeds show a difference, and how many hours they take.

leyden plan DIR difference=0.01 [settings=6] [runs=60] [looks=2] [write=FOLDER]
leyden plan results.csv metric=acc difference=0.01 [seed=seed] [ignore=time,id]
leyden plan deviation=0.004 settings=6 runs=60 [seconds=90]

By a pilot, runs or a table of them, or by a typed deviation, that of runs which
differ in their seeds alone. A difference is seen where summarize excludes the
setting that is worse by it than the best one, in four of five such sweeps.

  difference=0.01   the difference that is to be seen: prints how many seeds
  settings=6        number of settings; as many as the pilot has, if not given
  runs=60           at most so many runs; alone: prints what they show
  looks=2           looks are taken twice, after half of the seeds and after all
  seconds=90        seconds of a run, if the pilot has not recorded them
  write=FOLDER      writes plan.json there, before any run: summarize and compare
                    of this folder, or of tables in it, then spend the error
                    rate equally on the planned looks
  format=json       for programs; also markdown, latex
"""

from leyden.base.arguments import parse_arguments, parse_choice
from leyden.base.errors import ending, without_garbage_collection
from leyden.report.plans import PLANNED, make_plan
from leyden.report.tables import OF_TABLES, PRINT_FORMATS, print_reports


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection():
        defaults = {**PLANNED, "format": "table", "metric": "", **OF_TABLES}
        folders, options = parse_arguments(__doc__, defaults, max_folders=1)
        form = parse_choice(options, "format", *PRINT_FORMATS)
        place = folders[0] if folders else None
        print_reports([make_plan(place, options)], form)


if __name__ == "__main__":
    main()

"""Compare two groups of runs, or two settings of a table: which is better.

leyden compare A B [a=CONDITION] [b=CONDITION] [margin=X] [planned=true]
leyden compare DIR a=CONDITION b=CONDITION [format=table|json]
leyden compare results.csv metric=acc a=model=mlp b=model=moe [mode=min|max]
    [seed=seed] [ignore=time,id]

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

Of a table, each row is a run; columns other than metric, seed and those of
ignore= are its setting.
"""

from leyden.config.errors import (
    UserError,
    ending,
    parse_arguments,
    parse_choice,
    parse_flag,
    parse_size,
    without_garbage_collection,
)
from leyden.report.comparison import (
    AIM,
    OF_TABLES,
    compare_runs,
    compare_table,
    metrics_of,
    print_comparisons,
    refuse_options,
    table_errors,
)
from leyden.verdict.tables import Question


def main() -> None:
    """Run the command."""
    with ending(), without_garbage_collection(), table_errors():
        defaults = {"a": "", "b": "", "format": "table", "margin": "0", "planned": "false", **AIM, **OF_TABLES}
        folders, options = parse_arguments(__doc__, defaults, max_folders=2)
        form = parse_choice(options, "format", "table", "json")
        asked = Question(margin=parse_size(options, "margin"), planned=parse_flag(options, "planned"))
        metrics = metrics_of(options["metric"], options["mode"])
        if len(metrics) > 1 and asked.margin:
            raise UserError(f"margin={options['margin']}: is of one metric; metric= names {len(metrics)}")
        each = [options | {"metric": name, "mode": mode} for name, mode in metrics.items()]
        if len(folders) == 1 and folders[0].is_file():
            ignore = ",".join([options["ignore"], *metrics])
            found = [compare_table(folders[0], one | {"ignore": ignore}, asked) for one in each]
        else:
            refuse_options(options, OF_TABLES)
            if not folders or (len(folders) == 1 and not (options["a"] and options["b"])):
                raise UserError("two groups are needed: two folders, or one with a=CONDITION and b=CONDITION")
            both = [folders[0], folders[-1]]
            found = [compare_runs(both, one, asked) for one in each]
        print_comparisons(found, form)


if __name__ == "__main__":
    main()

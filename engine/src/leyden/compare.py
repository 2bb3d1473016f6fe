"""Compare two groups of runs: which is better, and how certain that is."""

from leyden.config import arguments
from leyden.config.errors import UserError, ending
from leyden.report.comparison import compare, print_comparison

USAGE = """\
leyden compare A B [a=CONDITION] [b=CONDITION] [failed=drop|worst] [over=seeds|datasets] [format=table|json]
leyden compare DIR a=CONDITION b=CONDITION [failed=drop|worst] [over=seeds|datasets] [format=table|json]

Compares two groups of runs by their objective: the means, their difference with its 95 % confidence interval, and
whether the difference is significant. A group is a run directory, a sweep, any folder of runs, or those runs there
that meet a condition. If a group has several settings, its best setting is compared. Runs with the same seed (and
fold) are compared in pairs. failed=worst counts a failed run as the worst value of all runs. The
verdict is over seeds, on this dataset; over=datasets widens it to other datasets of its kind.

  a='optimizer=adam' b='optimizer=sgd and optimizer.lr > 0.01'   conditions as in leyden runs where=..."""


def main() -> None:
    """Run the command."""
    with ending(), arguments.without_garbage_collection():
        folders, options = arguments.parse_arguments(
            USAGE, {"a": "", "b": "", "failed": "drop", "over": "seeds", "format": "table"}, max_folders=2
        )
        form = arguments.parse_choice(options, "format", "table", "json")
        if not folders or (len(folders) == 1 and not (options["a"] and options["b"])):
            raise UserError("two groups are needed: two folders, or one with a=CONDITION and b=CONDITION")
        failed = arguments.parse_choice(options, "failed", "drop", "worst")
        over = arguments.parse_choice(options, "over", "seeds", "datasets")
        print_comparison(compare([folders[0], folders[-1]], [options["a"], options["b"]], failed, over), form)


if __name__ == "__main__":
    main()

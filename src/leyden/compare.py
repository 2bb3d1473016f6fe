"""Compare two runs, sweeps or settings: which is better, and how sure that is."""

from leyden.config import arguments
from leyden.config.errors import UserError
from leyden.report.comparison import compare, print_comparison

USAGE = """\
python -m leyden.compare A B [a=CONDITION] [b=CONDITION] [format=table|json]
python -m leyden.compare DIR a=CONDITION b=CONDITION [format=table|json]

Two groups of runs by their objective: means, the difference with its 95 % interval, and whether it tells them apart. A
group is a run directory, a sweep or any folder of runs, or what fulfils a condition there. Of a group with several
settings the best one is taken; runs of the same seed (and fold) make pairs.

  a='optimizer=adam' b='optimizer=sgd and optimizer.lr > 0.01'   as python -m leyden.runs where=... takes them"""


def main() -> None:
    """The command."""
    with arguments.exit_on_user_error():
        folders, options = arguments.parse_arguments(USAGE, {"a": "", "b": "", "format": "table"}, most=2)
        form = arguments.parse_choice(options, "format", "table", "json")
        if not folders or (len(folders) == 1 and not (options["a"] and options["b"])):
            raise UserError("two groups are needed: two folders, or one with a=CONDITION and b=CONDITION")
        print_comparison(compare([folders[0], folders[-1]], [options["a"], options["b"]]), form)


if __name__ == "__main__":
    main()

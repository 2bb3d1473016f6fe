"""Find the commit that changed a run's numbers.

leyden bisect run=DIR [good=COMMIT] [bad=HEAD] [seeds=8] [trust=true]

Trains the run's settings with the code of commits, in the environment that
their lock file pins (hashes/train.txt, requirements.txt or constraints.txt),
and prints the first commit with other bits. If the metric is another
one, too, by a verdict on several seeds, prints the commit that changed it; all
its verdicts together err in 5 % of searches at most. The same command resumes
(docs/changed.md).

  good=COMMIT   a commit with the right numbers; default: the run's own
  bad=HEAD      a later commit
  seeds=8       the most seeds that a commit is trained with
  trust=true    as for `leyden reproduce`
"""

from leyden.base.arguments import parse_arguments, parse_flag, parse_number
from leyden.base.errors import UserError, ending

BISECT_OPTIONS = {"run": "", "good": "", "bad": "HEAD", "seeds": "8", "trust": "false"}


def main() -> None:
    """Run the command."""
    with ending():
        _, options = parse_arguments(__doc__, BISECT_OPTIONS, max_folders=0)
        from leyden.run.directory import Run
        from leyden.trained.bisection import Bisection

        if not options["run"]:
            raise UserError("run=DIR: is missing; name a run directory, such as run=outputs/a")
        run = Run(options["run"], trust=parse_flag(options, "trust"))
        seeds = parse_number(options, "seeds") or 0
        Bisection(run, options["good"], options["bad"], seeds).find()


if __name__ == "__main__":
    main()

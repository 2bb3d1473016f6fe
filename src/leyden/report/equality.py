"""Whether a run was made again: equal, bit for bit, or from which step on it is another one."""

import math
from collections.abc import Collection

from leyden.config.mistakes import UserError
from leyden.config.terminal import Terminal
from leyden.report.difference import differences
from leyden.run.directory import Run
from leyden.run.fingerprints import first_difference, read_fingerprints
from leyden.run.trained_on import changed, trained_on


def show_equality(there: Run, here: Run) -> bool:
    """Print it, what differs between the two, and how far their metrics are apart.

    Args:
        there: The run that was first.
        here: The one that is to be the same.

    Returns:
        Whether all fingerprints that both have are equal, the second run has come as far as the first one, and their metrics are the
        same.

    Raises:
        UserError: One is no run, or there are no fingerprints to compare.
    """
    table = differences(there, here, parts=("configuration", "data", "code", "machine"))
    a, b = (read_fingerprints(run.directory) for run in (there, here))
    both = sorted({*a} & {*b})
    if not both:
        raise UserError(
            f"no fingerprints in common: {there.directory} has {len(a)}, {here.directory} has {len(b)}, none of the same step"
        )
    say = Terminal().print
    if parted := first_difference(a, b):
        step, parts = parted
        before = [each for each in both if each < step]
        since = f"equal until step {before[-1]}" if before else "there is none before"
        say(f"parted: step {step} is the first fingerprint that differs, in {', '.join(parts)}; {since}")
    elif {*a} == {*b}:
        say(f"equal, bit for bit, over all {_count(both)}, up to step {both[-1]}")
    else:
        say(f"equal, bit for bit, over the {_count(both)} that both have, up to step {both[-1]}")
    for run, only in ((there, {*a} - {*b}), (here, {*b} - {*a})):
        if only:
            say(f"only in {run.directory}: {_count(only)}, from step {min(only)} to {max(only)}")
    if names := changed(trained_on(there), trained_on(here)):
        say(f"the data differ: {', '.join(names)}")
    apart, is_as_long = _metrics_apart(there, here), max(b) >= max(a)
    if not is_as_long:
        say(f"{here.directory} ends before the other run, at step {max(b)}")
    same_end = max(a) == max(b)  # the metrics are those of the end
    if apart and same_end and not parted:
        say(
            "the metrics are not equal, though the fingerprints are: they were computed by other data, or in another way"
        )
    for name, (x, y) in apart.items():
        say(f"{name}: {x:.6g} there, {y:.6g} here, {abs(x - y):.3g} apart")
    if table.row_count:
        say(table)
    return not parted and is_as_long and not (apart and same_end)


def _count(steps: Collection[int]) -> str:
    return f"{len(steps)} fingerprint{'s' * (len(steps) != 1)}"


def _metrics_apart(there: Run, here: Run) -> dict[str, tuple[float, float]]:
    """The metrics of both that are not the same, but for those of time."""
    a, b = (run.result.metrics if run.result else {} for run in (there, here))
    pairs = {name: (a[name], b[name]) for name in a if name in b and not name.startswith("time/")}
    return {name: (x, y) for name, (x, y) in pairs.items() if x != y and not (math.isnan(x) and math.isnan(y))}

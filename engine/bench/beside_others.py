"""What other programs say of the same ten tables, and how often each is wrong and right in simulations.

pip install scipy statsmodels scikit-posthocs autorank rliable baycomp    # and R, for t.test and TukeyHSD
python engine/bench/beside_others.py [REPETITIONS [BEGINNING OF A CASE'S NAME [OF A PROGRAM'S]]]

Each table has settings of which one is better, or none. "Wrong" is a setting that is called worse than another one
though it is not, of equal ones; "one of them" the same of a certain setting, as the truly best one would be. "Right"
is the truly worse one that is called worse than the best. Prints rows of Markdown.
"""

import contextlib
import functools
import io
import itertools
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from leyden.verdict.difference import FIRST, decide_among, decide_two
from leyden.verdict.groups import Group, samples_of_all
from leyden.verdict.ranking import rank_over_sets, rank_settings

LEVEL = 0.05
NUM_SLOW = 300  # repetitions of programs that take long
MANY = 50  # settings, all of whose pairs take long
NUM_OF_MANY = 500
Values = list[list[float]]  # by setting
Found = set[tuple[int, int]]  # pairs of settings: the first is better than the second
Test = Callable[[Values], Found]


def pairs(p_values: dict[tuple[int, int], float], means: Sequence[float]) -> Found:
    """Return the pairs that are significantly different, the better setting first."""
    found = set()
    for (a, b), p_value in p_values.items():
        if p_value < LEVEL:
            found.add((a, b) if means[a] > means[b] else (b, a))
    return found


def groups_of(values: Values) -> list[Group]:
    """Return settings whose seeds are shared, with their places as names."""
    groups = []
    for place, column in enumerate(values):
        groups.append(Group(dict(enumerate(column)), choices={"place": place}))
    return groups


def leyden_rank(values: Values) -> Found:
    """Return by which setting others are excluded, by `verdict.rank`."""
    groups = sorted(groups_of(values), key=lambda group: -group.mean)
    found = rank_settings(groups, "max")
    places = [group.choices["place"] for group in groups]
    worse = [place for place, like in zip(places, found.like_best, strict=False) if like is False]
    return {(places[0], place) for place in worse}


def leyden_pairs(values: Values) -> Found:
    """Return which of all pairs `verdict.compare` tells apart, each asked as one that was not planned."""
    groups = groups_of(values)
    samples = samples_of_all(groups)
    every = [*itertools.combinations(range(len(groups)), 2)]
    asked = FIRST.asked("max", len(every))
    found = set()
    for a, b in every:
        better = decide_among(groups, samples, a, b, asked).better
        if better:
            found.add((a, b) if better == "a" else (b, a))
    return found


def leyden_two(values: Values) -> Found:
    """Return which of two planned settings is better, by `verdict.compare`."""
    found = decide_two(*groups_of(values), FIRST.asked("max"), 4)
    return {"a": {(0, 1)}, "b": {(1, 0)}, "": set()}[found.better]


def welch(values: Values) -> Found:
    """Return R's `t.test` of two, which is SciPy's Welch test."""
    from scipy import stats

    p_value = stats.ttest_ind(*values, equal_var=False).pvalue
    return pairs({(0, 1): p_value}, np.mean(values, axis=1))


def welch_holm(values: Values) -> Found:
    """Return Welch's tests of all pairs with Holm's correction."""
    from scipy import stats
    from statsmodels.stats.multitest import multipletests

    table = np.array(values)
    first, second = np.triu_indices(len(values), 1)
    keys = [*zip(first.tolist(), second.tolist(), strict=True)]
    p_values = stats.ttest_ind(table[first], table[second], axis=1, equal_var=False).pvalue
    corrected = multipletests(p_values, method="holm")[1]
    return pairs(dict(zip(keys, corrected, strict=False)), np.mean(values, axis=1))


def tukey(values: Values) -> Found:
    """Return Tukey's honestly significant differences: where SciPy's p-values are below 5 %."""
    table = np.array(values)
    num_rows, num = table.shape
    error = np.sqrt(table.var(axis=1, ddof=1).mean() / num)
    least = error * tukey_quantile(num_rows, num_rows * (num - 1))
    means = table.mean(axis=1)
    return {
        (a, b) for a, b in itertools.permutations(range(num_rows), 2) if means[a] - means[b] > least
    }


@functools.cache
def tukey_quantile(num_rows: int, freedom: int) -> float:
    """Return the 95 % quantile of the studentized range."""
    from scipy import stats

    return float(stats.studentized_range.isf(LEVEL, num_rows, freedom))


def nemenyi(values: Values) -> Found:
    """Return Nemenyi's test after Friedman's, by scikit-posthocs, of data sets as blocks."""
    import scikit_posthocs

    p_values = scikit_posthocs.posthoc_nemenyi_friedman(np.array(values).T).to_numpy()
    keys = itertools.combinations(range(len(values)), 2)
    return pairs({(a, b): p_values[a, b] for a, b in keys}, np.mean(values, axis=1))


def leyden_sets(values: Values) -> Found:
    """Return which settings are excluded over data sets, by `rank(over=…)`."""
    sets = {}
    for number, column in enumerate(zip(*values, strict=False)):
        sets[number] = {str(place): value for place, value in enumerate(column)}
    found = rank_over_sets(sets, "max")
    best, *_ = found.mean_ranks
    worse = [name for name in found.mean_ranks if name not in found.like_best]
    return {(int(str(best)), int(str(name))) for name in worse}


def autorank(values: Values) -> Found:
    """Return what autorank calls different, of data sets as rows."""
    import autorank as package
    import pandas

    frame = pandas.DataFrame({str(place): column for place, column in enumerate(values)})
    found = package.autorank(frame, alpha=LEVEL, verbose=False)
    if found.pvalue >= LEVEL:
        return set()
    means = np.mean(values, axis=1)
    different = {}
    for a, b in itertools.combinations(range(len(values)), 2):
        is_different = True
        if found.posthoc == "nemenyi":
            ranks = found.rankdf["meanrank"]
            is_different = abs(ranks[str(a)] - ranks[str(b)]) > found.cd
        elif len(values) > 2:
            low_a, high_a, low_b, high_b = (
                found.rankdf[side][str(place)]
                for place in (a, b)
                for side in ("ci_lower", "ci_upper")
            )
            is_different = low_a > high_b or low_b > high_a
        different[a, b] = 0.0 if is_different else 1.0
    return pairs(different, means)


def baycomp(values: Values) -> Found:
    """Return whether baycomp's correlated t-test gives one of two a probability above 95 %."""
    import baycomp as package

    a, b = (np.array(column) for column in values)
    left, right = package.two_on_single(a, b, runs=1)  # as folds of one cross-validation
    if max(left, right) <= 1 - LEVEL:
        return set()
    return {(0, 1)} if left > right else {(1, 0)}


def rliable(values: Values) -> Found:
    """Return whether rliable's bootstrap interval of the difference of two means is without 0."""
    from rliable import library

    a, b = (np.array(column)[:, None] for column in values)
    with contextlib.redirect_stdout(io.StringIO()):
        _, found = library.get_interval_estimates(
            {"x": (a, b)}, lambda x, y: np.array([x.mean() - y.mean()]), reps=1000
        )
    low, high = found["x"][:, 0]
    if low <= 0 <= high:
        return set()
    return {(0, 1)} if low > 0 else {(1, 0)}


class Case(NamedTuple):
    """Settings of which the first is best and the last is worst.

    Args:
        name: The case in words.
        tests: The tests, by their names.
        worse: By how much the last one is worse.
        deviations: Standard deviation of each setting.
        num: Number of values of each.
        shared: Part of the variance that a seed brings to all.
    """

    name: str
    tests: dict[str, Test]
    worse: float
    deviations: list[float]
    num: int
    shared: float = 0.0

    def draw(self, seed: int, *, equal: bool = False) -> Values:
        """Draw a table, with equal means or with the last one worse."""
        source = random.Random(seed)
        common = [source.gauss(0, self.shared**0.5) for _ in range(self.num)]
        values = []
        for deviation in self.deviations:
            scale = deviation * (1 - self.shared) ** 0.5
            values.append([scale * source.gauss(0, 1) + each for each in common])
        if not equal:
            values[-1] = [value - self.worse for value in values[-1]]
        return values

    def is_seen(self, test: Test, seed: int) -> bool:
        """Return whether the worst one is called worse than another one."""
        return any(pair[1] == len(self.deviations) - 1 for pair in test(self.draw(seed)))


TWO: dict[str, Test] = {
    "leyden, planned": leyden_two,
    "R's t.test, SciPy": welch,
    "baycomp": baycomp,
    "rliable": rliable,
}
MORE: dict[str, Test] = {
    "leyden summarize": leyden_rank,
    "leyden compare": leyden_pairs,
    "Welch with Holm": welch_holm,
    "TukeyHSD (R, SciPy)": tukey,
}
SETS: dict[str, Test] = {
    "leyden, over=": leyden_sets,
    "Nemenyi (scikit-posthocs)": nemenyi,
    "autorank": autorank,
}
ONES = [1.0] * 6
THIRD = [1.0, 5.0, 1.0, 1.0, 5.0, 1.0]
CASES = [
    Case("two, 3 seeds", TWO, 4.0, ONES[:2], 3),
    Case("two, 5 seeds", TWO, 2.5, ONES[:2], 5),
    Case("two, 10 seeds", TWO, 1.5, ONES[:2], 10),
    Case("two, 5 seeds, one 5 times as wide", TWO, 8.0, [1.0, 5.0], 5),
    Case("two, 5 seeds, shared 0.9", TWO, 1.0, ONES[:2], 5, 0.9),
    Case("six, 3 seeds", MORE, 4.0, ONES, 3),
    Case("six, 5 seeds", MORE, 3.0, ONES, 5),
    Case("six, 5 seeds, two 5 times as wide", MORE, 3.0, THIRD, 5),
    Case("six, 5 seeds, shared 0.9", MORE, 1.0, ONES, 5, 0.9),
    *(Case(f"{num}, 5 seeds", MORE, 3.0, [1.0] * num, 5) for num in (10, 20, 50)),
    *(
        Case(f"{3 * num}, 5 seeds, a third 5 times as wide", MORE, 3.0, [1.0, 5.0, 1.0] * num, 5)
        for num in (2, 7, 17)
    ),
    Case("five on 12 data sets", SETS, 2.0, ONES[:5], 12),
    *(Case(f"{num} on 30 data sets", SETS, 1.0, [1.0] * num, 30) for num in (2, 5, 10)),
]


def r_agrees() -> str:
    """Compare SciPy's numbers with R's on one table, as far as R is installed."""
    values = Case("four", MORE, 1.0, ONES[:4], 5).draw(0)
    columns = "; ".join(f"v{n} <- c({','.join(map(repr, each))})" for n, each in enumerate(values))
    code = f"{columns}; cat(t.test(v0, v1)$p.value, ''); "
    code += "d <- data.frame(y=c(v0,v1,v2,v3), g=factor(rep(0:3, each=5))); "
    code += "cat(TukeyHSD(aov(y ~ g, d))$g[,'p adj'])"
    try:
        answer = subprocess.check_output(["Rscript", "-e", code], text=True).split()
    except FileNotFoundError:
        return "R is not installed"
    from scipy import stats

    ours = [stats.ttest_ind(values[0], values[1], equal_var=False).pvalue]
    table = stats.tukey_hsd(*values).pvalue
    ours += [table[a, b] for a, b in itertools.combinations(range(4), 2)]
    largest = max(abs(float(one) - other) for one, other in zip(answer, ours, strict=False))
    return f"R's t.test and TukeyHSD and SciPy's differ by at most {largest:.1g} in p"


def main() -> None:
    """Print the table."""
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    print(r_agrees())
    begin = sys.argv[2] if len(sys.argv) > 2 else ""
    begin_of_program = sys.argv[3] if len(sys.argv) > 3 else ""
    head = "| table | test | the first table | wrong, % | one of them, % | right, % | n |"
    print(f"{head}\n|---|---|---|---|---|---|---|")
    for case in CASES:
        if not case.name.startswith(begin):
            continue
        for name, test in case.tests.items():
            if not name.startswith(begin_of_program):
                continue
            num = repetitions
            if test in (autorank, rliable):
                num = min(num, NUM_SLOW)
            if test is leyden_pairs and len(case.deviations) >= MANY:
                num = min(num, NUM_OF_MANY)
            wrong = 0
            of_first = 0
            for seed in range(num):
                found = test(case.draw(seed, equal=True))
                wrong += bool(found)
                of_first += any(worse == 0 for _, worse in found)
            right = sum(case.is_seen(test, seed) for seed in range(num))
            called = "better" if case.is_seen(test, 0) else "the same"
            rates = (
                f"{100 * wrong / num:.1f} | {100 * of_first / num:.1f} | {100 * right / num:.0f}"
            )
            print(f"| {case.name} | {name} | {called} | {rates} | {num} |", flush=True)


if __name__ == "__main__":
    main()

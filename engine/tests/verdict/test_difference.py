"""Which of two groups is better: intervals as SciPy has them, and no difference seen where there is none."""

import math
import statistics

import pytest

from leyden.verdict import quantiles
from leyden.verdict.difference import LEVEL, Asked, Verdict, decide_two, look_level
from leyden.verdict.groups import Group, not_normal, samples_of_two
from leyden.verdict.quantiles import t_quantile
from leyden.verdict.ranking import rank_over_sets, signed_rank_p_value


def paired(*columns):
    """Groups whose values have the same keys."""
    found = []
    for values in columns:
        found.append(Group({(str(n),): value for n, value in enumerate(values)}))
    return found


def apart(*columns):
    """Groups that share no key."""
    found = []
    for k, values in enumerate(columns):
        found.append(Group({(f"{k} {n}",): value for n, value in enumerate(values)}))
    return found


def verdict(a, b, mode, level=LEVEL, next_level=None, margin=0.0):
    """The comparison of two groups that stand alone."""
    if min(len(a.values), len(b.values)) < 3:
        return Verdict((len(a.values), len(b.values)))
    return decide_two(a, b, Asked(mode, level, next_level or level, margin))


def draw(source, num, mean=0.0, deviation=1.0):
    return [source.gauss(mean, deviation) for _ in range(num)]


@pytest.mark.scipy
def test_intervals_quantiles_and_ranks_are_those_of_scipy(drawn):
    from scipy import stats

    for _ in range(100):
        level = 10 ** drawn.uniform(-6, -0.3)
        num = drawn.randint(
            6, 40
        )  # with more than twice as many, fewer degrees of freedom are taken than Welch's
        nums = num, drawn.randint(max(6, num // 2 + 1), 2 * num)
        a, b = (draw(drawn, each, drawn.random(), 10 ** drawn.uniform(-2, 2)) for each in nums)
        same = min(nums)
        by_scipy = {
            apart: stats.ttest_ind(a, b, equal_var=False),
            paired: stats.ttest_rel(a[:same], b[:same]),
        }
        for kind, wanted in by_scipy.items():
            found = verdict(
                *(kind(a, b) if kind is apart else kind(a[:same], b[:same])), "max", level
            )
            assert found.interval == pytest.approx(
                tuple(wanted.confidence_interval(1 - level)), rel=1e-8
            )
            assert bool(found.better) == (wanted.pvalue < level)
        freedom = 10 ** drawn.uniform(0.3, 5)
        assert t_quantile(level / 2, freedom) == pytest.approx(
            stats.t.isf(level / 2, freedom), rel=1e-8
        )
        assert quantiles.chi_squared_quantile(0.6, freedom) == pytest.approx(
            stats.chi2.ppf(0.6, freedom), rel=0.01
        )
    for num in (2, 3, 20):
        wanted = stats.studentized_range.isf(0.05, num, 1e6)
        assert quantiles.range_quantile(0.05, num) == pytest.approx(wanted, rel=1e-5)
    a, b = draw(drawn, 12), draw(drawn, 9, 0.2)
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.9)
    least = max(abs(low), abs(high))  # two one-sided tests at 5 % are an interval of 90 %
    assert verdict(*apart(a, b), "max", margin=1.001 * least).is_same
    assert not verdict(*apart(a, b), "max", margin=0.999 * least).is_same
    differences = [round(each, 1) for each in draw(drawn, 12)]
    wanted = stats.wilcoxon(differences, method=stats.PermutationMethod(10**6))
    assert signed_rank_p_value(differences) == pytest.approx(wanted.pvalue)
    sets = {n: dict(zip("abcd", draw(drawn, 4), strict=True)) for n in range(8)}
    found = rank_over_sets(sets, "max")
    table = []
    for values in sets.values():
        table.append([-value for value in values.values()])
    ranks = stats.rankdata(table, axis=1)
    means = dict(zip("abcd", ranks.mean(axis=0), strict=True))
    assert found.mean_ranks == pytest.approx(means)
    assert found.critical == pytest.approx(
        quantiles.range_quantile(look_level(1), 4) / 2**0.5 * (20 / 48) ** 0.5
    )


@pytest.mark.parametrize("tail", [1e-8, 1e-4, 0.01, 0.05, 0.2, 0.45])
def test_quantiles_are_the_closed_forms_of_one_two_and_many_degrees_of_freedom(tail):
    of_two = (1 - 2 * tail) / math.sqrt(2 * tail * (1 - tail))
    wanted = {1: 1 / math.tan(math.pi * tail), 2: of_two, 1e7: -quantiles.NORMAL.inv_cdf(tail)}
    for freedom, value in wanted.items():
        assert t_quantile(tail, freedom) == pytest.approx(value, rel=1e-5)
    four = t_quantile(tail, 4)
    part = math.sqrt(1 / (1 + four**2 / 4))
    below = 0.5 + math.sqrt(1 - part**2) * (1 + part**2 / 2) / 2
    assert 1 - below == pytest.approx(tail, rel=1e-6)


def test_pairs_see_what_groups_do_not():
    seeds = [0.1, 0.5, 0.9, 0.3, 0.7, 0.2]
    better = [value + 0.05 + 0.001 * n for n, value in enumerate(seeds)]
    for mode, name in (("max", "a"), ("min", "b")):
        assert verdict(*paired(better, seeds), mode).better == name
        assert not verdict(*apart(better, seeds), mode).better
    # Of fewer than six pairs the deviation is known too badly, so that groups are compared.
    assert verdict(*paired(better[:5], seeds[:5]), "max").num_pairs == 0
    # Where all pairs differ by the same, as accuracies of few samples can, the groups decide.
    found = verdict(*paired([value + 0.01 for value in seeds], seeds), "max")
    assert (found.num_pairs, found.better) == (0, "")
    assert verdict(*paired([0.9, 0.94, 0.93], [1.9, 1.94, 1.93]), "min").better == "a"


def test_few_pairs_among_many_values_are_no_pairs_and_few_values_have_few_degrees_of_freedom(drawn):
    more = {(n,): 0.0 for n in range(3)}
    a, b = (
        Group(each.values | more) for each in apart(draw(drawn, 30, 1.0), draw(drawn, 30, -1.0))
    )
    found = verdict(a, b, "max")
    assert (found.num_pairs, found.better) == (0, "a")
    few, many = draw(drawn, 3), draw(drawn, 30)
    low, high = verdict(*apart(few, many), "max").interval
    error = math.sqrt(sum(statistics.variance(column) / len(column) for column in (few, many)))
    assert (high - low) / 2 == pytest.approx(t_quantile(0.025, 2) * error)


FEW = "n too small to tell; at least 3 of each are needed"
EQUAL = "can't be decided: the values don't vary"
A, B = [0.9, 0.901, 0.902, 0.9, 0.901, 0.9], [0.901, 0.9, 0.901, 0.902, 0.9, 0.901]
HIGHER = [value + 0.005 for value in A]
WORDS = [
    ([1.0, 2.0], [5.0, 6.0, 7.0], "max", 0, FEW),
    ([], [], "max", 0, FEW),
    ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "max", 0, EQUAL),
    ([0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3 + 1e-16], "max", 0, EQUAL),
    (A, B, "max", 0, "can't be told apart"),
    (A, B, "max", 0.01, "the same within 0.01"),
    (A, B, "max", 0.0005, "can't be told apart, nor called the same within 0.0005"),
    (HIGHER, B, "max", 0.01, "A is better, by less than 0.01"),
    (HIGHER, B, "", 0.001, "A is higher"),
]


def test_a_verdict_in_words():
    for a, b, mode, margin, words in WORDS:
        for kind in (paired, apart):
            found = verdict(*kind(a, b), mode, margin=margin)
            assert found.in_words("A", "B") == words
            assert ((found.interval is None), bool(found.better)) == (
                words in (FEW, EQUAL),
                " is " in words,
            ), words


def test_more_seeds_detect_smaller_differences_and_later_looks_larger_ones():
    columns = [0.0, 1.0, 2.2, 0.4], [0.3, -0.2, 1.0, 0.9]
    found = verdict(*apart(*columns), "max")
    assert found.detectable(30) < found.detectable(10) < found.detectable()
    later = verdict(*apart(*columns), "max", next_level=look_level(2))
    assert later.detectable(10) > found.detectable(10)  # the next look spends less
    now, more = found.power_in_words()
    assert now == f"A difference of {found.detectable():.2g} shows in four of five cases."
    assert more == f"Add 6 more runs to each, and {found.detectable(10):.2g} is enough for that."


def test_folds_tell_less_than_as_many_independent_runs():
    values = {(str(n),): 0.1 * n for n in range(6)}
    lower = {key: -0.3 * value for key, value in values.items()}
    unpaired = {("other", *key): value for key, value in lower.items()}
    for others, overlap in ((lower, 1 / 5), (unpaired, 5 / 24)):
        found = (
            verdict(Group(values, each), Group(others, each), "max").interval
            for each in (0.0, overlap)
        )
        plain, folds = (high - low for low, high in found)
        assert folds == pytest.approx(plain * ((1 / 6 + overlap) / (1 / 6)) ** 0.5)


ALIKE, PAIRS = [0.97, 0.975, 0.97], [0.9, 0.91, 0.92, 0.915, 0.1, 0.5]
LOWER, FAR = [0.88, 0.892, 0.895, 0.896, 0.08, 0.481], [0.88, 0.892, 0.2, 0.896, 0.08, 0.481]
SHAPES = [
    (
        apart,
        [[0.98, 0.981, 0.979, 0.982, 0.1], [*ALIKE, 0.98, 0.96]],
        "0.1 is far from the 4 other",
    ),
    (
        apart,
        [[0.98, 0.981, 0.979, 0.982], [0.5, 0.7, 0.6, 0.55]],
        "standard deviations of 0.0013 and 0.085",
    ),
    (apart, [[0.98, 0.981, 0.1], ALIKE], "standard deviations of 0.0029 and 0.51"),
    (apart, [[0.98, 0.981, 0.95], ALIKE], ""),  # three values have little shape
    (apart, [[0.98, 0.985, 0.97, 0.982], [0.97, 0.96, 0.975, 0.97]], ""),
    (apart, [[1.0, 1.0, 1.0, 1.0, 0.2], [1.0] * 5], "0.2 is far from the 4 others (1 to 1)"),
    (paired, [PAIRS, LOWER], ""),  # pairs cancel what is conspicuous in each
    (paired, [PAIRS, FAR], "0.72 is far from the 5 others (0.018 to 0.02)"),
]


def test_values_that_are_not_normal_are_named():
    for kind, columns, said in SHAPES:
        found = not_normal(samples_of_two(*kind(*columns)))
        assert (found.startswith(said), bool(found)) == (True, bool(said)), (columns, found)

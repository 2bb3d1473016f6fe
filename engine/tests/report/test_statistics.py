"""Which of two groups is better: intervals as SciPy has them, and no difference seen where there is none."""

import itertools
import math
import random
import statistics

import pytest

from leyden.report.statistics import (
    MAX_FURTHER,
    Group,
    Improvement,
    improvement,
    look_level,
    not_normal,
    sign_test,
    t_quantile,
    verdict,
)


def paired(*columns):
    """Groups whose values have the same keys."""
    return [Group({(str(n),): value for n, value in enumerate(values)}) for values in columns]


def apart(*columns):
    """Groups that share no key."""
    return [
        Group({(f"{name} {n}",): value for n, value in enumerate(values)}) for name, values in enumerate(columns)
    ]


def draw(source, num, mean=0.0, deviation=1.0):
    return [source.gauss(mean, deviation) for _ in range(num)]


@pytest.mark.scipy
def test_intervals_are_those_of_scipy(drawn):
    from scipy import stats

    for _ in range(100):
        level = 10 ** drawn.uniform(-6, -0.3)
        num = drawn.randint(3, 40)  # with more than twice as many, fewer degrees of freedom are taken than Welch's
        nums = num, drawn.randint(max(3, num // 2 + 1), 2 * num)
        a, b = (draw(drawn, each, drawn.random(), 10 ** drawn.uniform(-2, 2)) for each in nums)
        found = verdict(*apart(a, b), "max", level)
        wanted = stats.ttest_ind(a, b, equal_var=False)
        assert found.interval == pytest.approx(tuple(wanted.confidence_interval(1 - level)), rel=1e-8)
        assert bool(found.better) == (wanted.pvalue < level)
        same = min(len(a), len(b))
        found = verdict(*paired(a[:same], b[:same]), "max", level)
        wanted = stats.ttest_rel(a[:same], b[:same])
        assert found.interval == pytest.approx(tuple(wanted.confidence_interval(1 - level)), rel=1e-8)
        assert found.num_pairs == same
        freedom = 10 ** drawn.uniform(0.3, 5)
        assert t_quantile(level / 2, freedom) == pytest.approx(stats.t.isf(level / 2, freedom), rel=1e-8)


@pytest.mark.matrix
@pytest.mark.parametrize("num", [3, 5, 10])
@pytest.mark.parametrize("groups", [paired, apart])
def test_where_there_is_no_difference_at_most_one_in_twenty_is_seen(num, groups):
    source = random.Random(0)
    seen = sum(bool(verdict(*groups(draw(source, num), draw(source, num)), "min").better) for _ in range(1000))
    assert seen <= 60


def test_pairs_see_what_groups_do_not():
    seeds = [0.1, 0.5, 0.9, 0.3]
    better = [value + 0.05 + 0.001 * n for n, value in enumerate(seeds)]
    for mode, name in (("max", "a"), ("min", "b")):
        assert verdict(*paired(better, seeds), mode).better == name
        assert not verdict(*apart(better, seeds), mode).better
    # Where all pairs differ by the same, as accuracies of few samples can, the groups decide.
    found = verdict(*paired([0.9, 0.94, 0.93], [0.91, 0.95, 0.94]), "max")
    assert (found.num_pairs, found.better) == (0, "")
    assert verdict(*paired([0.9, 0.94, 0.93], [1.9, 1.94, 1.93]), "min").better == "a"
    # Two shared keys are too few, so all values count.
    a, b = Group({("0",): 1.0, ("1",): 2.0, ("2",): 3.0}), Group({("0",): 4.0, ("1",): 5.5, ("3",): 7.0})
    assert verdict(a, b, "max").num_pairs == 0
    assert verdict(a, b, "max").difference == pytest.approx(-3.5)


@pytest.mark.parametrize(
    ("a", "b", "words"),
    [
        ([1.0, 2.0], [5.0, 6.0, 7.0], "n too small to tell"),
        ([], [], "n too small to tell"),
        ([1.0, math.inf, 2.0], [5.0, 6.0, 7.0], "can't be decided: a value is not finite"),
        ([1.0, math.nan, 2.0], [5.0, 6.0, 7.0], "can't be decided: a value is not finite"),
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "can't be decided: the values don't vary"),
        ([0.9, 0.9, 0.9], [0.9, 0.9, 0.9], "can't be decided: the values don't vary"),
        ([0.1 + 0.2, 0.3, 0.3], [0.3, 0.3, 0.3 + 1e-9], "can't be decided: the values don't vary"),
    ],
)
@pytest.mark.parametrize("groups", [paired, apart])
def test_what_tells_nothing_is_said(a, b, words, groups):
    found = verdict(*groups(a, b), "max")
    assert found.in_words("A", "B") == words
    assert not found.better
    assert found.interval is None
    assert found.num_further is None


def test_the_number_of_further_seeds_grows_with_the_next_look():
    columns = [0.0, 1.0, 2.2, 0.4], [0.3, -0.2, 1.0, 0.9]
    found = verdict(*apart(*columns), "max")
    assert 10 < found.num_further < MAX_FURTHER
    later = verdict(*apart(*columns), "max", next_level=look_level(2))
    assert later.num_further > found.num_further  # the next look spends less
    none = verdict(*paired([0.0, 0.001] * 300, [0.001, 0.0] * 300), "max")
    assert none.num_further == MAX_FURTHER + 1
    assert verdict(*paired([1.0, 2.1, 3.0], [0.0, 1.0, 2.0]), "max").num_further is None


def test_folds_tell_less_than_as_many_independent_runs():
    values = {(str(n),): 0.1 * n for n in range(5)}
    lower = {key: -0.3 * value for key, value in values.items()}
    plain, folds = (verdict(Group(values, c), Group(lower, c), "max") for c in (0.0, 1 / 4))
    half, wide = ((found.interval[1] - found.interval[0]) / 2 for found in (plain, folds))
    assert wide == pytest.approx(half * ((1 / 5 + 1 / 4) / (1 / 5)) ** 0.5)
    unpaired = {("other", *key): value for key, value in lower.items()}
    plain, folds = (verdict(Group(values, c), Group(unpaired, c), "max") for c in (0.0, 1 / 4))
    assert folds.interval[1] - folds.interval[0] == pytest.approx(1.5 * (plain.interval[1] - plain.interval[0]))


def test_the_probability_of_improvement_is_one_of_pairs(drawn):
    for groups in (paired, apart):
        a, b = groups(*([drawn.randint(0, 3) for _ in range(drawn.randint(1, 6))] for _ in "ab"))
        found = verdict(a, b, "max")
        better = improvement(a, b, "max", found)
        assert better.share + improvement(b, a, "max", found).share == pytest.approx(1)
        assert better.share == pytest.approx(improvement(b, a, "min", found).share)
        keys = [(key, key) for key in a.values] if found.num_pairs else itertools.product(a.values, b.values)
        values = [(a.values[x], b.values[y]) for x, y in keys if y in b.values]
        wins, ties = sum(x > y for x, y in values), sum(x == y for x, y in values)
        assert better.share == pytest.approx((wins + ties / 2) / len(values))
        assert better.has_ties == (ties > 0)
        assert (better.interval is None) == (not found.num_pairs)
        assert better.interval is None or 0 <= better.interval[0] <= better.share <= better.interval[1] <= 1
    values = apart([1.0, math.inf], [2.0])
    assert improvement(*values, "min", verdict(*values, "min")) == Improvement(0.5, None, has_ties=False)


@pytest.mark.scipy
def test_a_sign_test_is_that_of_scipy(drawn):
    from scipy import stats

    assert sign_test([0.1] * 5) is None
    for num in (6, 9, 40):
        values = [drawn.choice([-1, 1]) * drawn.random() for _ in range(num)]
        wanted = stats.binomtest(sum(value > 0 for value in values), num).pvalue
        assert sign_test([*values, 0.0]) == pytest.approx(wanted)
    assert sign_test([1.0] * 5000) == 0.0


def test_few_pairs_among_many_values_are_no_pairs(drawn):
    a, b = (
        Group({(f"{name}{n}",): value for n, value in enumerate(draw(drawn, 30, mean))})
        for name, mean in (("a", 1), ("b", -1))
    )
    for n in range(3):
        a.values[(f"both{n}",)] = b.values[(f"both{n}",)] = 0.0
    found = verdict(a, b, "max")
    assert (found.num_pairs, found.better) == (0, "a")
    assert improvement(a, b, "max", verdict(a, b, "max")).interval is None


def test_few_values_beside_many_have_the_degrees_of_freedom_of_the_few(drawn):
    few, many = draw(drawn, 3), draw(drawn, 30)
    for columns in ((few, many), (many, few)):
        low, high = verdict(*apart(*columns), "max").interval
        error = math.sqrt(sum(statistics.variance(column) / len(column) for column in columns))
        assert (high - low) / 2 == pytest.approx(t_quantile(0.025, 2) * error)


def test_tiny_and_huge_values_are_compared_as_any_others():
    columns = [0.9, 0.91, 0.92], [0.5, 0.52, 0.53]
    for scale in (1e-90, 1.0, 1e80):
        found = verdict(*apart(*([scale * value for value in column] for column in columns)), "max")
        assert found.better == "a"
        assert found.difference == pytest.approx(0.39333 * scale, rel=1e-4)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ([[0.98, 0.981, 0.979, 0.982, 0.1], [0.97, 0.975, 0.97, 0.98, 0.96]], "0.1 is far from the 4 others"),
        ([[0.98, 0.981, 0.979, 0.982], [0.5, 0.7, 0.6, 0.55]], "standard deviations of 0.0013 and 0.085"),
        ([[0.98, 0.981, 0.1], [0.97, 0.975, 0.97]], "standard deviations of 0.0029 and 0.51"),
        ([[0.98, 0.981, 0.9], [0.97, 0.975, 0.97]], ""),  # three values have little shape
        ([[0.98, 0.985, 0.97, 0.982], [0.97, 0.96, 0.975, 0.97]], ""),
        ([[1.0, 1.0, 1.0, 1.0, 0.2], [1.0] * 5], "0.2 is far from the 4 others (1 to 1)"),
    ],
)
def test_values_that_are_not_normal_are_named(columns, said):
    found = not_normal([verdict(*apart(*columns), "max")])
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_what_pairs_cancel_is_not_conspicuous_and_a_difference_far_from_the_others_is():
    a, b = [0.9, 0.91, 0.92, 0.915, 0.1], [0.88, 0.892, 0.895, 0.896, 0.08]
    assert not_normal([verdict(*paired(a, b), "max")]) == ""
    b[2] = 0.2
    assert not_normal([verdict(*paired(a, b), "max")]) == "0.72 is far from the 4 others (0.018 to 0.02)"

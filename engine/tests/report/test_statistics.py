"""Which of two groups is better: intervals as SciPy has them, and no difference seen where there is none."""

import math
import random

import pytest

from leyden.report.statistics import MAX_FURTHER, Group, improvement, t_quantile, verdict


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


def test_intervals_are_those_of_scipy(drawn):
    stats = pytest.importorskip("scipy.stats")
    for _ in range(100):
        level = 10 ** drawn.uniform(-6, -0.3)
        a, b = (draw(drawn, drawn.randint(3, 40), drawn.random(), 10 ** drawn.uniform(-2, 2)) for _ in "ab")
        found = verdict(*apart(a, b), "max", level)
        wanted = stats.ttest_ind(a, b, equal_var=False)
        assert found.interval == pytest.approx(tuple(wanted.confidence_interval(1 - level)), rel=1e-8)
        assert bool(found.better) == (wanted.pvalue < level)
        same = min(len(a), len(b))
        found = verdict(*paired(a, b), "max", level)
        wanted = stats.ttest_rel(a[:same], b[:same])
        assert found.interval == pytest.approx(tuple(wanted.confidence_interval(1 - level)), rel=1e-8)
        assert found.num_pairs == same
        freedom = 10 ** drawn.uniform(0.3, 5)
        assert t_quantile(level / 2, freedom) == pytest.approx(stats.t.isf(level / 2, freedom), rel=1e-8)


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
    assert found.num_further() is None


def test_it_takes_as_many_seeds_as_show_the_difference_in_four_of_five_cases():
    source = random.Random(0)
    for groups in (paired, apart):
        columns = [0.0, 1.0, 2.2, 0.4], [0.3, -0.2, 1.0, 0.9]
        found = verdict(*groups(*columns), "max")
        num = 4 + found.num_further()
        spread = found.deviation / (1 if groups is paired else 2**0.5)  # of each of two, or of the differences
        seen = 0
        for _ in range(1000):
            a = draw(source, num, found.difference, spread)
            b = [0.0] * num if groups is paired else draw(source, num, 0.0, spread)
            seen += verdict(*groups(a, b), "max").better == "a"
        assert 750 < seen < 850
    assert verdict(*paired([1.0, 2.0, 3.0], [1.0, 3.0, 2.0]), "max").num_further() == MAX_FURTHER + 1
    assert verdict(*paired([1.0, 2.1, 3.0], [0.0, 1.0, 2.0]), "max").num_further() is None


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
    a, b = ([drawn.randint(0, 3) for _ in range(drawn.randint(1, 6))] for _ in "ab")
    assert improvement(a, b, "max") + improvement(b, a, "max") == pytest.approx(1)
    assert improvement(a, b, "min") == pytest.approx(improvement(b, a, "max"))
    assert improvement([1.0, math.inf], [2.0], "min") == 0.5

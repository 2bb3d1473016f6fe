"""How often each claim about settings is wrong, by simulation; docs/statistics.md has the table that this prints.

Each test fails if a rate leaves its band, by more than three standard errors of the simulation.
"""

import itertools
import math
import random
import statistics

import pytest

from leyden.report.ranking import contenders
from leyden.report.statistics import (
    MAX_FURTHER,
    Group,
    Verdict,
    look_level,
    mean_text,
    not_normal,
    t_quantile,
    verdict,
)
from tests.report.test_ranking import ranked, row
from tests.report.test_statistics import apart, draw, paired

pytestmark = pytest.mark.slow
NUM = 2000  # repetitions


def holds(name, hits, num, *, low=0.0, high=1.0):
    """Print a rate, and hold it to a band."""
    rate, slack = hits / num, 3 * math.sqrt(0.25 / num)
    print(f"{name}: {100 * rate:.1f} % of {num}")
    assert low - min(slack, 3 * math.sqrt(low * (1 - low) / num)) <= rate
    assert rate <= high + min(slack, 3 * math.sqrt(high * (1 - high) / num))


@pytest.fixture(autouse=True)
def quantiles_between_others(monkeypatch):
    """Quantiles take most of the time: compute one per 0.005 of 1 / freedom, and interpolate; that is right to four digits."""

    def between(tail, freedom):
        steps = 200 / freedom
        low, high = max(math.floor(steps), 0.01), math.floor(steps) + 1
        a, b = t_quantile(tail, 200 / low), t_quantile(tail, 200 / high)
        return a + (b - a) * (steps - low) / (high - low)

    assert between(0.01, 2.3) == pytest.approx(t_quantile(0.01, 2.3), rel=1e-4)
    monkeypatch.setattr("leyden.report.statistics.t_quantile", between)


@pytest.fixture
def marks_alone(monkeypatch):
    """The remarks beside the marks take most of the time."""
    monkeypatch.setattr(Verdict, "detectable", lambda self: 0.0)
    monkeypatch.setattr(Verdict, "num_further", None)


@pytest.mark.parametrize("num", [3, 5, 10])
@pytest.mark.parametrize(("groups", "deviation"), [(paired, 1.0), (apart, 1.0), (apart, 5.0)])
def test_an_interval_of_normal_values_holds_the_difference(num, groups, deviation):
    source, hits = random.Random(0), 0
    for _ in range(NUM):
        low, high = verdict(*groups(draw(source, num, 1.0), draw(source, num, 0.0, deviation)), "max").interval
        hits += low <= 1.0 <= high
    holds(f"coverage, {groups.__name__}, n = {num}, deviations 1 and {deviation:g}", hits, NUM, low=0.935)


@pytest.mark.parametrize("num", [3, 10])
@pytest.mark.parametrize("num_rows", [2, 5, 20])
@pytest.mark.parametrize("spread", [1.0, 3.0])
@pytest.mark.usefixtures("marks_alone")
def test_the_best_row_is_seldom_excluded(num, num_rows, spread):
    """All rows but one are equally good, and one is a little better: the hardest case. Deviations may differ."""
    source, lost, repetitions = random.Random(1), 0, NUM // num_rows
    for _ in range(repetitions):
        values = [draw(source, num, 0.01 * (not n), spread if n % 2 else 1.0) for n in range(num_rows)]
        rows = ranked(*(row(each, name=n) for n, each in enumerate(values)))
        best = next(n for n, each in enumerate(rows) if each.choices["name"] == 0)
        lost += contenders(rows, ["seed"], "max").like_best[best] is False
    holds(f"best row excluded, {num_rows} rows, n = {num}, spread {spread:g}", lost, repetitions, high=0.05)


@pytest.mark.parametrize("groups", [paired, apart])
@pytest.mark.parametrize(("num", "num_rows"), [(3, 5), (3, 20), (10, 20)])
def test_a_row_as_much_worse_as_is_said_is_excluded_in_four_of_five_cases(num, num_rows, groups):
    source, excluded, worse = random.Random(2), 0, 0.0
    level = 2 * look_level(1) / (num_rows - 1)
    # What is said has the deviation that is seen; here it is the mean of many that are.
    squares = [
        verdict(*groups(draw(source, num), draw(source, num)), "max", level).detectable() ** 2 for _ in range(200)
    ]
    worse = math.sqrt(sum(squares) / len(squares))
    for _ in range(400):
        excluded += verdict(*groups(draw(source, num), draw(source, num, -worse)), "max", level).better == "a"
    name = f"excluded at {worse:.1f} deviations, {num_rows} rows, n = {num}, {groups.__name__}"
    holds(name, excluded, 400, low=0.7, high=0.92)


@pytest.mark.parametrize("nums", [(30, 3), (3, 30)])
@pytest.mark.usefixtures("marks_alone")
def test_the_best_row_is_seldom_excluded_by_rows_of_other_sizes(nums):
    source, lost = random.Random(9), 0
    for _ in range(300):
        rows = ranked_by_mean(*(row(draw(source, nums[n > 0]), name=n, first_seed=100 * n) for n in range(12)))
        best = next(n for n, each in enumerate(rows) if each.choices["name"] == 0)
        lost += contenders(rows, ["seed"], "max").like_best[best] is False
    holds(f"best row excluded, 12 rows, n = {nums[0]} beside {nums[1]}", lost, 300, high=0.05)


@pytest.mark.parametrize("num", [3, 10])
@pytest.mark.parametrize("groups", [paired, apart])
def test_after_as_many_further_seeds_as_are_promised_four_of_five_differences_are_seen(num, groups):
    source, seen, promised = random.Random(3), 0, 0
    for _ in range(250):
        mean = source.gauss(0, 1)
        a, b = draw(source, num, mean), draw(source, num)
        found = verdict(*groups(a, b), "max", look_level(1), look_level(2))
        further = found.num_further
        if further is None or further > MAX_FURTHER:
            continue
        promised += 1
        a, b = a + draw(source, further, mean), b + draw(source, further)
        seen += bool(verdict(*groups(a, b), "max", look_level(2)).better)
    holds(f"seen after the promised seeds, {groups.__name__}, n = {num}", seen, promised, low=0.75, high=0.9)


@pytest.mark.parametrize("groups", [paired, apart])
def test_who_looks_again_and_again_sees_no_more_than_is_claimed(groups):
    source, by_advice, one_by_one, repetitions = random.Random(4), 0, 0, 1000
    for _ in range(repetitions):
        a, b = draw(source, 3), draw(source, 3)
        for look in range(1, 5):
            found = verdict(*groups(a, b), "max", look_level(look), look_level(look + 1))
            if found.better:
                by_advice += 1
                break
            further = min(found.num_further, MAX_FURTHER)
            a, b = a + draw(source, further), b + draw(source, further)
        a, b = draw(source, 30), draw(source, 30)
        one_by_one += any(
            verdict(*groups(a[:num], b[:num]), "max", look_level(look)).better
            for look, num in enumerate(range(3, 31), start=1)
        )
    holds(f"'is better' without a difference, four rounds, {groups.__name__}", by_advice, repetitions, high=0.05)
    holds(
        f"'is better' without a difference, from 3 to 30 seeds, {groups.__name__}",
        one_by_one,
        repetitions,
        high=0.05,
    )


@pytest.mark.parametrize("num", [5, 10])
@pytest.mark.usefixtures("marks_alone")
def test_a_better_row_that_fails_in_one_seed_of_ten_is_not_excluded(num):
    source, lost = random.Random(5), 0
    for _ in range(500):
        good = [value if source.random() > 0.1 else math.nan for value in draw(source, num, 5.0)]
        rows = ranked_by_mean(row(good, name=0), row(draw(source, num), name=1))
        best = next(n for n, each in enumerate(rows) if each.choices["name"] == 0)
        found = contenders(rows, ["seed"], "max")
        lost += found.like_best[best] is False
        if found.like_best[0] is not None:
            assert any(map(math.isnan, good)) == ("by the runs that finished" in found.remarks[0])
    holds(f"a row that fails in one seed of ten is excluded, n = {num}", lost, 500, high=0.05)


def ranked_by_mean(*rows):
    values = {id(each): each.group(["seed"]).values.values() for each in rows}
    return sorted(rows, key=lambda each: -statistics.fmean(values[id(each)]) if values[id(each)] else math.inf)


@pytest.mark.parametrize("num", [5, 10])
def test_values_that_collapse_or_are_skewed_are_said_where_they_show(num):
    """What the interval claims is then wrong; no more is claimed here than that a collapse which shows is named."""
    source, covered, named, shown = random.Random(6), 0, 0, 0
    for _ in range(NUM):
        columns = [
            [0.98 + source.gauss(0, 0.002) if source.random() > 0.1 else 0.1 for _ in range(num)] for _ in "ab"
        ]
        groups = apart(*columns)
        found = verdict(*groups, "max")
        covered += found.interval[0] <= 0.0 <= found.interval[1]
        if any(column.count(0.1) == 1 for column in columns):
            shown += 1
            named += bool(not_normal([found]))
    print(f"coverage where one seed in ten collapses, n = {num}: {100 * covered / NUM:.1f} % of {NUM}")
    holds(f"one collapsed seed is named, n = {num}", named, shown, low=0.95)
    normal = (verdict(*apart(draw(source, num), draw(source, num)), "max") for _ in range(NUM))
    false = sum(bool(not_normal([found])) for found in normal)
    holds(f"normal values are named, n = {num}", false, NUM, high=0.02)
    covered = 0
    for _ in range(NUM):
        a, b = ([source.lognormvariate(0, sigma) for _ in range(num)] for sigma in (0.5, 1.5))
        truth = math.exp(0.5**2 / 2) - math.exp(1.5**2 / 2)
        low, high = verdict(*apart(a, b), "min").interval
        covered += low <= truth <= high
    print(f"coverage, lognormal values of unequal spread, n = {num}: {100 * covered / NUM:.1f} % of {NUM}")


@pytest.mark.parametrize("num", [5, 10])
def test_over_datasets_the_interval_is_wide_enough(num):
    """Values of random splits of one dataset are correlated as Nadeau and Bengio assume."""
    source, covered, ratio = random.Random(7), {0.0: 0, 0.25: 0}, 0.25
    correlation = ratio / (1 + ratio)
    for _ in range(NUM):
        shared = source.gauss(0, math.sqrt(correlation))
        values = {(str(n),): shared + source.gauss(0, math.sqrt(1 - correlation)) for n in range(num)}
        zero = {key: 1e-9 * n for n, key in enumerate(values)}
        for overlap in covered:
            low, high = verdict(Group(values, overlap), Group(zero, overlap), "max").interval
            covered[overlap] += low <= 0.0 <= high
    print(f"coverage over datasets without over=datasets, n = {num}: {100 * covered[0.0] / NUM:.1f} % of {NUM}")
    holds(f"coverage over datasets with over=datasets, n = {num}", covered[ratio], NUM, low=0.93)


def test_the_mean_of_a_row_has_its_interval():
    source, hits = random.Random(8), 0
    for _ in range(NUM):
        words = mean_text(draw(source, 5, 1.0)).replace(",", "").split()
        low, high = (float(each) for each, after in itertools.pairwise(words[4:]) if after in ("to", "n"))
        hits += low <= 1.0 <= high
    holds("coverage of a test evaluation's mean, n = 5", hits, NUM, low=0.935)

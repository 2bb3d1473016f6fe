"""The rows that are marked: they hold the truly best one, nearly always."""

import math

import pytest

from leyden.config.checks import Objective
from leyden.report.ranking import Row, contenders
from leyden.report.records import Record
from leyden.verdict.difference import Look
from leyden.verdict.ranking import MARK


def row(values, *, status="finished", name="", averaged=("seed",), **config):
    """A row of runs with these values, by seed."""
    records = []
    for seed, value in enumerate(values):
        objective = Objective("val/acc", "max", value)
        records.append(Record("/", {}, {"seed": seed, **config}, status, objective, None, []))
    return Row({"name": name}, records, averaged)


BEST = "With 95 % confidence the best setting"
OF_THREE = "of those with 3 runs"
GOOD = [0.9, 0.91, 0.92]
ALIKE = [0.895, 0.915, 0.9]
WORSE = [0.5, 0.51, 0.53]
LAST = ["Add runs up to 16 to see failures in 1 of 10: 3 miss", "Holds for"]
LOST = "Runs without a value, which are not counted: "
TOO_FEW = ["n too small to tell which row is best"]
MARKED = f"{BEST} is row 1 or one marked {MARK}."
POWER = ["A row worse by 0.0", "Add 7 more runs to each, and 0.0"]
ALIKE_SAID = [MARKED, *POWER, "Measure row 1 anew: it was chosen by its mean,", *LAST]
LUCKY_SAID = [f"{BEST} {OF_THREE} is row 2.", "Add runs to row 1: fewer than 3", *LAST]
WIDE = "Add runs to row 2: without spread, or too wide to be excluded."
EQUAL = "Rows 1, 2: all values are equal; does the seed take effect?"
WIDE_SAID = [f"{BEST} is row 1, or row 2.", WIDE, EQUAL, *LAST]
LOST_SAID = [f"{BEST}, by the runs that finished, is row 1.", f"{LOST}2.", *LAST]
INFINITE = f"{BEST} {OF_THREE}, by the runs that finished, is row 1."
INFINITE_SAID = [INFINITE, f"{LOST}1.", "Add runs to row 3: fewer than 3", *LAST]
TOLD = [
    ([[0.9]], [None], []),
    ([[0.9], [0.8]], [None, None], TOO_FEW),
    ([[0.9], [0.8, 0.7, 0.6]], [None, None], TOO_FEW),
    ([GOOD, ALIKE, WORSE], [True, True, False], ALIKE_SAID),
    # A lucky row of one run does not silence the table.
    ([[0.99], GOOD, WORSE], [None, True, False], LUCKY_SAID),
    # .50 beside .95, both without variance, is not marked as good
    ([[0.95] * 3, [0.5] * 3], [True, None], WIDE_SAID),
    # An infinite loss is a run without a value, also where it is in the worse row.
    ([[*GOOD, -math.inf], WORSE, [-math.inf] * 3], [True, False, None], INFINITE_SAID),
    ([GOOD, [*WORSE, math.nan, math.nan]], [True, False], LOST_SAID),
]


@pytest.mark.parametrize(("rows", "like", "remarks"), TOLD)
def test_what_is_said_of_rows(rows, like, remarks):
    found = contenders([row(values) for values in rows], "max")
    assert found.like_best == like
    for said, wanted in zip(found.remarks, remarks, strict=True):
        assert said.startswith(wanted)
        assert len(said) <= 100


def test_what_an_earlier_look_has_excluded_stays_so():
    rows = [row(GOOD, name="a"), row(ALIKE, name="b"), row([0.5, 0.9, 0.53], name="c")]
    found = contenders(rows, "max", Look(2), ["name=b", "name=c"])
    assert found.like_best == [True, False, False]
    assert found.remarks[0] == f"{BEST} is row 1."


def test_runs_that_pruned_failed_or_repeat_do_not_count():
    pruned = row([0.8, 0.7, 0.75], status="pruned")
    copies = row([0.8, 0.8, 0.8])
    for record in copies.records:
        record.config["seed"] = 0
    for second in (pruned, copies):
        assert contenders([row(GOOD), second], "max").like_best == [None, None]
    again = row(WORSE)
    again.records += row([math.nan] * 3, status="failed").records  # of the same seeds
    assert "finished" not in contenders([row(GOOD), again], "max").remarks[0]


def test_runs_of_folds_are_told_apart_less_easily():
    better = [0.9, 0.93, 0.94, 0.92, 0.91, 0.95]
    worse = [0.887, 0.929, 0.933, 0.921, 0.906, 0.944]

    def rows(**config):
        made = [row(values, averaged=("seed", "data.fold"), **config) for values in (better, worse)]
        for each in made:
            for fold, record in enumerate(each.records):
                record.config["data.fold"] = fold if config else None
        return made

    assert contenders(rows(), "max").like_best == [True, False]
    found = contenders(rows(**{"data.num_folds": 3}), "max")
    assert found.like_best == [True, True]
    assert "Nadeau and Bengio" in found.remarks[-1]
    assert "Add 24 more runs to each" in found.remarks[2]
    assert rows(**{"data.num_folds": 10})[0].setting.overlap == pytest.approx(1 / 9)
    # Data of one's own may tell no number of folds: then it is as many as there are.
    assert rows(own=1)[0].setting.overlap == pytest.approx(1 / 5)

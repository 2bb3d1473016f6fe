"""The panels of a search: which keys matter, and how the best value came about."""

import itertools
import json
import math
import random

import pytest
from matplotlib.figure import Figure

from leyden.config.objective import Objective
from leyden.report import summary
from leyden.report.summary import MIN_SETTINGS, importances
from tests.report.test_ranking import row
from tests.report.test_summary import summarize, write


def settings(source, value, num=40):
    """Settings of a space with keys of each kind, of which one is there for one optimizer only."""
    found = []
    for _ in range(num):
        choices = {
            "optimizer": source.choice(["sgd", "adam"]),
            "optimizer.lr": 10 ** source.uniform(-4, -1),
            "data.batch_size": source.choice([32, 64, 128]),
            "model.hidden_sizes": source.choice([[64], [128, 64]]),
            "trainer.gradient_clip_val": source.choice([None, 1.0, True]),
        }
        if choices["optimizer"] == "sgd":
            choices["optimizer.momentum"] = source.random()
        found.append((choices, value(choices)))
    return found


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("key", ["optimizer.lr", "data.batch_size", "optimizer.momentum"])
def test_the_key_that_decides_is_the_most_important_one(mode, key):
    source, sign = random.Random(0), -1 if mode == "max" else 1

    def value(choices):
        if key == "optimizer.momentum" and key not in choices:
            return sign * 9.0
        return sign * abs(math.log(choices[key]) - math.log(0.01)) + 1e-6 * source.random()

    found = importances(settings(source, value, 100), mode, ["optimizer.lr"])
    assert sum(found.values()) == pytest.approx(1)
    best = sorted(found, key=found.get)[-2:]
    # Of a key that only one optimizer has, both are what decides.
    assert key in best if key == "optimizer.momentum" else key == best[-1]
    assert set(found) == {
        "optimizer",
        "optimizer.lr",
        "data.batch_size",
        "model.hidden_sizes",
        "trainer.gradient_clip_val",
        "optimizer.momentum",
    }


@pytest.mark.parametrize("num", [0, 1, 2, MIN_SETTINGS - 1, MIN_SETTINGS, 50])
def test_what_tells_nothing_has_no_importance(drawn, num):
    assert importances(settings(drawn, lambda choices: 0.5, num), "max", []) == {}
    assert bool(importances(settings(drawn, lambda choices: drawn.random(), num), "max", [])) == (
        num >= MIN_SETTINGS
    )
    assert importances([({}, drawn.random()) for _ in range(num)], "max", []) == {}


def test_of_few_settings_the_five_best_are_compared_with_all():
    best_five = [({"a": "yes" if n < 5 else "no", "b": "yes" if n < 2 else "no"}, n) for n in range(20)]
    found = importances(best_five, "min", [])
    assert found["a"] > found["b"]


def started(rows, minutes):
    for each, minute in zip(rows, minutes, strict=True):
        for seed, record in enumerate(each.records):
            time = f"2026-01-01T{minute // 60:02}:{minute % 60:02}:{seed:02}+00:00"
            record.start_times = ["2025-01-01T00:00:00+00:00", time]
            record.result = type("Result", (), {"seconds": 1.0, "epochs": 1})
    return rows


def test_the_history_is_in_the_order_in_which_the_settings_have_ended(drawn):
    # The mean over seeds is what counts; what is pruned, infinite or failed has no part in it.
    rows = [row([0.5, 0.7]), row([0.9]), row([0.4]), row([math.inf]), row([0.1], status="pruned")]
    minutes = drawn.sample(range(60), 5)
    drawn_panels = summary.search_panels(started(rows, minutes), Objective("val/loss", "min"), [])
    assert len(drawn_panels) == 1
    drawn_panels[0](axes := Figure().add_subplot())
    values = [value for _, value in sorted(zip(minutes, (0.6, 0.9, 0.4), strict=False))]
    assert axes.collections[0].get_offsets()[:, 1].tolist() == pytest.approx(values)
    assert axes.lines[0].get_ydata() == pytest.approx(list(itertools.accumulate(values, min)))
    rows[0].records[0].start_times = []  # it is not known when it was
    assert summary.search_panels(rows, Objective("val/loss", "min"), []) == []


def test_a_search_has_two_panels_and_a_grid_none(tmp_path, monkeypatch):
    for number in range(MIN_SETTINGS):
        here = tmp_path / str(number)
        write(here, [f"optimizer.lr={0.01 * (number + 1)}"], value=0.5 - 0.01 * number)
        start = {"overrides": [f"optimizer.lr={number}"], "time": f"2026-01-01T00:{number:02}:00+00:00"}
        (here / "provenance.json").write_text(json.dumps([start]))
    added = []
    add = Figure.add_subplot
    monkeypatch.setattr(Figure, "add_subplot", lambda *args: added.append(args[1:]) or add(*args))
    summarize(tmp_path)
    assert added == [(1, 1, 1)]
    added.clear()
    (tmp_path / "sweep.json").write_text(json.dumps({"log": ["optimizer.lr"]}))
    summarize(tmp_path)
    assert added == [(2, 2, 1), (2, 2, 3), (2, 2, 4)]

"""`compare`: two groups of runs, what it says of them, and what it refuses."""

import functools
import json
import re

import pytest

from leyden import compare
from tests import mistakes, records
from tests.report.test_summary import DATA, grid, on_two_data_sets, write


@pytest.fixture
def call(called):
    return functools.partial(called, compare)


@pytest.fixture
def sweep(tmp_path):
    """Three settings of four seeds: two that are alike, and one that is worse."""
    grid(tmp_path / "s", {0.1: (0.3, 0.4, 0.5, 0.6), 0.2: (0.31, 0.38, 0.52, 0.6), 0.3: (1.3, 1.4, 1.5, 1.7)})
    return tmp_path


def test_two_settings_of_a_sweep(call, sweep):
    text = call("s", "a=optimizer.lr=0.1", "b=optimizer.lr=0.3")
    assert "A s optimizer.lr=0.1 optimizer.lr=0.1 0.4500 ± 0.1291 4" in " ".join(text.split())
    assert "Verdict: A is better" in text
    assert "(4 pairs)" in text
    assert "Widened, since the two may be chosen among 3 settings; planned=true if not." in text
    assert "Holds for this data set, over seeds and their splits." in text
    assert "±: standard deviation of a setting's runs, over seed." in text
    assert "best" not in text
    text = call("s", "b=optimizer.lr=0.1", "a=optimizer.lr=0.2")
    assert "Verdict: can't be told apart" in text
    assert "Four of five differences of " in text
    text = call("s", "b=optimizer.lr=0.1", "a=optimizer.lr=0.2", "planned=true")
    assert "96.25 % interval" in text
    assert "planned=true: right only if the two were named before any result was seen." in text
    assert "the same within 0.2" in call("s", "b=optimizer.lr=0.1", "a=optimizer.lr=0.2", "margin=0.2")


def test_the_same_for_other_programs(call, sweep):
    found = json.loads(call("s", "a=optimizer.lr=0.3", "b=optimizer.lr < 0.3", "format=json"))
    assert (found["metric"], found["mode"]) == ("val/loss", "min")
    assert found["a"]["n"] == found["b"]["n"] == found["num_pairs"] == 4
    assert found["a"]["mean"] == pytest.approx(1.475)
    assert found["b"]["choices"] == {"optimizer.lr": 0.1}  # the best of the two
    assert found["b"]["lost"] == 0
    assert [path.rpartition("/")[2] for path in found["b"]["runs"]] == [f"0.1_{seed}" for seed in range(4)]
    low, high = found["interval"]
    assert found["difference"] == pytest.approx(1.025)
    assert 0 < low < 1.025 < high
    assert (found["better"], found["verdict"]) == ("b", "b is better")
    assert "The best setting was chosen by these values, so they are biased in its favor." in found["remarks"]


def test_each_metric_that_is_asked_for_has_its_verdict(call, tmp_path):
    for width, losses in {8: (0.3, 0.4, 0.5), 64: (0.1, 0.11, 0.12)}.items():
        grid(tmp_path / "s", {width: losses}, name="model.hidden_sizes.0", more={"num_parameters": 10 * width})
    sides = ("s", "a=model.hidden_sizes.0=8", "b=model.hidden_sizes.0=64")
    text = call(*sides, "metric=val/loss:min,num_parameters:min")
    assert re.findall("^Verdict: (.*)", text, re.M) == ["B is better", "can't be decided: the values don't vary"]
    assert len((tmp_path / "s/looks.csv").read_text().splitlines()) == 3  # looks at each metric are counted apart
    assert "Verdict: B is better" in call(*sides)  # of the objective, which is the same look as by its name
    assert len((tmp_path / "s/looks.csv").read_text().splitlines()) == 3
    found = json.loads(call(*sides, "metric=num_parameters:max,val/loss:min", "format=json"))
    assert [each["a"]["mean"] for each in found] == [80, pytest.approx(0.4)]
    assert "metric=val/loss: min or max is missing, as in metric=val/loss:max" in call(*sides, "metric=val/loss")
    wrong = call(*sides, "metric=size:min")
    assert "metric=size: no run has this metric; there are num_parameters, val/loss" in wrong


def test_folders_of_which_the_best_setting_is_named(call, sweep):
    for seed, value in enumerate((0.1, 0.2)):
        overrides = [f"seed={seed}", "model.hidden_sizes=[64]", f"name=r{seed}"]
        write(sweep / "other" / str(seed), overrides, value=value)
    write(sweep / "other" / "2", ["model.hidden_sizes=[64]", "seed=2", "name=r2"], status="failed")
    (sweep / "other" / "sweep.json").write_text(json.dumps({"average_over": ["seed", "name"]}))
    text = " ".join(call("s", "other").split())
    assert "A s the best of 3 optimizer.lr=0.1 model.hidden_sizes=[512]" in text
    assert "B other optimizer.lr=0.1 model.hidden_sizes=[64] 0.1500 ± 0.0707 2 of 3" in text
    assert "chosen by these values" in text
    assert "Finished runs only: 0 of A and 1 of B have no value." in text
    assert "Verdict: n too small to tell; at least 3 of each are needed" in text
    assert "interval" not in text


def test_what_nobody_has_typed_tells_two_folders_apart(call, tmp_path):
    for name, rate in (("a", 0.1), ("b", 0.7)):
        grid(tmp_path / name, {64: (0.1, 0.2, 0.3)}, name="data.batch_size")
        for path in (tmp_path / name).iterdir():
            config = records.config(path)
            config["optimizer"]["lr"] = rate  # somebody has edited a file of conf/
            records.put(path, config=config)
    found = json.loads(call("a", "b", "format=json"))
    assert [found[side]["choices"] for side in "ab"] == [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.7}]


def test_other_values_of_what_a_mean_is_over_make_no_pairs(call, sweep):
    for seed in range(3):
        write(sweep / "late" / str(seed), [f"seed={seed + 4}"], value=0.9 + 0.1 * seed)
    text = call("s", "late")
    assert "Verdict: A is better" in text
    assert "(not paired)" in text


@pytest.mark.parametrize(("a", "b", "digests", "key"), DATA)
def test_runs_of_different_data_are_not_compared(call, tmp_path, a, b, digests, key):
    on_two_data_sets(tmp_path / "s", a, b, digests)
    text = call("s", "a=optimizer.lr=0.1", "b=optimizer.lr=0.2")
    assert f"runs of different data can't be compared; these differ in {key}: choose runs of one" in text
    assert "can't be compared" in call("s", "a=objective<0.6", "b=objective>0.6")
    # On each of them there is a verdict, among the settings on these data.
    text = call("s", "a=optimizer.lr=0.1 and objective<0.6", "b=optimizer.lr=0.2 and objective<0.6")
    assert "Verdict: A is better" in text
    assert "96.25 % interval" in text


MISTAKES = """
s  =>  two groups are needed
s a=seed=1  =>  two groups are needed
s s  =>  s/0.1_0 and 11 more: in both groups
s s/0.1_0  =>  s/0.1_0: in both groups
s nowhere  =>  nowhere: there is no run in or below it
s accuracy  =>  A has the objective val/loss (min), B has val/acc (max): both must have the same one
s accuracy a=seed=0 b=seed=1  =>  b=seed=1: no run matches this
s none  =>  B has none
s failed  =>  failed: none of 1 runs has finished
s a=seed b=seed=1  =>  a=seed: seed is no comparison; `and` joins comparisons, for example a='val/acc
s a=seeds=1 b=seed=1  =>  a: no run has seeds; did you mean seed?
s failed format=csv  =>  format=csv: must be one of table, json
s failed none  =>  none: at most 2 folders can be given
s sort=seed  =>  sort=seed: must be a folder, or one of a=, b=, format=
"""


@pytest.mark.parametrize(("typed", "message"), mistakes(MISTAKES))
def test_groups_that_can_not_be_compared_are_refused_in_a_line(call, sweep, typed, message):
    write(sweep / "accuracy", ["seed=0"], value=0.9, objective={"metric": "val/acc", "mode": "max"})
    write(sweep / "none", [], objective=None, status=None)
    write(sweep / "failed", ["seed=0"], status="failed")
    text = call(*typed.split())
    assert text.startswith("leyden: ")
    assert message in text
    assert len(text.splitlines()) == 1

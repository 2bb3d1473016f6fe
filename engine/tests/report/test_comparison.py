"""`compare` of two groups of runs, and `compare` and `summarize` of a table."""

import functools
import itertools
import json
import re

import pytest

from leyden import compare, runs, summarize
from tests import mistakes, records
from tests.report.test_summary import grid, write
from tests.verdict.test_tables import table


@pytest.fixture
def sweep(tmp_path):
    """Three settings of four seeds: two that are alike, and one that is worse."""
    grid(
        tmp_path / "s",
        {0.1: (0.3, 0.4, 0.5, 0.6), 0.2: (0.31, 0.38, 0.52, 0.6), 0.3: (1.3, 1.4, 1.5, 1.7)},
    )
    return tmp_path


def test_two_settings_of_a_sweep_and_of_two_folders(called, sweep):
    text = called(compare, "s", "a=optimizer.lr=0.1", "b=optimizer.lr=0.3")
    assert "A optimizer.lr=0.1 0.4500 ± 0.1291 4" in " ".join(text.split())
    assert "Verdict: A is better" in text
    assert "Add planned=true if both were named before any result: now all 3 pairs count." in text
    assert "Holds for this data set, over seeds and their splits." in text
    assert "±: standard deviation of a setting's runs, over seed." in text
    assert "best" not in text
    alike = ("s", "b=optimizer.lr=0.1", "a=optimizer.lr=0.2")
    text = called(compare, *alike)
    assert "Verdict: can't be told apart" in text
    assert " shows in four of five cases." in text
    assert "the same within 0.2" in called(compare, *alike, "margin=0.2")
    text = called(compare, *alike, "planned=true")
    assert "96.25 % interval" in text
    look = "An interval of the first look has 96.25 %, as later looks need the rest of the 5 %."
    assert look in text
    assert "planned=true: right only if the two were named before any result was seen." in text
    # The same for other programs.
    sides = ("s", "a=optimizer.lr=0.3", "b=optimizer.lr < 0.3")
    found = json.loads(called(compare, *sides, "format=json"))
    told = {
        "metric": "val/loss",
        "mode": "min",
        "num_pairs": 4,
        "better": "b",
        "verdict": "b is better",
    }
    assert found.items() >= told.items()
    assert found["a"]["n"] == 4
    assert found["a"]["mean"] == pytest.approx(1.475)
    assert found["a"]["lost"] == 0
    assert found["b"]["choices"] == {"optimizer.lr": 0.1}  # the best of the two
    assert found["difference"] == pytest.approx(1.025)
    assert 0 < found["interval"][0] < 1.025 < found["interval"][1]
    assert (
        "Measure the best setting anew: it was chosen by these values, which favor it."
        in found["remarks"]
    )
    # Of folders the best setting is named.
    for seed, value in enumerate((0.1, 0.2)):
        overrides = [f"seed={seed}", "model.hidden_sizes=[64]", f"name=r{seed}"]
        write(sweep / "other" / str(seed), overrides, value=value)
    write(sweep / "other" / "2", ["model.hidden_sizes=[64]", "seed=2", "name=r2"], status="failed")
    (sweep / "other" / "sweep.json").write_text(
        json.dumps({"format": 1, "average_over": ["seed", "name"]})
    )
    text = " ".join(called(compare, "s", "other").split())
    assert "A optimizer.lr=0.1 model.hidden_sizes=[512]" in text
    assert "B optimizer.lr=0.1 model.hidden_sizes=[64] 0.1500 ± 0.0707 2 of 3" in text
    assert "chosen by these values" in text
    assert "Finished runs only: 0 of A and 1 of B have no value." in text
    assert "Verdict: n too small to tell; at least 3 of each are needed" in text
    assert "interval" not in text


LOSSES = {"all": (0.3, 0.4, 0.5), "few": (0.1, 0.11, 0.12)}
VALIDATED = [  # numbers of samples of both, and the key that tells them apart
    (None, None, "trainer.limit_val_batches"),
    (5000, 800, "data.val_samples"),
    (5000, 5000, ""),
]


@pytest.mark.parametrize(("samples", "others", "key"), VALIDATED)
def test_runs_that_were_validated_on_other_samples_are_not_compared(
    called, tmp_path, samples, others, key
):
    name = "trainer.limit_val_batches"
    grid(tmp_path / "s", {1.0: LOSSES["all"]}, name=name, val_samples=samples)
    grid(tmp_path / "s", {1: LOSSES["few"]}, name=name, val_samples=others)
    said = called(compare, "s", f"a={name}=1.0", f"b={name}=1")
    assert (f"can't be compared; these differ in {key}: " in said) is bool(key)
    text = called(summarize, "s")
    _, first, second, *_ = text.splitlines()
    assert {first.split()[1], second.split()[1]} == {"1", "1.0"}
    assert (f"different data are not compared: they differ in {key}." in text) is bool(key)


def test_folds_of_other_sizes_are_one_setting(called, tmp_path):
    for fold, rate in itertools.product(range(3), (0.1, 0.2)):
        typed = ["data.num_folds=3", f"data.fold={fold}", f"optimizer.lr={rate}"]
        place = tmp_path / "s" / f"{fold}{rate}"
        write(place, typed, value=rate + fold / 9, val_samples=1000 + fold)
    assert "Verdict: " in called(compare, "s", "a=optimizer.lr=0.1", "b=optimizer.lr=0.2")


def of_model(folder, recorded):
    """Runs of a network that a recipe chose, and of the default one."""
    for model, losses in {"cnn": LOSSES["few"], "mlp": LOSSES["all"]}.items():
        recipe = model if model == "cnn" else None
        typed = [f"experiment={recipe}"] if recipe else []
        begun = {"groups": {"model": model, "experiment": recipe}} if recorded else {}
        for seed, value in enumerate(losses):
            write(folder / f"{model}{seed}", [f"seed={seed}"], value=value)
            start = {"overrides": [*typed, f"seed={seed}"], "data": None, **begun}
            records.put(folder / f"{model}{seed}", starts=[start])
    write(folder / "typed", ["model=mlp", "seed=9"], value=0.4, begun=begun)


def test_what_a_recipe_or_the_defaults_chose_is_a_setting_where_it_was_recorded(called, tmp_path):
    of_model(tmp_path / "new", recorded=True)
    said = called(compare, "new", "a=model=cnn", "b=model = mlp")
    assert "A  experiment=cnn model=cnn" in said
    assert "B  experiment=null model=mlp" in said
    assert "Verdict: A is better" in said
    found = json.loads(called(summarize, "new", "format=json"))
    assert [row["choices"]["model"] for row in found["rows"]] == ["cnn", "mlp"]
    of_model(tmp_path / "old", recorded=False)
    said = called(compare, "old", "a=model=mlp", "b=model=cnn")
    assert "b=model=cnn: no run matches this" in said


def test_other_numbers_of_threads_are_a_line(called, tmp_path):
    for threads, losses in ((1, LOSSES["all"]), (2, LOSSES["few"])):
        more = {"begun": {"machine": {"threads": threads}}}
        grid(tmp_path / "s" / str(threads), {0.1 * threads: losses}, **more)
    said = "Trained with 1 and 2 threads (OMP_NUM_THREADS), so the last bits of equal settings can differ."
    sides = ("a=optimizer.lr=0.1", "b=optimizer.lr=0.2")
    for verb, *arguments in ((compare, "s", *sides), (summarize, "s"), (runs, "s")):
        assert said in called(verb, *arguments).splitlines()
    assert said not in called(runs, "s", "where=threads=1")
    assert " threads " in called(runs, "s").splitlines()[0]


def test_each_metric_that_is_asked_for_has_its_verdict_and_its_looks(called, tmp_path):
    for width, losses in {8: (0.3, 0.4, 0.5), 64: (0.1, 0.11, 0.12)}.items():
        grid(
            tmp_path / "s",
            {width: losses},
            name="model.hidden_sizes.0",
            more={"num_parameters": 10 * width},
        )
    sides = ("s", "a=model.hidden_sizes.0=8", "b=model.hidden_sizes.0=64")
    words = {"val/loss": "B is better", "num_parameters": "can't be decided: the values don't vary"}
    for typed, metrics in (
        ("metric=val/loss mode=min", ["val/loss"]),
        ("", ["val/loss"]),  # of the objective, which is the same look as by its name
        ("metric=val/loss:min,num_parameters:min", ["val/loss", "num_parameters"]),
        ("metric=num_parameters,val/loss mode=min", ["num_parameters", "val/loss"]),
    ):
        said = called(compare, *sides, *typed.split())
        assert re.findall("^Verdict: (.*)", said, re.M) == [words[metric] for metric in metrics]
        assert len((tmp_path / "s/looks.csv").read_text().splitlines()) == 1 + len(metrics)
    metrics = "metric=num_parameters:max,val/loss:min"
    size, loss = json.loads(called(compare, *sides, metrics, "format=json"))
    assert size["a"]["mean"] == 80
    assert loss["a"]["mean"] == pytest.approx(0.4)


@pytest.fixture
def results(tmp_path):
    records.write_table(tmp_path / "results.csv", table())
    return tmp_path


def test_a_table_is_compared_and_summarised_by_the_verbs(called, results):
    sides = ("a=model=mlp and lr < 0.15", "b=model=cnn")
    text = called(compare, "results.csv", "metric=acc", *sides)
    assert "A  model=mlp lr=0.1" in text
    assert "Verdict: B is higher" in text
    ask = functools.partial(called, summarize, "results.csv", "metric=acc", "mode=max")
    assert "With 95 % confidence the best setting is row 1 or one marked ≈." in ask()
    assert "Add data sets: 2 have all settings, and a ranking takes 5." in ask("over=lr")
    found = json.loads(
        called(compare, "results.csv", "metric=acc", *sides, "margin=1", "format=json")
    )
    assert found["better"] == "b"
    assert found["is_same"] is True
    assert found["a"]["n"] == 3
    text = called(compare, "results.csv", "metric=lr:min,acc:max", "a=model=mlp", "b=model=cnn")
    assert re.findall(r"setting +(lr|acc)", text) == ["lr", "acc"]
    assert text.count("Verdict: ") == 2
    text = called(summarize, "results.csv", "metric=lr:min,acc:max")
    assert re.findall(r"setting +(lr|acc)", text) == ["lr", "acc"]
    assert called(summarize, "results.csv", "metric=acc:max") == ask()


def test_a_front_is_one_of_means(called, tmp_path):
    lines = [
        "model,fold,time,acc,size",
        "a,0,1,0.9,1",
        "a,0,3,0.9,1",
        "a,1,2,0.6,0.5",
        "b,0,1,0.7,2",
        "c,0,1,,0",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    ask = functools.partial(
        called, summarize, "t.csv", "front=acc:max,size:min", "seed=fold", "ignore=time"
    )
    (found,) = json.loads(ask("format=json"))
    assert found == {
        "model": "a",
        "n": 3,
        "acc": pytest.approx(0.8),
        "size": pytest.approx(2.5 / 3),
    }
    assert ask().splitlines()[:2] == ["model  n  acc  size", "a      3  0.8  0.8333"]
    # Of runs the best single one, of 0.1, is of a setting whose mean is beaten in both.
    for width, losses in {8: (0.5, 0.5), 32: (0.1, 0.9), 64: (0.3, 0.3)}.items():
        more = {"num_parameters": 10 * min(width, 33), "test/acc": 0.9}
        grid(tmp_path / "s", {width: losses}, name="model.hidden_sizes.0", more=more)
    for place in (tmp_path / "s").iterdir():
        records.put(place, result=records.content(place) | {"stages": {"test": ["test/acc"]}})
    # A run that is there twice counts once.
    again = [f"model.hidden_sizes.0={32}", "seed=0"]
    write(tmp_path / "s" / "again", again, value=0.1, more={"num_parameters": 330, "test/acc": 0.9})
    write(tmp_path / "s" / "failed", ["model.hidden_sizes.0=4"], value=0.01, status="failed")
    ask = functools.partial(called, summarize, "s")
    assert json.loads(ask("front=val/loss:min,num_parameters:min", "format=json")) == [
        {"model.hidden_sizes.0": "64", "n": 2, "val/loss": 0.3, "num_parameters": 330},
        {"model.hidden_sizes.0": "8", "n": 2, "val/loss": 0.5, "num_parameters": 80},
    ]
    assert "front: test/acc is a metric of the test set" in ask("front=val/loss:min,test/acc:max")
    write(tmp_path / "s" / "other", ["data=fashion_mnist"], value=0.01)
    assert "front: the runs' data differ in data" in ask("front=val/loss:min,num_parameters:min")


def test_looks_at_a_table_are_counted_beside_it(called, results):
    ask = functools.partial(
        called, compare, "results.csv", "metric=acc", "a=model=mlp", "b=model=moe"
    )
    first = ask()
    assert ask() == first
    with (results / "results.csv").open("a") as file:
        file.writelines(f"\nmlp,{lr},3,0.9" for lr in (0.1, 0.2))
    assert ask() != first
    # The sides' order is no other look, and values that are too few for a verdict are none.
    called(compare, "results.csv", "metric=acc", "a=model = moe", "b=model=mlp")
    (results / "few.csv").write_text("model,seed,acc\na,0,1\na,1,2\nb,0,1\nb,1,2\n")
    called(compare, "few.csv", "metric=acc", "a=model=a", "b=model=b")
    called(summarize, "few.csv", "metric=acc", "mode=max")
    assert len((results / "looks.csv").read_text().splitlines()) == 3


MISTAKES = """
compare s  =>  two groups are needed
compare s s  =>  s/0.1_0 and 11 more: in both groups
compare s nowhere  =>  nowhere: there is no such folder; beside it are accuracy, failed, none, s
compare s accuracy  =>  the runs have the objective val/acc (max) or val/loss (min); metric= and mode= name one
compare s none  =>  the runs have the objective none or val/loss (min)
compare s failed  =>  failed: none of 1 runs has finished
compare accuracy a=seed=0 b=seed=1  =>  b=seed=1: no run matches this
compare s a=seed b=seed=1  =>  a=seed: seed is no comparison; `and` joins comparisons, for example a='val/acc
compare s a=seeds=1 b=seed=1  =>  a: no run has seeds; did you mean seed?
compare s failed none  =>  none: at most 2 folders can be given
compare s a=seed=0 b=seed=1 metric=val/loss  =>  mode=: must be min or max, as in metric=val/loss:max
compare s a=seed=0 b=seed=1 metric=val/loss:min,size:min  =>  metric=size: no run has this metric; there are val/loss
compare s AB seed=fold  =>  seed=fold: is for a table in a file
compare results.csv metric=acc  =>  a= is missing: the setting of this side
compare results.csv AB  =>  metric= is missing
compare results.csv metric=acc a=model=mlp b=x=1  =>  b: x is no column with a setting
compare results.csv metric=acc a=seed=0 b=model=moe  =>  a: seed is no column with a setting
compare results.csv metric=acc AB margin=x  =>  margin=x: must be a pos
compare results.csv metric=acc,lr AB margin=1  =>  margin=1: is of one metric; metric= names 2
compare results.csv metric=acc:max mode=min AB  =>  mode=min: has no effect
compare results.csv metric=acc:max,acc:min AB  =>  acc stands twice
compare results.csv metric=acc:max, AB  =>  a name is empty
compare results.csv metric=acc AB ignore=tmie  =>  no column is named tmie; there are model, lr, seed, acc
summarize  =>  a folder is missing
summarize a b  =>  b: at most 1 folder can be given
summarize s format=csv  =>  format=csv: must be one of
summarize results.csv front=acc:max,lr:min ignore=x*  =>  no column is named x*
summarize results.csv metric=acc:max mode=min  =>  mode=min: has no effect
summarize . mode=max  =>  mode=max: is for a table in a file
summarize results.csv front=acc:max,loss:min  =>  no column is named loss
summarize results.csv front=acc:max,lr  =>  front: min or max is missing
summarize results.csv front=acc:max over=lr  =>  over=lr: has no effect on front=
summarize s front=val/loss:min ignore=x  =>  ignore=x: is for a table in a file
summarize s front=nope:max  =>  front=nope: no run has this metric; there are val/loss
summarize s over=seed  =>  over=seed: must be data
"""


def test_what_does_not_fit_is_refused_in_a_line(called, sweep, results):
    write(sweep / "accuracy", ["seed=0"], value=0.9, objective={"metric": "val/acc", "mode": "max"})
    write(sweep / "none", [], objective=None, status=None)
    write(sweep / "failed", ["seed=0"], status="failed")
    for typed, said in mistakes(MISTAKES):
        verb, *arguments = typed.replace("AB", "a=model=mlp b=model=moe").split()
        text = called({"compare": compare, "summarize": summarize}[verb], *arguments)
        assert re.fullmatch(f"leyden: .*{re.escape(said)}.*\n", text), (typed, text)

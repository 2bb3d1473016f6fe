"""`compare` and `summarize` of a table in a file."""

import functools
import json
import re

import pytest

from leyden import compare, summarize
from tests import mistakes
from tests.verdict.test_tables import table


@pytest.fixture
def results(tmp_path):
    rows = table()
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    (tmp_path / "results.csv").write_text("\n".join(lines))
    return tmp_path


def test_a_table_is_compared_and_summarised_by_the_verbs(called, results):
    sides = ("a=model=mlp and lr < 0.15", "b=model=cnn")
    text = called(compare, "results.csv", "metric=acc", *sides)
    assert "A  model=mlp lr=0.1" in text
    assert "Verdict: B is higher" in text
    ask = functools.partial(called, summarize, "results.csv", "metric=acc", "mode=max")
    assert "With 95 % confidence the best setting is row 1 or one marked ≈." in ask()
    found = json.loads(ask("format=json"))
    assert len(found["rows"]) == 6
    assert (found["rows"][0]["choices"]["model"], found["rows"][0]["like_best"]) == ("cnn", True)
    assert len(json.loads(ask("format=json", "over=lr"))["mean_ranks"]) == 3
    found = json.loads(called(compare, "results.csv", "metric=acc", *sides, "margin=1", "format=json"))
    assert (found["better"], found["is_same"], found["a"]["n"]) == ("b", True, 3)
    text = called(compare, "results.csv", "metric=lr:min,acc:max", "a=model=mlp", "b=model=cnn")
    assert re.findall(r"setting +(lr|acc)", text) == ["lr", "acc"]
    assert text.count("Verdict: ") == 2


def test_the_front_of_a_table(called, results):
    lines = ["model,fold,time,acc,size", "a,0,1,0_9,1", "a,0,3,0.9,00.5", "a,1,2,0.7,00.5", "b,0,1,0.6,2"]
    (results / "t.csv").write_text("\n".join(lines))
    ask = functools.partial(called, summarize, "t.csv", "front=acc:max,size:min", "seed=fold", "ignore=time")
    assert json.loads(ask("format=json")) == [
        {"model": "a", "n": 3, "acc": pytest.approx(10.6 / 3), "size": pytest.approx(2 / 3)}
    ]
    assert "over=x: has no effect on front=" in ask("over=x")
    assert "no column is named loss" in called(summarize, "t.csv", "front=acc:max,loss:min")
    assert "front: min or max is missing" in called(summarize, "t.csv", "front=acc:max,size")


def test_looks_at_a_table_are_counted_beside_it(called, results):
    ask = functools.partial(called, compare, "results.csv", "metric=acc", "a=model=mlp", "b=model=moe")
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
compare results.csv metric=acc  =>  a= is missing: the setting of this side
compare results.csv AB  =>  metric= is missing
compare results.csv metric=acc a=model=mlp b=x=1  =>  b: x is no column with a setting
compare results.csv metric=acc AB margin=x  =>  margin=x: must be a pos
compare results.csv metric=acc AB mode=up  =>  mode=up: must be min or max
compare . mode=max AB  =>  mode=max: is for a table in a file
compare results.csv metric=acc,lr AB margin=1  =>  margin=1: is of one metric; metric= names 2
compare results.csv metric=acc a=seed=0 b=model=moe  =>  a: seed is no column with a setting
summarize results.csv metric=acc  =>  mode=: must be min or max
summarize results.csv metric=acc mode=max over=data  =>  no column is named data
summarize results.csv metric=acc mode=max ignore=model,lr seed=no  =>  no column is named no
"""


@pytest.mark.parametrize(("typed", "said"), mistakes(MISTAKES))
def test_what_does_not_fit_a_table_is_refused_in_a_line(called, results, typed, said):
    verb, *arguments = typed.replace("AB", "a=model=mlp b=model=moe").split()
    text = called({"compare": compare, "summarize": summarize}[verb], *arguments)
    assert text.startswith("leyden: ")
    assert said in text
    assert len(text.splitlines()) == 1

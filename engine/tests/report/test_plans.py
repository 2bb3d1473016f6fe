"""`plan` of a sweep, by a pilot or a typed deviation; and forms of verdicts for a paper."""

import json
import re

import pytest

from leyden import compare, plan, summarize, verdict
from tests import mistakes, records
from tests.report.test_comparison import results  # noqa: F401 - a fixture
from tests.report.test_summary import grid, write
from tests.verdict.test_tables import GOOD, NEAR, over_sets, runs

TYPED = ("deviation=0.01", "settings=2")
A = {"model": "a"}
B = {"model": "b"}


def test_runs_a_table_or_a_typed_deviation_are_planned_by(called, tmp_path):
    grid(tmp_path / "s", {0.1: (0.3, 0.4, 0.5), 0.2: (0.3, 0.4, 0.5), 0.3: (0.9,)}, seconds=1800.0)
    found = json.loads(called(plan, "s", "difference=0.5", "format=json"))
    num_seeds = found["seeds"]
    assert found["deviation"] == pytest.approx(0.1)
    assert found["settings"] == 3
    (planned,) = [row for row in found["rows"] if row["seeds"] == num_seeds]
    assert planned["seen"] <= 0.5
    assert planned["hours"] == pytest.approx(num_seeds * 3 / 2)
    text = called(plan, "s", "difference=0.5")
    assert f"Run {num_seeds} seeds of each of 3 settings" in text
    assert "Add runs to the pilot: the deviation may be 1.9 times as large." in text
    records.write_table(tmp_path / "t.csv", [*runs("a", GOOD), *runs("b", GOOD)])
    text = called(plan, "t.csv", "metric=acc", "runs=12")
    assert "Run 6 seeds of each of 2 settings, 12 runs: then a difference of" in text
    wild = runs("wild", [1e5, 2e5, 3e5])
    records.write_table(tmp_path / "t.csv", [*runs("a", GOOD), *runs("b", GOOD), *wild])
    wild = called(plan, "t.csv", "metric=acc", "runs=12", "settings=2")
    assert wild == text.replace(
        "Run 6", "Left out of the pilot, as it diverges: model=wild.\nRun 6"
    )
    few = called(plan, *TYPED, "runs=8", "difference=0.001")
    assert "Allow more runs: these don't show a difference of 0.001." in few


def test_what_is_seen_grows_with_deviations_and_settings_and_shrinks_with_seeds():
    one = verdict.plan(1.0, settings=2, runs=40)
    twice = verdict.plan(2.0, settings=2, runs=40)
    assert twice.seen == {num: 2 * size for num, size in one.seen.items()}
    assert [*one.seen.values()] == sorted(one.seen.values(), reverse=True)
    assert verdict.plan(1.0, settings=5, runs=50).seen[10] > one.seen[10]
    needed = verdict.plan(1.0, settings=2, difference=one.seen[10])
    assert needed.num_seeds == 10


def test_the_looks_of_a_plan_share_the_error_rate(called, tmp_path):
    text = called(plan, *TYPED, "runs=12", "looks=2", "write=s")
    assert "Look after 3, 6 seeds: each look spends 2.4 % of the 5 %." in text
    assert records.content(tmp_path / "s", "plan.json")["looks_at"] == [3, 6]
    sides = ("s", "a=optimizer.lr=0.1", "b=optimizer.lr=0.2", "format=json")
    levels = []
    for num in (3, 4, 5):
        losses = (0.3, 0.4, 0.5, 0.6, 0.7)[:num]
        grid(tmp_path / "s", {0.1: losses, 0.2: losses[::-1]})
        found = json.loads(called(compare, *sides))
        levels.append(found["level"])
        assert f"Look {num - 2} of 2 planned (plan.json)" in " ".join(found["remarks"])
    assert levels == pytest.approx([0.02375, 0.02375, 0.00125])
    late = called(plan, *TYPED, "runs=12", "write=s")
    assert "results were looked at already, so a plan comes too late" in late
    (tmp_path / "s" / "plan.json").write_text('{"format": 1, "looks": -1}')
    assert "plan.json: looks= must be a whole number up to 20" in called(summarize, "s")


MISTAKES = """
plan  =>  either a pilot, a folder with runs or a table, or deviation= is needed
plan deviation=0  =>  deviation=0.0: must be a positive number
plan deviation=1  =>  difference= or runs= is missing
plan deviation=1 runs=5  =>  runs=5: 2 settings take 6 or more
plan deviation=1 runs=9 settings=1  =>  settings=1: must be from 2 to 100
plan deviation=1 runs=9 looks=99  =>  looks=99: must be at most 20
plan one difference=1  =>  the pilot has no deviation: it takes two runs
plan nowhere difference=1  =>  nowhere: there is no such folder
"""


def test_what_can_not_be_planned_is_a_line(called, tmp_path):
    write(tmp_path / "one", ["seed=0"], value=0.5)
    for typed, said in mistakes(MISTAKES):
        text = called(plan, *typed.split()[1:])
        assert re.fullmatch(f"leyden: .*{re.escape(said)}.*\n", text), (typed, text)


def test_a_verdict_is_printed_for_a_paper_and_drawn(called, results):  # noqa: F811
    sides = ("results.csv", "metric=acc", "mode=max", "a=model=mlp", "b=model=cnn")
    for verb, given in ((compare, sides), (summarize, sides[:3])):
        table = called(verb, *given)
        latex = called(verb, *given, "format=latex", "pdf=a.pdf").splitlines()
        first = table.splitlines()[1].split()
        for cell in {*first} - {"±", "≈"}:
            assert cell in latex[4]
        assert latex[:2] == [r"\begin{tabular}{llll}", r"\toprule"]
        assert r"95 \%" in "\n".join(latex) or verb is compare
        lines = called(verb, *given, "format=markdown").splitlines()
        assert lines[1] == "|---|---|---|---|"
        assert (results / "a.pdf").read_bytes().startswith(b"%PDF")
        (results / "a.pdf").unlink()
        assert "remarks" in json.loads(called(verb, *given, "format=json"))
    assert "pdf=no/a.pdf: can't be written" in called(compare, *sides, "pdf=no/a.pdf")
    records.write_table(results / "sets.csv", over_sets(6))
    over = ("sets.csv", "metric=acc", "mode=max", "over=data")
    called(summarize, *over, "pdf=ranks.pdf")
    assert (results / "ranks.pdf").read_bytes().startswith(b"%PDF")
    found = json.loads(called(compare, *over, "a=model=a", "b=model=b", "format=json"))
    assert [*found["sets"]] == [f"d{number}" for number in range(6)]
    few = called(summarize, *sides[:3], "over=lr", "pdf=few.pdf")
    assert "pdf: too few data sets have all settings" in few


HOSTILE = {
    "latex": (
        [r"\textbar{}", r"\textless{}b", r"{}[x", r"\textbackslash{}input\{/etc\}"],
        r"\input",
    ),
    "markdown": ([r"\|", r"\<b\>", r"\[x", r"\`", r"\\input"], "<b>"),
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_tables_names_are_text_in_a_paper(form):
    rows = []
    for data in (r"\input{/etc}", "[x|y](z)`<b>"):
        for model in ("[x](y)", r"\|", "<b>"):
            rows += [{"[x": model, "[data": data, "n": row["acc"]} for row in runs(model, GOOD)]
    shown = verdict.rank(rows, "n", mode="max", over="[data", seed=None).in_format(form)
    escaped, raw = HOSTILE[form]
    assert [each for each in escaped if each not in shown] == []
    assert raw not in shown


def test_verdicts_are_rows_of_a_data_frame():
    rows = [*runs("a", GOOD), *runs("b", NEAR), *runs("c", GOOD[::-1])]
    (one,) = verdict.compare(rows, "acc", A, B, mode="max").rows()
    assert one["low"] < one["difference"] < one["high"]
    assert one["a"] == "model=a"
    assert one["better"] == "a"
    assert one["n_a"] == 5
    _, second, last = verdict.rank(rows, "acc", mode="max").rows()
    assert last["model"] == "b"
    assert last["high"] < 0 < second["high"]
    controlled = verdict.compare_with_control(rows, "acc", A, mode="max").rows()
    assert [row["b"] for row in controlled] == ["model=a"] * 2
    sets = verdict.compare(over_sets(6), "acc", A, B, mode="max", over="data").rows()
    assert [row["over"] for row in sets] == ["d0", "d1", "d2", "d3", "d4", "d5"]


def test_interquartile_means_and_the_next_run():
    good = [0.9, 0.91, 0.92, 0.93, 0.94, 0.95, 0.96, 0.1]  # one collapsed
    worse = [0.82, 0.83, 0.84, 0.85, 0.86, 0.87, 0.88, 0.85]
    rows = [*runs("a", good), *runs("b", worse)]
    assert verdict.compare(rows, "acc", A, B, mode="max").found.better == ""
    found = verdict.compare(rows, "acc", A, B, mode="max", estimand="iqm")
    assert found.found.better == "a"
    text = str(found)
    assert "Compared are interquartile means, of the middle half of the runs: A 0.9250" in text
    assert "Expect A's next run to beat B's in 88 %: 56 of 64 pairs do." in text
    rows = [*runs("a", GOOD), *runs("b", NEAR)]
    few = verdict.compare(rows, "acc", A, B, estimand="iqm")
    assert "n too small to tell; at least 8 of each are needed" in str(few)
    with pytest.raises(verdict.TableError, match="estimand=median: must be mean or iqm"):
        verdict.compare(rows, "acc", A, B, estimand="median")

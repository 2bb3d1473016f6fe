"""The list of runs: what it says of each, in which order, and what differs between two of them."""

import csv
import functools
import io
import json
import os
import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from leyden import runs
from leyden.base.errors import UserError
from leyden.config.values import ABSENT
from leyden.run.conditions import parse_condition
from leyden.run.lock import hold_directory
from leyden.run.record import read_summary
from tests import mistakes, records
from tests.report.test_summary import write


@pytest.fixture
def call(called, monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "root", lambda: tmp_path)
    return functools.partial(called, runs)


@pytest.fixture
def three(tmp_path):
    for number, lr in enumerate((0.1, 0.01, 0.02)):
        overrides = [f"optimizer.lr={lr}", f"seed={number}", "run_dir=x"]
        write(tmp_path / "outputs" / f"r{number}", overrides, value=0.5 - lr)
    write(tmp_path / "outputs" / "sub" / "new", ["optimizer.lr=0.5"], status=None)
    # Links are not followed.
    (tmp_path / "outputs" / "latest").symlink_to("r2")
    (tmp_path / "outputs" / "circle").symlink_to("circle")
    return tmp_path / "outputs"


CHOSEN = """
sort=optimizer.lr  =>  r1 r2 r0 new
sort=-optimizer.lr  =>  new r0 r2 r1
sort=objective  =>  r0 r2 r1 new
sort=seed where=optimizer.lr<0.05  =>  r1 r2
sort=seed where=model.hidden_sizes=[512]  =>  r0 new r1 r2
where=objective>9  =>  -
sort=val/loss where=val/loss>0.45  =>  r2 r1
where=objective>0.45 and optimizer.lr!=0.02  =>  r1
"""
MISTAKES = """
nowhere  =>  nowhere: there is no such folder; beside it are outputs
outputs/sub/new/checkpoints  =>  there is no such folder
sort=optimizer.lt  =>  sort: no run has optimizer.lt; did you mean optimizer.lr?
format=xml  =>  format=xml: must be one of table, json, csv
a b  =>  b: at most 1 folder can be given
sort=age sort=seed  =>  sort=seed: sort is given twice
diff=[outputs/r0,outputs/r1] sort=seed  =>  diff: can't be combined
diff=[outputs/r0]  =>  diff: must be two run directories
diff=[outputs/r0,outputs/none]  =>  not a run directory
"""


def names_of(rows):
    return [Path(row["directory"]).name for row in rows]


@pytest.mark.parametrize(("typed", "names"), mistakes(CHOSEN))
def test_runs_are_sorted_and_chosen_from(call, three, typed, names):
    found = json.loads(call("format=json", *re.split(" (?=where)", typed)))
    assert names_of(found) == names.strip("-").split()


def test_what_can_not_be_listed_is_a_line(call, three):
    for typed, message in mistakes(MISTAKES):
        assert re.fullmatch(f"leyden: .*{re.escape(message)}.*\n", call(*typed.split())), typed
    old = three / "r0" / "old"
    old.mkdir()
    assert "there is no run in or below it" in call("outputs/r0/old")


def test_a_loss_that_is_no_number_comes_last_and_spoils_no_json(call, three):
    path = three / "r1" / "run.json"
    path.write_text(path.read_text().replace("0.49", "NaN"))
    found = json.loads(call("format=json", "sort=-val/loss"))
    assert names_of(found) == ["r2", "r0", "r1", "new"]
    assert found[2]["objective"] is None


KEYS = ["epochs", "val/loss", "optimizer.lr"]
COLUMNS = ["directory", "status", "age_s", "far", "objective", "typed", "note", "tags"]


def test_each_run_is_a_line_with_what_is_asked_for(call, three):
    asked = ("where=val/loss >= 0.4 and epochs = 3", "sort=-optimizer.lr", "outputs")
    head, first, *_ = call(*asked).splitlines()
    assert head.split() == ["run", "status", "age", "how", "far", "objective", *KEYS, "typed"]
    assert first.split()[-5:] == ["3", "0.4", "0.1", "optimizer.lr=0.1", "seed=0"]
    found = json.loads(call(*asked, "format=json"))
    columns = [*found[0]]
    assert columns[:8] == COLUMNS
    for row, values in zip(found, ([3, 0.4, 0.1], [3, 0.48, 0.02], [3, 0.49, 0.01]), strict=True):
        assert [row[key] for key in KEYS] == values
    head, *rows = csv.reader(io.StringIO(call(*asked, "format=csv")))
    assert head == columns
    assert [row[head.index("val/loss")] for row in rows] == ["0.4", "0.48", "0.49"]


def test_each_run_is_a_line_with_what_was_typed(call, three):
    records.put(three / "r2", result=records.content(three / "r2") | {"epochs": 1})
    text = re.sub(" +", " ", call("sort=objective"))
    head, first, second, _, last = text.splitlines()
    assert head == "run status age how far objective typed"
    assert re.fullmatch(r"outputs/r0 finished .* 3 epochs 0\.4000 optimizer\.lr=0\.1 seed=0", first)
    assert " 1 epoch " in second
    assert last.startswith("outputs/sub/new interrupted")


def test_a_gap_is_no_value_and_null_is_one(call, three):
    new = three / "sub" / "new2"
    write(new, ["optimizer.lr=3"], status=None)
    records.put(new, config={"objective": None, "remark": None, "optimizer": {"lr": 3}})
    for condition, value in (("optimizer.lr = 3", "null"), ("optimizer.lr < 0.02", "")):
        asked = ("sort=remark", f"where={condition}")
        assert call(*asked).count("null") == bool(value)
        (line,) = csv.DictReader(io.StringIO(call(*asked, "format=csv")))
        assert line["remark"] == value


def test_a_run_that_lives_has_its_age_and_its_last_step(call, three):
    run = three / "sub" / "new"

    def found():
        return json.loads(call("format=json", str(run)))[0]

    begun = datetime.now(timezone.utc) - timedelta(seconds=10_000)
    records.put(run, starts=[{"overrides": [], "time": begun.isoformat(timespec="seconds")}])
    curves = run / "metrics.csv"
    curves.write_text("step,metric,value\n0,train/loss,1.0\n99,train/loss,1.0\n")
    with hold_directory(run, 1):
        row = found()
    assert row["status"] == "running"
    assert row["far"] == "step 99"
    assert row["age_s"] == pytest.approx(10_000, abs=60)
    # After an epoch it is known how many steps there are.
    with curves.open("a") as file:
        file.write("99,val/loss,0.5\n149,train/loss,0.7\n")
    num = read_summary(str(run)).config["trainer.max_epochs"] * 100
    far = f"step 149 of {num}, val/loss 0.5000"
    before = time.time() - 3000
    for path in (curves, run / "starts.json"):
        os.utime(path, (before, before))
    assert found()["far"] == far
    # One that lives and writes nothing may stand still.
    with hold_directory(run, 1):
        assert found()["far"] == f"{far}, nothing logged for 50 min"


def test_what_differs_is_told_by_part(call, three):
    text = " ".join(call("diff=[outputs/r0,outputs/r1]").split())
    assert "configuration seed 0 1 configuration data.seed 0 1 " in text
    assert "objective" not in text
    assert "nothing differs" in call("diff=[outputs/r0,outputs/r0]")
    first, *_ = json.loads(call("diff=[outputs/r0,outputs/r1]", "format=json"))["differences"]
    assert first == {"part": "configuration", "key": "seed", "a": 0, "b": 1}


RUN = {
    "val/acc": 0.98,
    "optimizer.lr": 0.001,
    "status": "finished",
    "model": "a b",
    "note": None,
    "test": True,
    "n": 3,
    "sizes": [1, 2],
    "huge": 10**400,
    "mixed": [True, None],
    "nested": [[False], 1e-5],
}
MET = """val/acc > 0.97; model = 'a b'; note = null; test = true; n=3 and status=finished and 'model' = 'a b'
sizes = [1,2]; sizes = '[1, 2]'; mixed=[true,null]; mixed ~ true; nested=[[false],1e-05]"""
NOT_MET = "val/acc>0.97 and optimizer.lr<1e-4; note < 1; nothing != 1; status < 1; sizes = '[1]'; huge > 1"
NO_CONDITIONS = """
val/acc  =>  val/acc is no comparison
n = 3 or n = 4  =>  n = 3 or n = 4 is no comparison; `and` joins comparisons
val/acc < high  =>  < compares with a number, which high is not
val/acc > 'x  =>  val/acc > 'x is no comparison
__import__('os').system('x') = 1  =>  is no comparison
"""


def test_what_a_condition_means_and_what_is_none():
    for texts, holds in ((MET, True), (NOT_MET, False)):
        for text in re.split("; |\n", texts):
            condition, *_ = parse_condition(text)
            assert condition(lambda key: RUN.get(key, ABSENT)) is holds, text
    for text, message in [*mistakes(NO_CONDITIONS), ("", "it is no comparison")]:
        with pytest.raises(UserError, match=f"^where=.*{re.escape(message)}"):
            parse_condition(text)

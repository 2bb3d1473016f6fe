"""The list of runs: what it says of each, in which order, and what differs between two of them."""

import contextlib
import csv
import functools
import io
import json
import os
import re
import time

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
    for name, target in (("latest", "r2"), ("circle", "circle")):  # links are not followed
        (tmp_path / "outputs" / name).symlink_to(target)
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


def test_runs_are_sorted_and_chosen_from_and_what_has_no_value_comes_last(call, three):
    for typed, names in mistakes(CHOSEN):
        found = json.loads(call("format=json", *re.split(" (?=where)", typed)))
        assert [row["directory"].rpartition("/")[2] for row in found] == names.strip("-").split(), (
            typed
        )
    for typed, message in mistakes(MISTAKES):
        assert re.fullmatch(f"leyden: .*{re.escape(message)}.*\n", call(*typed.split())), typed
    (old := three / "r0" / "old").mkdir()
    assert "there is no run in or below it" in call("outputs/r0/old")
    (old / "provenance.json").touch()
    assert f"skipped: {old} is a run of an earlier Leyden, which had no run.json; commit" in call(
        "outputs/r0/old"
    )
    path = three / "r1" / "run.json"
    path.write_text(path.read_text().replace("0.49", "NaN"))  # a loss, which spoils no JSON
    found = json.loads(call("format=json", "sort=-val/loss"))
    assert [row["directory"].rpartition("/")[2] for row in found] == ["r2", "r0", "r1", "new"]
    assert found[2]["objective"] is None


def test_each_run_is_a_line_with_what_was_typed_and_what_is_asked_for(call, three):
    asked = ("where=val/loss >= 0.4 and epochs = 3", "sort=-optimizer.lr", "outputs")
    keys = ["epochs", "val/loss", "optimizer.lr"]
    (head, first, *_) = call(*asked).splitlines()
    assert head.split() == ["run", "status", "age", "how", "far", "objective", *keys, "typed"]
    assert first.split()[-5:] == ["3", "0.4", "0.1", "optimizer.lr=0.1", "seed=0"]
    found = json.loads(call(*asked, "format=json"))
    assert [*found[0]][:8] == [
        "directory",
        "status",
        "age_s",
        "far",
        "objective",
        "typed",
        "note",
        "tags",
    ]
    assert [[row[key] for key in keys] for row in found] == [
        [3, 0.4, 0.1],
        [3, 0.48, 0.02],
        [3, 0.49, 0.01],
    ]
    table = csv.DictReader(io.StringIO(call(*asked, "format=csv")))
    assert [row["val/loss"] for row in table] == ["0.4", "0.48", "0.49"]
    assert [*table.fieldnames] == [*found[0]]
    records.put(three / "r2", result={**records.content(three / "r2"), "epochs": 1})
    head, first, second, _, last = (
        " ".join(line.split()) for line in call("sort=objective").splitlines()
    )
    assert head == "run status age how far objective typed"
    assert re.fullmatch(r"outputs/r0 finished .* 3 epochs 0\.4000 optimizer\.lr=0\.1 seed=0", first)
    assert " 1 epoch " in second
    assert last.startswith("outputs/sub/new interrupted")
    # A gap is no value, and null is one.
    write(three / "sub" / "new2", ["optimizer.lr=3"], status=None)
    records.put(
        three / "sub" / "new2", config={"objective": None, "remark": None, "optimizer": {"lr": 3}}
    )
    for condition, value in (("optimizer.lr = 3", "null"), ("optimizer.lr < 0.02", "")):
        assert call("sort=remark", f"where={condition}").count("null") == bool(value)
        (line,) = csv.DictReader(
            io.StringIO(call("sort=remark", f"where={condition}", "format=csv"))
        )
        assert line["remark"] == value
    # A run that lives has its age and its last step.
    run = three / "sub" / "new"
    zone = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 10_000))
    records.put(run, starts=[{"overrides": [], "time": zone}])
    (run / "metrics.csv").write_text(
        "step,metric,value\n" + "".join(f"{n},train/loss,1.0\n" for n in range(100))
    )
    with hold_directory(run, 1):
        (found,) = [
            each for each in json.loads(call("format=json")) if each["directory"] == str(run)
        ]
    assert (found["status"], found["far"]) == ("running", "step 99")
    assert found["age_s"] == pytest.approx(10_000, abs=60)
    # After an epoch it is known how many steps there are; a run that lives and writes nothing may stand still.
    with (run / "metrics.csv").open("a") as file:
        file.write("99,val/loss,0.5\n149,train/loss,0.7\n")
    before = time.time() - 3000
    for name in ("metrics.csv", "starts.json"):
        os.utime(run / name, (before, before))
    num = read_summary(str(run)).config["trainer.max_epochs"] * 100
    for is_held, end in ((True, ", nothing logged for 50 min"), (False, "")):
        with hold_directory(run, 1) if is_held else contextlib.nullcontext():
            rows = json.loads(call("format=json"))
        (far,) = [each["far"] for each in rows if each["directory"] == str(run)]
        assert far == f"step 149 of {num}, val/loss 0.5000{end}"


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
}
RUN |= {"n": 3, "sizes": [1, 2], "huge": 10**400, "mixed": [True, None], "nested": [[False], 1e-5]}
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
            assert parse_condition(text)[0](lambda key: RUN.get(key, ABSENT)) is holds, text
    for text, message in [*mistakes(NO_CONDITIONS), ("", "it is no comparison")]:
        with pytest.raises(UserError, match=f"^where=.*{re.escape(message)}"):
            parse_condition(text)

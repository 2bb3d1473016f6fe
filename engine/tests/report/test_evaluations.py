"""The list of test evaluations: one record each, whatever stands in it, and what reports say of it."""

import itertools
import json
import re
import shutil

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden import compare, summarize
from leyden.report.outcome import print_result
from leyden.report.records import (
    EVALUATIONS_HEADER,
    TEST_EVALUATIONS_FILE,
    read_test_evaluations,
    record_test_evaluation,
)
from leyden.run.directory import Run
from tests import records
from tests.conftest import QUICK, here
from tests.records import forget_result
from tests.report.test_summary import write


def add(place, *overrides, named="x", value=0.75):
    """A run that was evaluated on the test set; returns its experiment's number of evaluations."""
    stages = {"test": ["test/acc"]}
    write(place, [f"name={named}", *overrides], value=0.5, more={"test/acc": value}, stages=stages)
    return record_test_evaluation(str(place.parent), Run(place), "best", {"test/acc": value})


@given(st.binary(max_size=40))
@example(b"x" * 200_000)
def test_whatever_stands_in_the_list_the_next_evaluation_is_read(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("outputs")
    header = ",".join(EVALUATIONS_HEADER).encode() + b"\r\n"
    path = folder / TEST_EVALUATIONS_FILE
    path.write_bytes(header + damage)
    records.put(folder / "x", config={"name": "x"})
    record_test_evaluation(str(folder), Run(folder / "x"), "best", {"test/acc": 0.75})
    assert path.read_bytes().startswith(header)
    assert read_test_evaluations(folder)[-1][3:] == ["best", '{"test/acc": 0.75}']


def test_evaluations_are_counted_by_experiment_also_in_a_copy_and_a_folder_that_was_moved(
    called, tmp_path
):
    def said(verb, *arguments):
        remarks = json.loads(called(verb, *arguments, "format=json"))["remarks"]
        lines = called(verb, *arguments).splitlines()
        found = [line for line in lines if "Test evaluations" in line]
        assert found == [line for line in remarks if "est evaluations" in line]
        return found

    theirs = tmp_path / "theirs"
    for n in range(2):
        assert add(theirs / f"x{n}", f"optimizer.lr={n + 1}", value=0.5 * n) == n + 1
        write(theirs / "sweep" / str(n), [f"seed={n}", "name=z"], value=0.5)
    assert add(theirs / "y", named="y") == 1
    shutil.copytree(theirs / "y", tmp_path / "ours" / "copied")
    add(tmp_path / "ours" / "x2", "optimizer.lr=3")
    rows = records.table(theirs / TEST_EVALUATIONS_FILE)
    assert [*rows[0]] == ["time", "experiment", "run", "checkpoint", "metrics"]
    assert [row["experiment"] for row in rows] == ["x", "x", "y"]
    measured = [json.loads(row["metrics"]) for row in rows]
    assert measured == [{"test/acc": 0.0}, {"test/acc": 0.5}, {"test/acc": 0.75}]
    theirs.rename(tmp_path / "moved")
    for arguments, folder, nums in (
        ((summarize, "moved/x0"), "moved", "x 2"),
        ((compare, "moved/x0", "moved/x1"), "moved", "x 2"),
        ((summarize, "moved"), "moved", "x 2, y 1"),
        ((summarize, "ours"), "ours", "x 1"),
    ):
        place = tmp_path / folder / TEST_EVALUATIONS_FILE
        assert said(*arguments) == [f"Test evaluations so far: {nums} ({place})"]
    assert said(compare, "moved/sweep/0", "moved/sweep/1") == []
    path = tmp_path / "ours" / TEST_EVALUATIONS_FILE
    path.unlink()
    path.mkdir()
    assert f"{path} can't be read" in called(summarize, "ours", code=0)


@pytest.mark.parametrize(
    ("by", "typed"),
    [
        ("fast_dev_run", "+debug=fast"),
        ("limit_test_batches", "trainer.limit_test_batches=3"),
    ],
)
def test_a_part_of_the_test_set_is_no_test_evaluation(command, train, tmp_path, by, typed):
    few = (*QUICK, "trainer.max_epochs=1", "data.eval_batch_size=1000", "test=auto")
    run, out, _ = train("run", *few, typed)
    said = "=3: 3 of 10 test batches are not a test evaluation, and are not recorded as one\n"
    assert f"trainer.{by}{said}" in out
    assert not run.result.is_tested
    for name in run.result.metrics:
        assert not name.startswith("test/")
    assert read_test_evaluations(tmp_path / "outputs") == []
    out, _ = command("evaluate", f"run={run.directory}")
    # A try's weights are evaluated on the whole test set, as those of any run.
    is_try = by == "fast_dev_run"
    assert ("Test evaluations so far: mnist_mlp 1" in out) == is_try
    assert (said in out) != is_try
    assert len(read_test_evaluations(tmp_path / "outputs")) == is_try


@pytest.mark.slow(minutes=0.1)
def test_all_runs_of_a_row_are_one_test_evaluation_and_nothing_is_selected_by_it(
    command, tmp_path, capfd
):
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    few = (*QUICK, "trainer.max_epochs=1", "name=x")

    def evaluated(*typed):
        out, _ = command("evaluate", *typed, "format=json")
        return json.loads(out)

    for seed in range(3):
        seeded = (*few, f"seed={seed}")
        good = f"run_dir={sweep / f'good_{seed}'}"
        command("train", good, *seeded, "optimizer.lr=1e-2", "test=false")
        bad = f"run_dir={sweep / f'bad_{seed}'}"
        out, _ = command("train", bad, *seeded, "optimizer.lr=1e-9", "test=true")
        assert f"Test evaluations so far: x {seed + 1}" in out
    out, _ = command("evaluate", f"runs={sweep}")
    assert re.search(r"test/acc\s+0\.\d{4} \(95 % interval 0\.\d{4} to 0\.\d{4}, n = 3\)", out)
    assert f"{sweep} row 1 (optimizer.lr=0.01), 3 of 3 runs" in " ".join(out.split())
    assert "Test evaluations so far: x 4" in out
    *_, metrics = read_test_evaluations(tmp_path / "outputs")[-1]
    each = []
    for seed in range(3):
        found = evaluated(f"run={sweep / f'good_{seed}'}")
        each.append(found["metrics"]["test/acc"])
    assert json.loads(metrics)["test/acc"] == pytest.approx(sum(each) / 3)
    of_row = evaluated(f"runs={sweep}")
    assert of_row["metrics"]["test/acc"] == each
    assert of_row["test_evaluations"] == 8
    _, err = command("evaluate", f"runs={sweep}", "row=3", code=2)
    assert f"row=3: {sweep} has rows 1 to 2" in err
    for verb, *arguments in (
        ("runs", "sort=-test/acc"),
        ("compare", "a=test/acc > 0.1", "b=seed=1"),
        ("compare", "a=seed=0", "b=seed=1", "metric=test/acc", "mode=max"),
    ):
        assert here(verb, str(sweep), *arguments) == 2
        err = capfd.readouterr().err
        assert "is a metric of the test set, by which nothing may be selected" in err


def test_exploring_leaves_the_test_set_alone(train, tmp_path, small_root):
    few = (*QUICK, "trainer.max_epochs=1", "test=auto")
    first = tmp_path / "first"

    def said(place, *typed):
        run, out, _ = train(place, *few, *typed)
        lines = re.findall("^not evaluated on the test set: .*", out, re.MULTILINE)
        assert "dry_run=true" in typed or len(lines) == (not run.result.is_tested)
        return "".join(lines)

    assert said("first") == ""
    already = rf".*: mnist_mlp was already, at 20.* \({first}\); test=true evaluates again"
    assert re.fullmatch(already, said("seed", "seed=1"))
    assert re.fullmatch(already, said("optimizer", "optimizer.lr=0.1"))
    assert "mnist_mlp was already" in said("fork", f"fork={first}", "trainer.max_epochs=2")
    tuned = ("tuned", "name=tuned", f"init_from={first}")
    assert said(*tuned).endswith(f"init_from={first} was already; test=true evaluates again")
    other = ("data=fashion_mnist", f"data.root={small_root}", "data.val_size=5000", "dry_run=true")
    assert said("other", *tuned[1:], *other) == ""
    assert said("asked", "test=true") == ""
    assert "mnist_mlp was already" in said("first", "trainer.max_epochs=2")
    assert len(read_test_evaluations(tmp_path / "outputs")) == 2


def test_a_run_that_was_killed_after_its_test_evaluation_makes_it_again(train):
    few = (*QUICK, "trainer.max_epochs=1", "test=auto")
    run, *_ = train("a", *few)
    whole = run.result.metrics
    forget_result(run.directory)
    train("a", *few)
    assert run.result.metrics == whole


def test_of_several_seeds_that_were_tested_the_mean_is_to_be_reported(tmp_path, capsys):
    for lr, seed in itertools.product((1, 2), range(3)):
        place = tmp_path / f"{lr}{seed}"
        add(place, f"optimizer.lr={lr}", f"seed={seed}")
        run = Run(place)
        print_result(run, run.result, show_next_steps=False)
    out = capsys.readouterr().out
    said = re.findall(r"(\d) seeds of this setting were tested: report their mean", out)
    assert said == ["2", "3", "2", "3"]

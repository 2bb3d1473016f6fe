"""The list of test evaluations: one record each, whatever a name holds and wherever a process is killed."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from leyden.report.records import HEADER, TEST_EVALUATIONS_FILE, read_test_evaluations, record_test_evaluation
from leyden.run.directory import Run
from tests import records
from tests.conftest import QUICK, here


def record(folder, name="x", value=0.75):
    """Record an evaluation of a run, of whose configuration the list needs the name alone."""
    run = Run(folder / name)
    records.put(run.directory, config={"name": name})
    return record_test_evaluation(str(folder), run, "best", {"test/acc": value})


def test_the_columns_of_the_list_and_the_number_of_an_experiment(tmp_path):
    assert [record(tmp_path, *each) for each in (("x", 0.5), ("y", 0.75), ("x", 0.25))] == [1, 1, 2]
    rows = records.table(tmp_path / TEST_EVALUATIONS_FILE)
    assert [list(row) for row in rows] == [["time", "experiment", "run", "checkpoint", "metrics"]] * 3
    assert [row["metrics"] for row in rows] == [f'{{"test/acc": {value}}}' for value in (0.5, 0.75, 0.25)]
    assert [row["experiment"] for row in rows] == ["x", "y", "x"]


@given(st.binary(max_size=40))
@example(b"x" * 200_000)
def test_whatever_stands_in_the_list_the_next_evaluation_is_read(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("outputs")
    header = ",".join(HEADER).encode() + b"\r\n"
    (folder / TEST_EVALUATIONS_FILE).write_bytes(header + damage)
    record(folder)
    assert (folder / TEST_EVALUATIONS_FILE).read_bytes().startswith(header)
    assert read_test_evaluations(folder)[-1][3:] == ["best", '{"test/acc": 0.75}']


@pytest.mark.parametrize(
    ("argument", "by"), [("+debug=fast", "fast_dev_run"), ("trainer.limit_test_batches=3", "limit_test_batches")]
)
def test_a_part_of_the_test_set_is_no_test_evaluation(command, train, tmp_path, argument, by):
    said = f"trainer.{by}=3: 3 of 10 test batches are not a test evaluation, and are not recorded as one\n"
    few = (*QUICK, "trainer.max_epochs=1", "data.eval_batch_size=1000")
    run, out, _ = train("run", *few, argument, "test=auto")
    assert said in out
    assert not run.result.is_tested
    assert not any(name.startswith("test/") for name in run.result.metrics)
    assert read_test_evaluations(tmp_path / "outputs") == []
    out, _ = command("evaluate", f"run={run.directory}")
    if "fast" in argument:  # a try's weights are evaluated on the whole test set, as those of any run
        assert "Test evaluations so far: mnist_mlp 1" in out
    else:
        assert said in out
        assert read_test_evaluations(tmp_path / "outputs") == []


@pytest.mark.slow(minutes=0.1)
def test_all_runs_of_a_row_are_one_test_evaluation_and_nothing_is_selected_by_it(cli, command, tmp_path, capfd):
    sweep, tested = tmp_path / "outputs" / "sweeps" / "s", []
    for lr in ("1e-2", "1e-9"):
        for seed in range(3):
            directory = sweep / f"{lr}_{seed}"
            typed = (f"optimizer.lr={lr}", f"seed={seed}", f"test={str(lr == '1e-9').lower()}", "name=x")
            out, err = command("train", f"run_dir={directory}", *QUICK, "trainer.max_epochs=1", *typed)
            tested += [line for line in out.splitlines() if line.startswith("Test evaluations")]
    assert [line.partition(" (")[0] for line in tested] == [f"Test evaluations so far: x {n}" for n in (1, 2, 3)]
    out, err = command("evaluate", f"runs={sweep}")
    assert re.search(r"test/acc\s+0\.\d{4} \(95 % interval 0\.\d{4} to 0\.\d{4}, n = 3\)", out)
    assert f"{sweep} row 1 (optimizer.lr=0.01), 3 of 3 runs" in " ".join(out.split())
    assert "Test evaluations so far: x 4" in out
    row = read_test_evaluations(tmp_path / "outputs")[-1]
    texts = [cli("evaluate", f"run={sweep / f'1e-2_{seed}'}", "format=json")[1] for seed in range(3)]
    each = [json.loads(text)["metrics"]["test/acc"] for text in texts]
    assert json.loads(row[4])["test/acc"] == pytest.approx(sum(each) / 3)
    of_row = json.loads(cli("evaluate", f"runs={sweep}", "format=json")[1])
    assert (of_row["metrics"]["test/acc"], of_row["test_evaluations"]) == (each, 8)
    assert f"row=3: {sweep} has rows 1 to 2" in command("evaluate", f"runs={sweep}", "row=3", code=2)[1]
    _, err = command("evaluate", f"runs={sweep}", f"run={sweep}", code=2)
    assert "run=DIR, or runs=DIR with row=NUMBER, must be given" in err
    for verb, *arguments in (
        ("runs", str(sweep), "sort=-test/acc"),
        ("compare", str(sweep), "a=test/acc > 0.1", "b=seed=1"),
        ("compare", str(sweep), "a=seed=0", "b=seed=1", "metric=test/acc", "mode=max"),
    ):
        assert here(verb, *arguments) == 2
        assert "is a metric of the test set, by which nothing may be selected" in capfd.readouterr().err

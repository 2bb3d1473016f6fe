"""Which jobs are built before the first one starts, and where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.sweep import sweep
from leyden.sweep.space import MAX_NUMBERS
from tests.conftest import QUICK, start
from tests.forks import TIMEOUT_S

values = st.one_of(st.integers(-5, 60).map(str), st.sampled_from(["a", "b"]))
settings = st.lists(st.dictionaries(st.sampled_from(["x", "y", "z"]), values), max_size=120)


@given(settings)
def test_each_value_is_in_a_job_that_is_built(found):
    chosen = sweep.covering_subset(found)
    assert chosen == sorted({*chosen})
    if len(found) <= sweep.MAX_CHECKED:
        assert chosen == list(range(len(found)))
    for key in ("x", "y", "z"):
        there = {each[key] for each in found if key in each}
        built = {found[n][key] for n in chosen if key in found[n]}
        if len(there) > MAX_NUMBERS and there.isdisjoint("ab"):
            numbers = [*map(int, there)]
            assert {min(numbers), max(numbers)} <= {*map(int, built)}
        else:
            assert built == there


def test_of_many_jobs_few_are_built():
    grid = [{"seed": str(seed), "lr": lr, "model": m} for seed in range(100) for lr in "123" for m in "ab"]
    assert len(sweep.covering_subset(grid)) <= 12


def test_of_many_jobs_the_one_that_is_wrong_is_found(cli, tmp_path):
    many = "optimizer.lr=" + ",".join(f"0.{number:03}" for number in range(1, 21))
    code, _, err = cli("train", "-m", *QUICK, many, "model.dropout=0.5,2.0")
    assert code == 2
    assert err.startswith("leyden: job ")
    assert "dropout=2.0" in err
    assert not list(tmp_path.rglob("config.yaml"))


@pytest.mark.slow
def test_the_first_process_needs_no_pytorch_and_a_bug_is_shown_by_its_line(tmp_path, mnist_root):
    code = f"""
import json, sys
sys.argv = ["train", "-m", "seed=0,1", "outputs={tmp_path}", *{QUICK!r}, "trainer.max_epochs=1", *sys.argv[1:]]
from leyden.train import main
try:
    main()
finally:
    print("torch" in sys.modules)
"""
    output, _ = start(script=("-c", code), anew=True).communicate(timeout=TIMEOUT_S)
    assert output.splitlines()[-1] == "False"
    assert "2/2 jobs, 0 failed" in output
    buggy = ("~model.hidden_sizes", "~model.dropout", "+model.hidden=1", "model._target_=tests.sweep.buggy.NotMade")
    process = start(*buggy, script=("-c", code), anew=True)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "Traceback" not in output
    (line,) = [each for each in output.splitlines() if each.startswith("leyden: ")]
    assert "model: KeyError: 1 (" in line
    assert "tests/sweep/buggy.py:" in line


@pytest.mark.slow
def test_a_data_set_is_read_once_for_all_jobs(tmp_path):
    process = start(
        "-m",
        "seed=0,1,2,3,4,5,6,7",
        f"outputs={tmp_path}",
        "trainer.max_epochs=1",
        "data.dataset._target_=tests.sweep.counted.Counted",
        f"+data.dataset.log={tmp_path / 'log'}",
        "data.val_size=10",
        "cluster.num_jobs=2",
        anew=True,
    )
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert "8/8 jobs, 0 failed" in output
    # And once more before, to see what reading starts.
    assert len((tmp_path / "log").read_text().splitlines()) == 2

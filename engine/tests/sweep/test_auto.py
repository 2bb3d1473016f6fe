"""`sweep.seeds=auto`: seeds go to the settings that may be the best, also over kills, and within the counted looks."""

import csv
import json
import time
from collections import Counter

import pytest

from tests import mistakes
from tests.conftest import finish
from tests.sweep.test_sweep import runs, sweep, table

AUTO = ("optimizer.lr=1e-7,0.0019,0.002", "sweep.seeds=auto", "sweep.max_runs=16", "sweep.pictures=none")


@pytest.mark.slow
def test_further_seeds_go_to_settings_that_may_be_the_best_also_after_a_kill(tmp_path, mnist_root):
    process = sweep(tmp_path, *AUTO)
    while (
        process.poll() is None and len([*(tmp_path / "sweeps" / "s").glob("*/run.json")]) < 11
    ):  # in the second round
        time.sleep(0.05)
    process.kill()
    process.communicate()
    output = finish(sweep(tmp_path, *AUTO))
    seeds = Counter(lr for lr, _ in runs(tmp_path))
    assert seeds == {1e-7: 3, 0.0019: 6, 0.002: 6}
    with (tmp_path / "sweeps" / "s" / "looks.csv").open() as file:
        assert [(row["look"], row["runs"]) for row in csv.DictReader(file)] == [("1", "9"), ("2", "15")]
    assert json.loads((tmp_path / "sweeps" / "s" / "sweep.json").read_text())["excluded"] == ["optimizer.lr=1e-07"]
    assert table(tmp_path)[-1]["like_best"] == "no"
    assert "Look 2 at these settings (looks.csv)" in output
    # The same again runs nothing, and is no further look.
    before = {run.directory: (run.directory / "run.json").stat().st_mtime_ns for run in runs(tmp_path).values()}
    finish(sweep(tmp_path, *AUTO))
    assert {each: (each / "run.json").stat().st_mtime_ns for each in before} == before
    assert len((tmp_path / "sweeps" / "s" / "looks.csv").read_text().splitlines()) == 3


MISTAKES = """
sweep.seeds=auto  =>  sweep.max_runs=null: sweep.seeds=auto needs the largest number of runs
sweep.seeds=auto sweep.max_runs=5  =>  sweep.max_runs=5: sweep.seeds=auto needs
sweep.max_runs=60  =>  sweep.max_runs=60: is for sweep.seeds=auto
sweep.seeds=auto sweep.max_runs=60 sweep.average_over=[]  =>  sweep.seeds=auto: sweep.average_over=[]
sweep.seeds=auto sweep.max_runs=60 sweep=random  =>  sweep.seeds=auto: is for a grid
sweep.seeds=2 sweep.settings=[{seed:1},{seed:2}]  =>  sweep.seeds=2: the sweep is over seed itself
sweep.seeds=automatic  =>  sweep.seeds=automatic: must be a positive whole number, or auto
sweep.seeds=auto sweep.max_runs=60 objective=null  =>  objective=null: sweep.seeds=auto needs an objective
"""


def test_what_does_not_fit_is_refused_before_a_run_starts(cli, tmp_path):
    for arguments, message in mistakes(MISTAKES):
        code, out, err = cli("train", "-m", "optimizer.lr=0.1,0.2", *arguments.split())
        assert (code, message in err, "Traceback" in out + err) == (2, True, False), (arguments, err)
        assert not (tmp_path / "outputs" / "sweeps").exists()

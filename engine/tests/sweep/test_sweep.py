"""A sweep from its command to its table."""

import contextlib
import json
import time
from collections import Counter
from datetime import datetime

import pytest
import torch

from leyden.config.errors import UserError
from leyden.run import lock
from leyden.run.directory import Run
from leyden.sweep import launcher
from leyden.sweep.sweep import claim_directory
from tests import conf, records
from tests.conftest import QUICK, SMALL, assert_same_bits, finish, start
from tests.forks import TIMEOUT_S


def sweep(tmp_path, *arguments, small=QUICK, anew=False, **environment):
    """A sweep as a process of its own; `anew` where it matters that its first process has not imported PyTorch."""
    small = [override for override in small if "~model.hidden_sizes" not in arguments or "hidden" not in override]
    where = ("sweep_name=s", f"outputs={tmp_path}", *small, "trainer.max_epochs=2")
    return start("-m", *where, *arguments, anew=anew, **environment)


def runs(tmp_path):
    """The runs of the sweep by what is swept."""
    found = {}
    for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml"):
        run = Run(path.parent)
        found[(run.config["optimizer"]["lr"], run.config["seed"])] = run
    return found


def written(found):
    """When their records were."""
    return {key: (run.directory / "run.json").stat().st_mtime_ns for key, run in found.items()}


def table(tmp_path):
    """The summary, but for the times."""
    rows = records.table(tmp_path / "sweeps" / "s" / "summary.csv")
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


GRID = ("optimizer.lr=0.001,0.01", "seed=0,1")
# A network with a bug in it, in place of the one that the other tests train.
BUGGY = ("~model.hidden_sizes", "~model.dropout", "model._target_=tests.sweep.buggy.Buggy", "trainer.max_epochs=1")
PLACE_OF_BUG = "engine/tests/sweep/buggy.py:14 in forward"


@pytest.mark.slow
def test_a_grid_runs_in_parallel_resumes_and_grows(tmp_path, mnist_root):
    output = finish(sweep(tmp_path, *GRID, anew=True))
    found = runs(tmp_path)
    assert sorted(found) == [(0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)]
    assert {run.result.status for run in found.values()} == {"finished"}
    # Rows that differ in the seed only are merged, the best one is first, and the test set stays shut.
    rows = table(tmp_path)
    assert [(row["optimizer.lr"], row["n"]) for row in rows] == [("0.01", "2"), ("0.001", "2")]
    values = [found[0.01, seed].result.objective.value for seed in (0, 1)]
    assert float(rows[0]["objective"]) == pytest.approx(sum(values) / 2)
    assert not {"seed", "trainer.max_epochs"} & {*rows[0]}
    assert not any("test/acc" in run.result.metrics for run in found.values())
    assert not (tmp_path / "test_evaluations.csv").exists()
    assert output.endswith(f"leyden evaluate runs={tmp_path / 'sweeps' / 's'}\n")
    assert "4/4 jobs, 0 failed" in output
    assert (tmp_path / "sweeps" / "s" / "summary.png").stat().st_size > 100

    # The same again runs nothing, more values run what is new.
    before = written(found)
    finish(sweep(tmp_path, "optimizer.lr=0.01,0.001,0.1", "seed=0,1"))
    assert len(runs(tmp_path)) == 6
    assert written(found) == before

    # A job of a sweep is the job alone, to the bit: nothing leaks from one to the next.
    alone = (f"run_dir={tmp_path / 'alone'}", "optimizer.lr=0.01", "seed=1", "test=false", "trainer.max_epochs=2")
    finish(start(*QUICK, *alone, OMP_NUM_THREADS="1"))
    assert_same_bits(tmp_path / "alone", found[0.01, 1].directory)

    # A job draws if it is asked to.
    for which, drawn in (("none", []), ("all", ["confusion", "curves", "errors"])):
        finish(sweep(tmp_path / which, "seed=0", "trainer.max_epochs=1", f"sweep.pictures={which}", small=SMALL))
        (folder,) = records.ended(tmp_path / which / "sweeps" / "s")
        assert sorted(path.stem for path in folder.glob("*.png")) == drawn


AUTO = ("optimizer.lr=1e-7,0.0019,0.002", "sweep.seeds=auto", "sweep.max_runs=16", "sweep.pictures=none")


@pytest.mark.slow
def test_further_seeds_go_to_settings_that_may_be_the_best_also_after_a_kill(tmp_path, mnist_root):
    process = sweep(tmp_path, *AUTO)
    folder = tmp_path / "sweeps" / "s"
    while process.poll() is None and len([*folder.glob("*/run.json")]) < 11:  # in the second round
        time.sleep(0.05)
    process.kill()
    process.communicate()
    output = finish(sweep(tmp_path, *AUTO))
    seeds = Counter(lr for lr, _ in runs(tmp_path))
    assert seeds == {1e-7: 3, 0.0019: 6, 0.002: 6}
    looks = records.table(folder / "looks.csv")
    assert [(row["look"], row["runs"]) for row in looks] == [("1", "9"), ("2", "15")]
    assert json.loads((folder / "sweep.json").read_text())["excluded"] == ["optimizer.lr=1e-07"]
    assert table(tmp_path)[-1]["like_best"] == "no"
    assert "Look 2 at these settings (looks.csv)" in output
    # The same again runs nothing, and is no further look.
    before = written(runs(tmp_path))
    finish(sweep(tmp_path, *AUTO))
    assert written(runs(tmp_path)) == before
    assert len((folder / "looks.csv").read_text().splitlines()) == 3


@pytest.mark.nightly  # a grid, and a run of several processes, have tests of their own
@pytest.mark.slow
def test_jobs_of_several_processes_run_one_after_another(tmp_path, mnist_root):
    arguments = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=1")
    arguments += ("trainer.limit_train_batches=40",)
    every = 'callbacks.checkpoint.every_n_steps="${oc.decode:${now:%u}}"'
    output = finish(sweep(tmp_path, *arguments, "seed=0,1", every))
    assert "2/2 jobs, 0 failed" in output
    first, second = (run for _, run in sorted(runs(tmp_path).items()))
    ended = (first.directory / "run.json").stat().st_mtime
    begun = datetime.fromisoformat(second.starts[0]["time"]).timestamp()
    assert ended <= begun + 1  # it is told in whole seconds
    for run in (first, second):
        states = run.newest_checkpoint() and torch.load(run.newest_checkpoint(), weights_only=True)["callbacks"]
        assert len(states["RankState"]["processes"]) == 2
    # Its line is in the message, the record and the table, and its traceback in the log.
    buggy = tmp_path / "buggy" / "sweeps" / "s"
    for more in ((*arguments, "seed=0"), ("seed=2",)):
        output, _ = sweep(tmp_path / "buggy", *more, *BUGGY, "+model.hidden=1").communicate(timeout=TIMEOUT_S)
        assert f"\n      at {PLACE_OF_BUG}\n      {buggy}/logs/" in output
    assert {Run(path).result.error.where for path in records.ended(buggy)} == {PLACE_OF_BUG}
    assert all("# the bug" in log.read_text() for log in (buggy / "logs").iterdir())


def test_a_directory_is_of_one_sweep_that_which_claims_it_first(tmp_path, monkeypatch):
    for content in ("[]", "null", "{", ""):
        (tmp_path / "sweep.json").write_text(content)
        with pytest.raises(UserError, match=r"sweep\.json: (is not a valid sweep description|can't be read)"):
            claim_directory(tmp_path, {"name": "a", "objective": None}, {})
    (tmp_path / "sweep.json").unlink()
    grid = {"name": "a", "objective": None}
    claim_directory(tmp_path, grid, {})
    with pytest.raises(UserError, match=r"holds a different sweep: fixed absent there, \[\] here; choose another"):
        claim_directory(tmp_path, {**grid, "fixed": []}, {})
    claim_directory(tmp_path, grid, {})

    def hold(path):
        (tmp_path / "sweep.json").write_text('{"name": "theirs"}')  # a start that holds the lock meanwhile
        return contextlib.nullcontext()

    monkeypatch.setattr(lock, "hold", hold)
    with pytest.raises(UserError, match="holds a different sweep: name theirs there"):
        claim_directory(tmp_path, grid, {})


@pytest.fixture
def few_built(monkeypatch):
    """Of any number of jobs two are built."""
    monkeypatch.setattr("leyden.sweep.sweep.MAX_CHECKED", 2)
    monkeypatch.setattr("leyden.sweep.sweep.NUM_DRAWN", 2)


@pytest.mark.matrix
@pytest.mark.usefixtures("few_built")
@pytest.mark.parametrize("path", conf("sweep"), ids=lambda path: path.stem)
def test_every_recipe_passes_the_checks(command, path):
    out, _ = command("train", "-m", f"sweep={path.stem}", "dry_run=true")
    assert out.startswith("0: ")


@pytest.mark.usefixtures("few_built")
def test_dry_run_lists_the_jobs_and_trains_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr(launcher, "warm_up", lambda data: pytest.fail("it starts a process"))
    out, err = command("train", "-m", "sweep=grid", "sweep_name=s", "dry_run=true")
    assert len(out.splitlines()) == 3 * 2 * 3
    assert "17: " in out
    assert err == "These would run. dry_run=true: nothing was done.\n"
    assert not list((tmp_path / "outputs").rglob("config.yaml"))
    _, err = command("train", "-m", "sweep=tpe", "sweep_name=s", "dry_run=true")
    assert err.startswith("These are settings of the space that would be searched.")
    out, _ = command("train", f"run_dir={tmp_path / 'run'}", "dry_run=true")
    assert "nothing was trained" in out
    assert not (tmp_path / "run").exists()


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
    output = finish(start(script=("-c", code), anew=True))
    assert output.splitlines()[-1] == "False"
    assert "2/2 jobs, 0 failed" in output
    buggy = ("~model.hidden_sizes", "~model.dropout", "+model.hidden=1", "model._target_=tests.sweep.buggy.NotMade")
    output = finish(start(*buggy, script=("-c", code), anew=True), code=2)
    assert "Traceback" not in output
    (line,) = [each for each in output.splitlines() if each.startswith("leyden: ")]
    assert "model: KeyError: 1 (" in line
    assert "tests/sweep/buggy.py:" in line


@pytest.mark.nightly  # a grid runs by day
@pytest.mark.slow
def test_a_data_set_is_read_once_for_all_jobs(tmp_path):
    data = ("data.dataset._target_=tests.sweep.buggy.Counted", f"+data.dataset.log={tmp_path / 'log'}")
    few = ("seed=0,1,2,3", "trainer.max_epochs=1", "data.val_size=10", "cluster.num_jobs=2")
    assert "4/4 jobs, 0 failed" in finish(start("-m", f"outputs={tmp_path}", *few, *data, anew=True))
    # And once more before, to see what reading starts.
    assert len((tmp_path / "log").read_text().splitlines()) == 2

"""A sweep from its command to its table; and its loop: a place that is free is filled at once, and nothing is asked for before."""

import contextlib
import functools
import json
import time
from collections import Counter
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from leyden.base.errors import UserError
from leyden.queue import script
from leyden.run import lock
from leyden.run.directory import Run
from leyden.sweep import grid
from leyden.sweep.grid import Seeds
from leyden.sweep.sweep import MAX_CHECKED, NUM_DRAWN, Sweep, claim_directory, validate_jobs
from tests import conf, records
from tests.conftest import QUICK, SMALL, assert_same_bits, finish, start


def sweep(tmp_path, *arguments, small=QUICK, **options):
    """A sweep as a process of its own; `anew` where it matters that its first process has not imported PyTorch."""
    where = ("sweep_name=s", f"outputs={tmp_path}", *small, "trainer.max_epochs=2")
    return start("-m", *where, *arguments, **options)


def runs(tmp_path):
    """The runs of the sweep by what is swept."""
    found = [Run(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/config.yaml")]
    return {(run.config["optimizer"]["lr"], run.config["seed"]): run for run in found}


def written(found):
    """When their records were."""
    return {key: (run.directory / "run.json").stat().st_mtime_ns for key, run in found.items()}


# A network with a bug in it, in place of the one that the other tests train.
BUGGY = (
    "~model.hidden_sizes",
    "~model.dropout",
    "model._target_=tests.sweep.buggy.Buggy",
    "trainer.max_epochs=1",
    "+model.hidden=1",
)
PLACE_OF_BUG = "engine/tests/sweep/buggy.py:16 in forward"


@pytest.mark.slow
def test_a_grid_runs_in_parallel_resumes_and_grows(tmp_path, mnist_root):
    code = "import leyden.train, sys; leyden.train.main(); print('torch' in sys.modules)"
    grid = functools.partial(sweep, tmp_path, "seed=0,1", small=SMALL)
    output = finish(grid("optimizer.lr=0.001,0.01", script=("-c", code), anew=True))
    found = runs(tmp_path)
    assert sorted(found) == [(0.001, 0), (0.001, 1), (0.01, 0), (0.01, 1)]
    assert {run.result.status for run in found.values()} == {"finished"}
    # Rows that differ in the seed only are merged, and the test set stays shut.
    rows = records.table(tmp_path / "sweeps" / "s" / "summary.csv")
    assert [(row["optimizer.lr"], row["n"]) for row in rows] == [("0.01", "2"), ("0.001", "2")]
    assert not any("test/acc" in run.result.metrics for run in found.values())
    assert not (tmp_path / "test_evaluations.csv").exists()
    assert output.endswith(f"leyden evaluate runs={tmp_path / 'sweeps' / 's'}\nFalse\n")
    assert "4/4 jobs, 0 failed" in output

    # The same again runs nothing, more values run what is new, which draws if it is asked to.
    before = written(found)
    output = finish(grid("optimizer.lr=0.01,0.001,0.1", "sweep.pictures=all", OMP_NUM_THREADS="3"))
    assert "threads each, these have 3" in output
    assert " and 3 threads (OMP_NUM_THREADS)" in output
    for (lr, _), run in runs(tmp_path).items():
        drawn = {path.stem for path in run.directory.glob("*.png")}
        assert drawn == ({"confusion", "curves", "errors"} if lr == 0.1 else set())
    assert written(found) == before

    # A job of a sweep is the job alone, to the bit: nothing leaks from one to the next.
    alone = tmp_path / "alone"
    typed = (f"run_dir={alone}", "optimizer.lr=0.01", "seed=1", "trainer.max_epochs=2")
    finish(start(*QUICK, *typed, OMP_NUM_THREADS="1"))
    assert_same_bits(alone, found[0.01, 1].directory)


@pytest.mark.slow
def test_further_seeds_go_to_settings_that_may_be_the_best_also_after_a_kill(tmp_path, mnist_root):
    arguments = (
        "optimizer.lr=1e-7,0.0019,0.002",
        "sweep.seeds=auto",
        "sweep.max_runs=16",
        "sweep.pictures=none",
    )
    process = sweep(tmp_path, *arguments)
    folder = tmp_path / "sweeps" / "s"
    while process.poll() is None and len([*folder.glob("*/run.json")]) < 11:  # in the second round
        time.sleep(0.05)
    process.kill()
    process.communicate()
    output = finish(sweep(tmp_path, *arguments))
    seeds = Counter(lr for lr, _ in runs(tmp_path))
    assert seeds == {1e-7: 3, 0.0019: 6, 0.002: 6}
    looks = records.table(folder / "looks.csv")
    assert [(row["look"], row["runs"]) for row in looks] == [("1", "9"), ("2", "15")]
    assert json.loads((folder / "sweep.json").read_text())["excluded"] == ["optimizer.lr=1e-07"]
    assert records.table(folder / "summary.csv")[-1]["like_best"] == "no"
    assert "Look 2 at these settings (looks.csv)" in output
    # The same again runs nothing, and is no further look.
    before = written(runs(tmp_path))
    finish(sweep(tmp_path, *arguments))
    assert written(runs(tmp_path)) == before
    assert len((folder / "looks.csv").read_text().splitlines()) == 3


@pytest.mark.nightly  # a grid, and a run of several processes, have tests of their own
@pytest.mark.slow
def test_jobs_of_several_processes_run_one_after_another(tmp_path, mnist_root):
    arguments = (
        "trainer=ddp",
        "trainer.accelerator=cpu",
        "trainer.devices=2",
        "trainer.limit_train_batches=40",
    )
    every = 'callbacks.checkpoint.every_n_steps="${oc.decode:${now:%u}}"'
    output = finish(sweep(tmp_path, *arguments, "seed=0,1", every, "trainer.max_epochs=1"))
    assert "2/2 jobs, 0 failed" in output
    first, second = (run for _, run in sorted(runs(tmp_path).items()))
    begun = datetime.fromisoformat(second.starts[0]["time"]).timestamp()  # in whole seconds
    assert (first.directory / "run.json").stat().st_mtime <= begun + 1
    for run in (first, second):
        states = torch.load(run.newest_checkpoint(), weights_only=True)["callbacks"]
        assert len(states["RankState"]["processes"]) == 2


def test_a_directory_is_of_one_sweep_that_which_claims_it_first(tmp_path, monkeypatch):
    grid = {"name": "a", "objective": None}
    there = tmp_path / "sweep.json"
    damaged = r"sweep\.json: (is not a valid sweep description|can't be read)"
    for content in ("[]", "null", "{", ""):
        there.write_text(content)
        with pytest.raises(UserError, match=damaged):
            claim_directory(tmp_path, grid, {})
    there.unlink()
    claim_directory(tmp_path, grid, {})
    other = r"holds a different sweep: fixed absent there, \[\] here; choose another"
    with pytest.raises(UserError, match=other):
        claim_directory(tmp_path, grid | {"fixed": []}, {})
    claim_directory(tmp_path, grid, {})

    def hold(path):  # a start that holds the lock meanwhile
        there.write_text('{"format": 1, "name": "theirs"}')
        return contextlib.nullcontext()

    monkeypatch.setattr(lock, "hold", hold)
    with pytest.raises(UserError, match="holds a different sweep: name theirs there"):
        claim_directory(tmp_path, grid, {})


@pytest.fixture
def dry(command, monkeypatch):
    """Lists the jobs of a sweep, of which two are built."""
    monkeypatch.setattr("leyden.sweep.sweep.MAX_CHECKED", 2)
    monkeypatch.setattr("leyden.sweep.sweep.NUM_DRAWN", 2)
    monkeypatch.setattr(grid, "warm_up", lambda config: pytest.fail("it starts a process"))
    return lambda name: command("train", "-m", f"sweep={name}", "sweep_name=s", "dry_run=true")


@pytest.mark.matrix
@pytest.mark.parametrize("path", conf("sweep"), ids=lambda path: path.stem)
def test_every_recipe_passes_the_checks(dry, path):
    assert dry(path.stem)[0].startswith("0: ")


def test_dry_run_lists_the_jobs_and_trains_nothing(dry, command, tmp_path):
    out, err = dry("grid")
    assert len(out.splitlines()) == 3 * 2 * 3
    assert "17: " in out
    assert err == "These would run. dry_run=true: nothing was done.\n"
    assert dry("tpe")[1].startswith("These are settings of the space that would be searched.")
    for typed in ((), ("trainer=elastic", "trainer.devices=2")):
        out, _ = command("train", f"run_dir={tmp_path / 'run'}", "dry_run=true", *typed)
        assert "nothing was trained" in out
    assert not [path for path in tmp_path.rglob("*") if path.name in ("run", "config.yaml")]


@pytest.mark.slow
def test_a_sweep_reads_data_once_and_shows_a_bug_by_its_line(tmp_path):
    log = tmp_path / "log"
    folder = tmp_path / "sweeps" / "s"
    data = (
        "data.dataset._target_=tests.sweep.buggy.Counted",
        f"+data.dataset.log={log}",
        "data.val_size=10",
    )
    arguments = ("seed=0,1", *data, "data.batch_size=10", *BUGGY)
    output = finish(sweep(tmp_path, *arguments, "model.hidden=2"), code=2)
    assert "Traceback" not in output
    (line,) = [each for each in output.splitlines() if each.startswith("leyden: ")]
    assert "model: KeyError: 2 (" in line
    assert "tests/sweep/buggy.py:" in line
    log.unlink(missing_ok=True)
    # One in training: its line is in the message and the record, and its traceback in the log.
    output = finish(sweep(tmp_path, *arguments, anew=True), code=2)
    # Once for all jobs, and once before, to see what reading starts.
    assert len(log.read_text().splitlines()) == 2
    assert f"\n      at {PLACE_OF_BUG}\n      {folder}/logs/" in output
    assert {Run(path).result.error.where for path in records.ended(folder)} == {PLACE_OF_BUG}
    assert all("# the bug" in log.read_text() for log in (folder / "logs").iterdir())


class Clock:
    """A launcher whose time passes when it is waited for; a queue, so that no lock is looked at."""

    outlives = waits = True
    note = ""

    def __init__(self):
        self.now = 0
        self.ends = []
        self.tidied = []

    def tidy(self, job):
        self.tidied.append(job.number)

    def tidy_up(self):
        """It has no files."""

    def start(self, jobs):
        for job in jobs:
            job.started = self.now
            self.ends.append((self.now + job.seconds, job))

    def wait(self):
        self.now = min(end for end, _ in self.ends)
        over = [(job, None) for end, job in self.ends if end == self.now]
        self.ends = [(end, job) for end, job in self.ends if end > self.now]
        return over, len(self.ends)


def job(number, seconds, *, is_finished=False):
    run = SimpleNamespace(is_finished=lambda identity: is_finished, directory=Path(str(number)))
    return SimpleNamespace(number=number, seconds=seconds, log="", identity=lambda: None, run=run)


def run_jobs(jobs, at_once, launcher=None):
    """The numbers of the jobs, or None for a moment, as they end, and the failures."""
    source = iter(jobs)
    ended = []
    made = object.__new__(Sweep)
    made.launcher = launcher or Clock()
    made.num_jobs = 0
    made.failures = {}
    made.run(
        lambda: next(source, None),
        total=9,
        at_once=at_once,
        ended=lambda job, _: ended.append(job.number),
    )
    return ended, made.failures


@given(
    st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=20),
    st.sampled_from([1, 2, 3, None]),
)
def test_no_place_is_idle_while_there_is_something_to_do(made, at_once):
    jobs = [job(number, seconds, is_finished=done) for number, (seconds, done) in enumerate(made)]
    launcher = Clock()
    told, _ = run_jobs(jobs, at_once, launcher)
    assert sorted(told) == [one.number for one in jobs]
    assert launcher.tidied == [one.number for one in jobs if one.run.is_finished(None)]
    # As somebody would hand them out by hand: each job goes to the place that is free first.
    num_places = at_once or 99
    places = [0] * num_places
    for one in jobs:
        if one.run.is_finished(None):
            continue
        places.sort()
        assert one.started == places[0]
        places[0] += one.seconds


def test_what_turns_up_late_is_run_too_and_a_line_is_printed_when_the_numbers_change(capsys):
    """As the next trial of a search."""
    launcher = Clock()
    launcher.note = "2 wait (Limit)"
    ended, _ = run_jobs([job(0, 5), job(1, 1), None, job(2, 1)], 3, launcher)
    assert ended == [1, 2, 0]
    rest = "0:00:00 left; 2 wait (Limit)"
    assert capsys.readouterr().out.splitlines() == [
        f"1/9 jobs, 0 failed, 1 running; {rest}",
        f"2/9 jobs, 0 failed, 1 running; {rest}",
        f"3/9 jobs, 0 failed, 0 running; {rest}",
    ]


def test_a_job_that_another_machine_runs_comes_last_and_is_done_if_it_has_finished_there(
    monkeypatch,
):
    states = {"0": "held", "1": "held"}
    monkeypatch.setattr(
        lock, "Watch", lambda path: Mock(state=lambda: states.get(path.parent.name, "free"))
    )
    jobs = [job(number, 1) for number in range(4)]
    launcher = Clock()
    launcher.outlives = False
    jobs[1].run.is_finished = Mock(side_effect=[False, True])
    assert run_jobs(jobs, 1, launcher) == ([2, 3, 0, 1], {})
    # The first one waits for its lock.
    assert [hasattr(one, "started") for one in jobs] == [True, False, True, True]


@pytest.mark.parametrize("command", ["exit 3", "sleep 9", "yes", "nothing-of-that-name"])
def test_who_is_told_of_the_end_finds_the_summary_and_a_failure_is_a_line(
    tmp_path, monkeypatch, capsys, command
):
    monkeypatch.setattr(script, "ANSWER_S", 1)
    made = object.__new__(Sweep)
    config = OmegaConf.create({"cluster": {"notify": f'cat "$LEYDEN_SWEEP/table" && {command}'}})
    vars(made).update(config=config, directory=tmp_path, failures={})
    made.launcher = SimpleNamespace(has_jobs=True)
    write = lambda directory, trust: (directory / "table").touch()  # noqa: E731
    monkeypatch.setattr("leyden.sweep.sweep.summarize", write)
    monkeypatch.setattr("leyden.sweep.sweep.sort_hparams", lambda directory: None)
    made.conclude()
    (line,) = capsys.readouterr().err.splitlines()
    assert "cluster.notify: " in line
    assert "table" not in line


def test_a_job_that_can_not_be_composed_fails_alone():
    jobs = [job(number, 1) for number in range(3)]
    jobs[1].identity = Mock(side_effect=UserError("optimizer.momentum: no such key"))
    told, failures = run_jobs(jobs, None)
    assert sorted(told) == [0, 1, 2]
    assert failures == {"1": "UserError: optimizer.momentum: no such key\n    "}


@pytest.mark.parametrize(
    ("key", "num", "built"),
    [
        ("lr", 3, 3),
        ("lr", 200, 10),
        ("seed", 3, 1),
        ("seed", 200, 1),
    ],
)
def test_of_many_jobs_some_are_checked_and_of_seeds_one_is_built(
    monkeypatch, tmp_path, num, key, built
):
    build = Mock(return_value=None)
    monkeypatch.setattr("leyden.sweep.sweep.call_in_process", build)
    identity = Mock(return_value=SimpleNamespace(config={"resume": "auto"}))
    for directory, expected in ((tmp_path / "new", built), (tmp_path, min(num, NUM_DRAWN))):
        place = Mock(directory=directory, **{"is_finished.return_value": False})
        jobs = []
        for n in range(num):
            jobs.append(Mock(number=n, overrides=[f"{key}={n}"], run=place, identity=identity))
        assert len(validate_jobs(jobs)) == (num if num <= MAX_CHECKED else NUM_DRAWN)
        checked = build.call_args.args[1]
        assert len(checked) == expected  # each that has begun has a checkpoint of its own
        assert checked[0][0].startswith("job 0 of 3" if num == 3 else "job ")


def test_the_jobs_of_a_grids_seeds_are_numbered_once_each(tmp_path):
    def new_jobs(batch):
        jobs = []
        for number, overrides in enumerate(batch):
            run = SimpleNamespace(directory=tmp_path / "_".join(overrides))
            made = SimpleNamespace(number=number, overrides=overrides, run=run)
            made.compose = lambda: SimpleNamespace(seed=0)
            jobs.append(made)
        return jobs

    seeds = Seeds(SimpleNamespace(new_jobs=new_jobs), [["lr=1"], ["lr=2"]])
    jobs = [*seeds.jobs(range(2), 0, 2), *seeds.jobs([1], 2, 3)]
    assert [job.number for job in jobs] == [*range(5)]
    assert [job.overrides[-1] for job in jobs] == ["lr=1", "seed=1", "lr=2", "seed=1", "seed=2"]

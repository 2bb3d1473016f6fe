"""The loop of a sweep: a place that is free is filled at once, and nothing is asked for before."""

import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.run import lock
from leyden.sweep import sweep
from leyden.sweep.grid import Seeds
from leyden.sweep.launcher import Launcher
from leyden.sweep.sweep import Sweep, validate_jobs


class Clock(Launcher):
    """A launcher whose time passes when it is waited for; a queue, so that no lock is looked at."""

    is_queue = True

    def __init__(self):
        self.now, self.ends = 0, []

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


def run(ask, at_once, launcher=None):
    """The numbers of the jobs as they end, and the failures."""
    told, made = [], object.__new__(Sweep)
    made.launcher, made.num_jobs, made.failures = launcher or Clock(), 0, {}
    made.run(ask, total=9, at_once=at_once, ended=lambda one, failure: told.append(one.number))
    return told, made.failures


durations = st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=20)


@given(durations, st.sampled_from([1, 2, 3, None]))
def test_no_place_is_idle_while_there_is_something_to_do(made, at_once):
    jobs = [job(number, seconds, is_finished=done) for number, (seconds, done) in enumerate(made)]
    source = iter(jobs)
    told, _ = run(lambda: next(source, None), at_once)
    assert sorted(told) == [one.number for one in jobs]
    # As somebody would hand them out by hand: each job goes to the place that is free first.
    places = [0] * (at_once or 99)
    for one in (one for one in jobs if not one.run.is_finished(None)):
        places.sort()
        assert one.started == places[0]
        places[0] += one.seconds


def test_what_turns_up_late_is_run_too_and_a_line_is_printed_when_the_numbers_change(capsys):
    """As the next trial of a search."""
    answers, launcher = [job(0, 5), job(1, 1), None, job(2, 1)], Clock()
    launcher.note = "2 wait (Limit)"
    assert run(lambda: answers.pop(0) if answers else None, 3, launcher)[0] == [1, 2, 0]
    assert capsys.readouterr().out.splitlines() == [
        f"{num}/9 jobs, 0 failed, {running} running; 0:00:00 left; 2 wait (Limit)"
        for num, running in ((1, 1), (2, 1), (3, 0))
    ]


def test_a_job_that_another_machine_runs_comes_last_and_is_done_if_it_has_finished_there(monkeypatch):
    def watch(path):
        return SimpleNamespace(state=lambda: "held" if path.parent.name in "01" else "free")

    monkeypatch.setattr(lock, "Watch", watch)
    jobs, launcher, looks = [job(number, 1) for number in range(4)], Clock(), iter([False, True])
    launcher.is_queue, source = False, iter(jobs)
    jobs[1].run.is_finished = lambda identity: next(looks)
    assert run(lambda: next(source, None), 1, launcher) == ([2, 3, 0, 1], {})
    # The first one waits for its lock.
    assert [hasattr(one, "started") for one in jobs] == [True, False, True, True]


def test_a_job_that_can_not_be_composed_fails_alone():
    def identity():
        raise UserError("optimizer.momentum: no such key")

    jobs = [job(number, 1) for number in range(3)]
    jobs[1].identity, source = identity, iter(jobs)
    told, failures = run(lambda: next(source, None), None)
    assert sorted(told) == [0, 1, 2]
    assert failures == {"1": "UserError: optimizer.momentum: no such key\n    "}


@pytest.mark.parametrize(
    ("key", "num", "num_built"), [("lr", 3, 3), ("lr", 200, 10), ("seed", 3, 1), ("seed", 200, 1)]
)
@pytest.mark.parametrize("begun", [False, True])
def test_of_many_jobs_some_are_checked_and_of_seeds_one_is_built(monkeypatch, tmp_path, num, key, num_built, begun):
    checked = []
    monkeypatch.setattr(sweep, "call_in_process", lambda function, configs: checked.extend(configs))
    identity = SimpleNamespace(config={"resume": "auto"})
    directory = tmp_path if begun else tmp_path / "a"
    place = SimpleNamespace(directory=directory, accept=lambda *_: None, is_finished=lambda _: False)
    made = functools.partial(SimpleNamespace, run=place, identity=lambda: identity)
    jobs = [made(number=n, overrides=[f"{key}={n}"]) for n in range(num)]
    assert len(validate_jobs(jobs)) == (num if num <= sweep.MAX_CHECKED else sweep.NUM_DRAWN)
    assert len(checked) == (min(num, sweep.NUM_DRAWN) if begun else num_built)  # each has a checkpoint of its own
    assert checked[0][0].startswith("job 0 of 3" if num == 3 else "job ")


def test_the_jobs_of_a_grids_seeds_are_numbered_once_each(tmp_path):
    def new_jobs(batch):
        made = functools.partial(SimpleNamespace, compose=lambda: SimpleNamespace(seed=0))
        places = [SimpleNamespace(directory=tmp_path / "_".join(each)) for each in batch]
        return [made(number=n, overrides=batch[n], run=place) for n, place in enumerate(places)]

    seeds = Seeds(SimpleNamespace(new_jobs=new_jobs), [["lr=1"], ["lr=2"]])
    jobs = [*seeds.jobs(range(2), 0, 2), *seeds.jobs([1], 2, 3)]
    assert [job.number for job in jobs] == [*range(5)]
    assert [job.overrides[-1] for job in jobs] == ["lr=1", "seed=1", "lr=2", "seed=1", "seed=2"]

"""The launcher of a cluster's jobs beside a Slurm with limits, whose answers come late."""

import contextlib
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf

from leyden import cluster
from leyden.cluster import GRACE_S, QueueLauncher
from leyden.run.result import Failure
from leyden.scheduler import JobState, RejectedError

DONE = JobState("ended", "COMPLETED", is_completed=True)
FAILED = JobState("ended", "NODE_FAIL")
RUNNING = JobState("running", "RUNNING")


class Limited:
    MAX_ARRAY = 4
    leave_job = cancel_stuck = Mock()

    def __init__(self, room):
        self.room, self.jobs, self.num_queries = room, {}, 0

    def states(self, ids):
        self.num_queries += 1
        return {job: self.jobs[job] for job in ids}

    def submit(self, folder, cluster, work, arguments, *, python):
        if sum(state.phase != "ended" for state in self.jobs.values()) + len(arguments) > self.room:
            raise RejectedError("too many jobs")
        ids = [f"j{len(self.jobs) + number}" for number in range(len(arguments))]
        self.jobs |= dict.fromkeys(ids, RUNNING)
        return [{"scheduler": "slurm", "job_id": job, "log": f"{folder}/{job}"} for job in ids]


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when somebody sleeps."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(cluster.time, "sleep", lambda seconds: setattr(now, "s", now.s + seconds))
    return now


def jobs(num):
    call = SimpleNamespace(identity=None)
    made = {"identity": lambda: None, "call": lambda module, on_node: call, "overrides": [], "log": None}
    in_memory = {"result": None, "begin": Mock(), "locked": lambda *_, **__: contextlib.nullcontext()}
    runs = [SimpleNamespace(directory=Path(f"r{n}"), submission={}, **in_memory) for n in range(num)]
    return [SimpleNamespace(run=run, **made) for run in runs]


@pytest.fixture
def runner(tmp_path, clock, monkeypatch):
    """A function that makes a launcher beside a scheduler."""

    def make(scheduler):
        monkeypatch.setattr(cluster.scheduler, "named", {"limited": scheduler}.get)
        of_site = OmegaConf.create({"launcher": "limited", "snapshot": False, "python": None, "num_jobs": None})
        return QueueLauncher(SimpleNamespace(cluster=of_site, outputs=tmp_path, sweep_name="s"), "leyden.train")

    return make


def test_what_is_not_accepted_yet_is_submitted_as_others_end(runner):
    mine, scheduler = jobs(9), Limited(room=6)
    running = runner(scheduler)
    running.start(mine)
    assert (len(running.running), running.note) == (4, "5 not accepted yet")
    again = runner(scheduler)  # the same command, while the jobs of the first one run
    again.start(mine)
    assert (len(again.running), again.waiting) == (4, mine[4:])
    done = []
    while running.running or running.waiting:
        for number in running.running:
            scheduler.jobs[number] = DONE
            for job in running.running[number]:
                job.run.result = SimpleNamespace(error=None)
        over, _ = running.wait()
        assert not any(error for _, error in over)
        done += [job.run.directory.name for job, _ in over]
    assert (done, running.note) == ([f"r{n}" for n in range(9)], "")
    with pytest.raises(RejectedError, match="too many jobs"):
        runner(Limited(room=3)).start(jobs(9))


@pytest.mark.parametrize(("state", "lies"), [(DONE, 80.0), (FAILED, 3.0)])
def test_a_result_may_be_seen_after_the_end_of_its_job(runner, clock, state, lies):
    (mine,), scheduler = jobs(1), Limited(room=9)
    running = runner(scheduler)
    running.start([mine])
    scheduler.jobs["j0"] = state
    began = clock.s
    while clock.s < began + lies:
        assert running.wait()[0] == []
    mine.run.result = SimpleNamespace(error=None)
    assert running.wait()[0] == [(mine, None)]


def test_a_job_without_a_result_has_failed_if_it_has_ended_twice(runner, clock):
    """A job that is being requeued ends, too, for a moment."""
    (mine,), scheduler = jobs(1), Limited(room=9)
    running = runner(scheduler)
    running.start([mine])
    scheduler.jobs["j0"] = FAILED
    while not running.ended:
        assert running.wait()[0] == []
    scheduler.jobs["j0"] = JobState("queued", "PENDING")
    for _ in range(20):
        assert running.wait()[0] == []
    scheduler.jobs["j0"] = FAILED
    since = clock.s
    while not (over := running.wait()[0]):
        assert clock.s < since + 2 * GRACE_S[False] + 100
    assert over == [(mine, Failure("Scheduler", "job j0 is NODE_FAIL without a result"))]


def test_the_scheduler_is_asked_once_a_minute(runner, clock):
    scheduler = Limited(room=9)
    running = runner(scheduler)
    running.start(jobs(3))
    began = clock.s
    while clock.s < began + 600:
        running.wait()
    first = scheduler.num_queries
    assert first < 16  # more at first
    while clock.s < began + 1800:
        running.wait()
    assert scheduler.num_queries - first <= 20

"""The runner of a cluster's jobs beside a scheduler with limits, whose answers come late."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from leyden.cluster import submit
from leyden.cluster.submit import GRACE_S, MAX_QUERY_S, ClusterRunner
from leyden.scheduler.protocol import JobState, RejectedError, Submitted

DONE = JobState("ended", "COMPLETED", is_completed=True)
FAILED = JobState("ended", "NODE_FAIL")
RUNNING = JobState("running", "RUNNING")


class Limited:
    """A scheduler that has room for some jobs."""

    name, title = "limited", "Limited"

    def __init__(self, room):
        self.room, self.jobs, self.sizes, self.num_queries = room, {}, [], 0

    def max_array(self):
        return 4

    def states(self, ids):
        self.num_queries += 1
        return {job: self.jobs[job] for job in ids}

    def submit(self, folder, cluster, work, arguments, *, python, starts_processes=False):
        self.sizes.append(len(arguments))
        if sum(state.phase != "ended" for state in self.jobs.values()) + len(arguments) > self.room:
            raise RejectedError("too many jobs")
        ids = [f"j{len(self.jobs) + number}" for number in range(len(arguments))]
        self.jobs |= dict.fromkeys(ids, RUNNING)
        return [Submitted(job, folder / job) for job in ids]


class FakeRun:
    """A run directory in a variable."""

    def __init__(self, name):
        self.directory, self.submission, self.result = Path(name), {}, None

    def begin(self, *_):
        pass

    def locked(self, *_, **__):
        return contextlib.nullcontext()


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when somebody sleeps."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(submit.time, "monotonic", lambda: now.s)
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: setattr(now, "s", now.s + seconds))
    return now


def jobs(num):
    return [
        SimpleNamespace(
            run=FakeRun(f"r{n}"), identity=None, overrides=[], log=None, config_on_node=None, release=int
        )
        for n in range(num)
    ]


def runner(scheduler, tmp_path, num_per_node=1):
    cluster = SimpleNamespace(snapshot=False, python=None, jobs_per_node=num_per_node, cpus_per_task=1)
    return ClusterRunner(scheduler, tmp_path, cluster, "leyden.train")


def test_jobs_come_in_waves_where_the_queue_is_short(tmp_path, clock):
    mine, scheduler = jobs(9), Limited(room=3)
    running = runner(scheduler, tmp_path)
    running.start(mine)
    assert scheduler.sizes == [4, 2, 2, 1, 1]
    assert running.note == "6 not accepted yet"
    done = []
    while running.running:
        for job in running.running:
            scheduler.jobs[job] = DONE
        for job in mine:
            if job.run.submission:
                job.run.result = SimpleNamespace(error=None)
        done += running.wait()[0]
    assert [job.run.directory.name for job, error in done if not error] == [f"r{n}" for n in range(9)]
    assert running.note == ""


def test_without_room_for_one_job_the_reason_is_told(tmp_path):
    with pytest.raises(RejectedError, match="too many jobs"):
        runner(Limited(room=0), tmp_path).start(jobs(9))


def test_without_room_beside_the_sweeps_own_jobs_a_job_waits(tmp_path):
    mine, scheduler = jobs(4), Limited(room=3)
    running = runner(scheduler, tmp_path)
    running.start(mine[:3])
    assert running.submit(mine[3:]) == mine[3:]
    again = runner(scheduler, tmp_path)  # the same command, while the jobs of the first one run
    assert again.submit(mine) == mine[3:]


def test_runs_that_share_a_job_end_one_by_one(tmp_path, clock):
    mine, scheduler = jobs(5), Limited(room=9)
    running = runner(scheduler, tmp_path, num_per_node=2)
    running.start(mine)
    assert scheduler.sizes == [3]
    mine[1].run.result = SimpleNamespace(error=None)
    assert running.wait() == ([(mine[1], "")], 3)
    assert running.running["j0"] == [mine[0]]


@pytest.mark.parametrize(("state", "lies"), [(DONE, 80.0), (FAILED, 3.0)])
def test_a_result_may_be_seen_after_the_end_of_its_job(tmp_path, clock, state, lies):
    (mine,), scheduler = jobs(1), Limited(room=9)
    running = runner(scheduler, tmp_path)
    running.start([mine])
    scheduler.jobs["j0"] = state
    began = clock.s
    while clock.s < began + lies:
        assert running.wait()[0] == []
    mine.run.result = SimpleNamespace(error=None)
    assert running.wait()[0] == [(mine, "")]


def test_a_job_without_a_result_has_failed_if_it_has_ended_twice(tmp_path, clock):
    """A job that is being requeued ends, too, for a moment."""
    (mine,), scheduler = jobs(1), Limited(room=9)
    running = runner(scheduler, tmp_path)
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
        assert clock.s < since + MAX_QUERY_S + 2 * GRACE_S[False] + 20
    assert over == [(mine, "Limited: job j0 is NODE_FAIL without a result")]


def test_the_scheduler_is_asked_once_a_minute(tmp_path, clock):
    scheduler = Limited(room=9)
    running = runner(scheduler, tmp_path)
    running.start(jobs(3))
    began = clock.s
    while clock.s < began + 600:
        running.wait()
    first = scheduler.num_queries
    assert first < 16  # more at first
    while clock.s < began + 1800:
        running.wait()
    assert scheduler.num_queries - first <= 20

"""The launcher of a cluster's jobs beside a Slurm with limits, whose answers come late."""

import contextlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from leyden.cluster import submit
from leyden.cluster.submit import GRACE_S, MAX_QUERY_S, SlurmLauncher
from leyden.run.result import Failure
from leyden.scheduler.slurm import JobState, RejectedError

DONE = JobState("ended", "COMPLETED", is_completed=True)
FAILED = JobState("ended", "NODE_FAIL")
RUNNING = JobState("running", "RUNNING")


class Limited:
    """A Slurm that has room for some jobs."""

    def __init__(self, room):
        self.room, self.jobs, self.sizes, self.num_queries = room, {}, [], 0
        self.after = []  # of each array

    MAX_ARRAY = 4

    def states(self, ids):
        self.num_queries += 1
        return {job: self.jobs[job] for job in ids}

    def leave_job(self):
        pass

    def cancel_stuck(self, states):
        pass

    def submit(self, folder, cluster, work, arguments, *, python, after=()):
        self.sizes.append(len(arguments))
        if sum(state.phase != "ended" for state in self.jobs.values()) + len(arguments) > self.room:
            raise RejectedError("too many jobs")
        ids = [f"j{len(self.jobs) + number}" for number in range(len(arguments))]
        self.jobs |= dict.fromkeys(ids, RUNNING)
        self.after.append({*after})
        return [{"scheduler": "slurm", "job_id": job, "log": f"{folder}/{job}"} for job in ids]


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


def runner(scheduler, tmp_path, num_jobs=None):
    submit.slurm = scheduler  # the fixture below puts it back
    cluster = SimpleNamespace(snapshot=False, python=None, num_jobs=num_jobs, wait=True)
    config = SimpleNamespace(cluster=cluster, outputs=tmp_path, sweep_name="s")
    return SlurmLauncher(config, "leyden.train")


@pytest.fixture(autouse=True)
def _real_slurm(monkeypatch):
    monkeypatch.setattr(submit, "slurm", submit.slurm)


def test_jobs_come_in_waves_where_the_queue_is_short(tmp_path, clock):
    mine, scheduler = jobs(9), Limited(room=3)
    running = runner(scheduler, tmp_path)
    running.start(mine)
    assert scheduler.sizes == [4, 2, 1]
    assert running.note == "6 not accepted yet"
    assert to_the_end(running, scheduler, mine) == [f"r{n}" for n in range(9)]
    assert running.note == ""
    assert not any(scheduler.after)


def to_the_end(running, scheduler, mine, at_once=99):
    """Let jobs end until none is left; return the names of the runs in this order."""
    done = []
    while running.running or running.waiting:
        for number in [*running.running][:at_once]:
            scheduler.jobs[number] = DONE
            for job in running.running[number]:
                job.run.result = SimpleNamespace(error=None)
        over, _ = running.wait()
        assert not any(error for _, error in over)
        done += [job.run.directory.name for job, _ in over]
    return done


def test_a_limit_takes_few_submissions(tmp_path, clock):
    """As of a QOS with MaxSubmitJobs=20; jobs of the user's own that end meanwhile leave more room."""
    mine, scheduler = jobs(200), Limited(room=20)
    scheduler.MAX_ARRAY = 500
    running = runner(scheduler, tmp_path)
    running.start(mine)
    assert sum(state is RUNNING for state in scheduler.jobs.values()) == 20
    assert len(scheduler.sizes) <= 9  # 200, 100, 50, ...
    scheduler.room, began, before = 50, clock.s, len(scheduler.sizes)
    while len(running.running) < 50:
        running.wait()
        assert clock.s < began + 15 * MAX_QUERY_S
    assert len(to_the_end(running, scheduler, mine, at_once=1)) == 200
    assert len(scheduler.sizes) - before < 150 + 4 * (clock.s - began) / 60  # the jobs, and four a minute


def test_a_wave_waits_for_a_job_that_has_just_ended(tmp_path, clock, monkeypatch):
    """Its result is there, while Slurm still counts it; nothing else runs then."""
    mine, scheduler = jobs(2), Limited(room=1)
    running = runner(scheduler, tmp_path)
    running.start(mine)
    mine[0].run.result = SimpleNamespace(error=None)
    since = clock.s
    while clock.s < since + 8:
        running.wait()
    scheduler.jobs["j0"] = DONE
    assert to_the_end(running, scheduler, mine) == ["r1"]


def test_the_number_of_jobs_at_once_is_of_the_sweep(tmp_path, clock):
    """Slurm's `%N` is of an array: another one starts when those before it have ended."""
    mine, scheduler = jobs(9), Limited(room=99)
    runner(scheduler, tmp_path, num_jobs=3).start(mine)
    first = {f"j{n}" for n in range(4)}
    assert scheduler.after == [set(), first, first | {f"j{n}" for n in range(4, 8)}]


def test_waves_of_a_limited_number_of_jobs_at_once_are_one_after_another(tmp_path, clock):
    mine, scheduler = jobs(7), Limited(room=3)
    running = runner(scheduler, tmp_path, num_jobs=2)
    running.start(mine)
    assert len(running.running) == 3
    assert to_the_end(running, scheduler, mine, at_once=1) == [f"r{n}" for n in range(7)]
    accepted = [size for size in scheduler.sizes if size <= 3]
    assert sum(accepted) < 12


def test_without_room_for_one_job_the_reason_is_told(tmp_path):
    with pytest.raises(RejectedError, match="too many jobs"):
        runner(Limited(room=0), tmp_path).start(jobs(9))


def test_without_room_beside_the_sweeps_own_jobs_a_job_waits(tmp_path):
    mine, scheduler = jobs(4), Limited(room=3)
    running = runner(scheduler, tmp_path)
    running.start(mine[:3])
    running.start(mine[3:])
    assert running.waiting == mine[3:]
    again = runner(scheduler, tmp_path)  # the same command, while the jobs of the first one run
    again.start(mine)
    assert again.waiting == mine[3:]


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
    assert running.wait()[0] == [(mine, None)]


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
    assert over == [(mine, Failure("Slurm", "job j0 is NODE_FAIL without a result"))]


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

"""A place that is free is filled at once, and nothing is asked for before."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from leyden.sweep import launcher


class Clock:
    """A launcher whose time passes when it is waited for.

    Args:
        num_places: Of jobs at once; None for any number.
    """

    note, is_queue, waits = "", True, True

    def __init__(self, num_places):
        self.num_places, self.now, self.ends = num_places, 0, []

    @property
    def num_free(self):
        return None if self.num_places is None else self.num_places - len(self.ends)

    def start(self, jobs):
        assert self.num_free is None or 0 < len(jobs) <= self.num_free
        for job in jobs:
            job.started = self.now
            self.ends.append((self.now + job.seconds, job))

    def wait(self):
        self.now = min(end for end, _ in self.ends)
        over = [(job, job.error) for end, job in self.ends if end == self.now]
        self.ends = [(end, job) for end, job in self.ends if end > self.now]
        return over, len(self.ends)

    def stop(self):
        self.ends = []


class Silent:
    """No status line."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def count_skipped(self):
        pass

    add = show = lambda self, *_: None


def job(number, seconds, *, is_finished=False, error=None):
    return SimpleNamespace(
        number=number,
        seconds=seconds,
        error=error,
        overrides=[],
        identity=None,
        task_config=None,
        run=SimpleNamespace(is_finished=lambda identity: is_finished, result=None),
    )


def asking(source):
    return lambda: next(source, None)


durations = st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=20)


@given(durations, st.sampled_from([1, 2, 3, None]), st.sampled_from([1, 2, 5, None]))
def test_no_place_is_idle_while_there_is_something_to_do(made, num_places, at_once):
    jobs = [job(number, seconds, is_finished=done) for number, (seconds, done) in enumerate(made)]
    runner, asked, told = Clock(num_places), [], []

    def source():
        for one in jobs:
            asked.append(one.number)
            yield one

    def ended(one, error):
        told.append(one.number)
        return not error

    launcher.run_jobs(asking(source()), runner, Silent(), at_once=at_once, ended=ended)
    assert sorted(told) == asked == [one.number for one in jobs]
    # As somebody would hand them out by hand: each job goes to the place that is free first.
    to_run = [one for one in jobs if not one.run.is_finished(None)]
    places = [0] * min(num_places or 99, at_once or 99)
    for one in to_run:
        places.sort()
        assert one.started == places[0]
        places[0] += one.seconds


def test_whoever_is_told_can_end_all_and_is_told_of_all_that_has_ended(monkeypatch):
    monkeypatch.setattr(launcher, "record_failure", lambda *_: None)
    told, runner = [], Clock(3)
    jobs = [job(n, seconds, error="x" if n == 1 else None) for n, seconds in enumerate((5, 1, 1, 1))]

    def ended(one, error):
        told.append(one.number)
        return not error

    launcher.run_jobs(asking(iter(jobs)), runner, Silent(), at_once=None, ended=ended)
    assert told == [1, 2]
    assert not runner.ends
    assert not hasattr(jobs[3], "started")


def test_what_turns_up_late_is_run_too():
    """As a trial that another process has left meanwhile."""
    told, answers = [], [job(0, 1), None, None, job(1, 1), None, job(2, 1)]

    def ended(one, error):
        told.append(one.number)
        return True

    launcher.run_jobs(lambda: answers.pop(0) if answers else None, Clock(2), Silent(), at_once=None, ended=ended)
    assert told == [0]  # nothing was running, and nothing was there
    answers[:] = [job(0, 5), job(1, 1), None, job(2, 1)]
    launcher.run_jobs(lambda: answers.pop(0) if answers else None, Clock(3), Silent(), at_once=None, ended=ended)
    assert told == [0, 1, 2, 0]

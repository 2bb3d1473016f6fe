"""A place that is free is filled at once, and nothing is asked for before."""

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from leyden.config.errors import UserError
from leyden.sweep import launcher


class Clock:
    """A launcher whose time passes when it is waited for.

    Args:
        num_places: Of jobs at once; None for any number.
    """

    note, is_queue, waits = "", True, True  # a queue, so that no lock is looked at

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
        resolved_config=None,
        run=SimpleNamespace(is_finished=lambda identity: is_finished, result=None),
    )


durations = st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=20)


@given(durations, st.sampled_from([1, 2, 3, None]), st.sampled_from([1, 2, 5, None]))
def test_no_place_is_idle_while_there_is_something_to_do(made, num_places, at_once):
    jobs = [job(number, seconds, is_finished=done) for number, (seconds, done) in enumerate(made)]
    runner, told = Clock(num_places), []
    source = iter(jobs)
    launcher.run_jobs(
        lambda: next(source, None), runner, Silent(), at_once=at_once, ended=lambda one, _: told.append(one.number)
    )
    assert sorted(told) == [one.number for one in jobs]
    # As somebody would hand them out by hand: each job goes to the place that is free first.
    to_run = [one for one in jobs if not one.run.is_finished(None)]
    places = [0] * min(num_places or 99, at_once or 99)
    for one in to_run:
        places.sort()
        assert one.started == places[0]
        places[0] += one.seconds


def test_what_turns_up_late_is_run_too():
    """As a trial that another process has left meanwhile."""
    told, answers = [], [job(0, 1), None, None, job(1, 1)]
    run = {"at_once": 3, "ended": lambda one, error: told.append(one.number)}
    launcher.run_jobs(lambda: answers.pop(0) if answers else None, Clock(2), Silent(), **run)
    assert told == [0]  # nothing was running, and nothing was there
    answers[:] = [job(0, 5), job(1, 1), None, job(2, 1)]
    launcher.run_jobs(lambda: answers.pop(0) if answers else None, Clock(3), Silent(), **run)
    assert told == [0, 1, 2, 0]


class NotComposed:
    """A job whose configuration can't be composed; what is checked before a sweep has not shown it."""

    run = SimpleNamespace(is_finished=lambda identity: False)

    @property
    def identity(self):
        raise UserError("optimizer.momentum: no such key")

    resolved_config = identity


def test_a_job_that_can_not_be_composed_fails_alone():
    told = []
    source = iter([job(0, 1), NotComposed(), job(1, 1), NotComposed()])
    launcher.run_jobs(
        lambda: next(source, None), Clock(1), Silent(), at_once=None, ended=lambda *ended: told.append(ended[1])
    )
    assert [str(each) for each in told if each] == 2 * ["UserError: optimizer.momentum: no such key"]
    assert told.count(None) == 2

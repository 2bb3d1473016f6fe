"""Trials of several seeds."""

from types import SimpleNamespace

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.trial import TrialState

from leyden.sweep import launcher
from leyden.sweep.search import Trials
from leyden.sweep.sweep import add_seeds
from tests.sweep.test_launcher_batch import Clock, Silent

optuna.logging.set_verbosity(optuna.logging.WARNING)

PRUNING = {"early": {"_target_": "leyden.sweep.pruning.Pruning"}, "none": None, "other": {"x": 1}}


class Jobs:
    """A search of trials that are drawn as a list, each of them one of jobs: how long, and how each ends."""

    def __init__(self, trials, *, at_once, prunes):
        self.study, self.all, self.dropped = optuna.create_study(), [], 0
        source = iter(trials)
        callbacks = PRUNING if prunes else {}

        def ask():
            if (made := next(source, None)) is None:
                return None
            trial = self.study.ask()
            numbers = range(len(self.all), len(self.all) + len(made))
            jobs = [fake(number, trial.number, callbacks, *one) for number, one in zip(numbers, made, strict=True)]
            self.all += jobs
            return trial, jobs

        self.trials = Trials(ask, self.study.tell, at_once=at_once, dropped=self.drop)

    def drop(self, num):
        self.dropped += num


def fake(number, trial, callbacks, seconds, end):
    status = "pruned" if end == "pruned" else "finished"
    value = float(number % 7)
    result = SimpleNamespace(status=status, objective=SimpleNamespace(value=value), is_complete=True)
    return SimpleNamespace(
        number=number,
        trial=trial,
        seconds=seconds,
        error="KeyError: x" if end == "failed" else None,
        value=value,
        end=end,
        overrides=[],
        identity=None,
        task_config=None,
        config=OmegaConf.create({"callbacks": callbacks}),
        run=SimpleNamespace(is_finished=lambda identity: end == "before", result=result),
    )


def run(trials, *, num_places, at_once, prunes):
    found = Jobs(trials, at_once=at_once, prunes=prunes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "record_failure", lambda *_: None)

        def ended(job, error):
            job.is_over = True
            assert bool(error) == (job.end == "failed")
            found.trials.ended(job, error)
            return True

        launcher.run_jobs(found.trials.ask, Clock(num_places), Silent(), at_once=None, ended=ended)
    return found


seeds = st.integers(1, 3)
ends = st.sampled_from(["well", "well", "well", "failed", "before"])


def drawn(num_seeds, first):
    one = st.tuples(st.integers(1, 5), ends)
    others = st.lists(one, min_size=num_seeds - 1, max_size=num_seeds - 1)
    return st.lists(st.tuples(st.tuples(st.integers(1, 5), first), others).map(lambda t: [t[0], *t[1]]), max_size=8)


@given(seeds.flatmap(lambda n: drawn(n, ends)), st.integers(1, 4), st.integers(1, 4))
def test_a_trial_is_told_the_mean_of_its_seeds(trials, num_places, at_once):
    found = run(trials, num_places=num_places, at_once=at_once, prunes=False)
    told = found.study.get_trials()
    assert len(told) == len(trials)
    assert found.dropped == sum(not hasattr(job, "is_over") for job in found.all)
    for trial in told:
        jobs = [job for job in found.all if job.trial == trial.number]
        if any(job.end == "failed" and hasattr(job, "is_over") for job in jobs):
            assert trial.state == TrialState.FAIL
        else:
            assert trial.state == TrialState.COMPLETE
            assert all(hasattr(job, "is_over") for job in jobs)
            assert trial.value == pytest.approx(sum(job.value for job in jobs) / len(jobs))


@given(drawn(3, st.sampled_from(["well", "pruned", "failed", "before"])), st.integers(1, 4))
def test_a_pruner_looks_at_the_first_seed_and_the_others_follow_if_it_was_not_stopped(trials, num_places):
    found = run(trials, num_places=num_places, at_once=num_places, prunes=True)
    expected = {"pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial in found.study.get_trials():
        first, *others = (job for job in found.all if job.trial == trial.number)
        if first.end in expected:
            assert trial.state == expected[first.end]
            assert not any(hasattr(job, "is_over") for job in others)
        elif first.end == "well":
            assert all(job.started >= first.started + first.seconds for job in others if hasattr(job, "started"))
            assert trial.state in (TrialState.COMPLETE, TrialState.FAIL)


def test_one_trial_at_once_means_all_its_seeds():
    found = run([[(1, "well")] * 3] * 2, num_places=9, at_once=1, prunes=False)
    assert [job.started for job in found.all] == [0, 0, 0, 1, 1, 1]


def test_a_seed_has_the_directory_that_it_has_alone():
    job = SimpleNamespace(overrides=["+seed=4", "lr=0.1", "seed=5"], config=OmegaConf.create({"seed": 5}))
    assert add_seeds(job, 1) == []
    assert add_seeds(job, 3) == [["lr=0.1", "seed=6"], ["lr=0.1", "seed=7"]]

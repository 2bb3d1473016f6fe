"""A search by Optuna: trials are asked for when a slot is free, run as a job each, and told to the study."""

import contextlib
import importlib.util
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.checks import objective_of
from leyden.config.errors import UserError
from leyden.run import lock
from leyden.run.result import Failure
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space
from leyden.sweep.study import draw, open_study, sampler_for, trial_of, try_sampler
from leyden.sweep.sweep import Sweep


class Search:
    """A search over a study that several processes may share; each process asks it for trials, one job each.

    A process marks its trials with a unique owner name and holds a lock of that name while it lives. A running
    trial whose owner's lock is free was abandoned, and another process takes it over.

    Args:
        study: The study of `open_study`.
        sweep: The sweep, which makes the jobs.
        space: The search space.
        num_trials: Number of trials to complete, including those of earlier starts; failed trials don't count.
        sampler: As in `sampler_for`; None for the study's own.
    """

    def __init__(
        self, study: optuna.Study, sweep: Sweep, space: Space, *, num_trials: int, sampler: Any = None
    ) -> None:
        self.study, self.sweep, self.space = study, sweep, space
        self.directory = sweep.directory
        self.num_trials, self.sampler = num_trials, sampler
        self.owner = f"owner-{uuid.uuid4().hex}"
        self.trials: list[Trial] = []  # of this process, by the number of the job
        self.is_exhausted = False
        self._watches: dict[str, lock.Watch] = {}  # by owner

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Hold this process's lock, and enqueue the failed trials of earlier starts once more."""
        with lock.hold(self._lock(self.owner)):
            with lock.hold(self._lock("ask")):
                trials = self.study.get_trials(deepcopy=False)
                retried = {trial.user_attrs.get("again") for trial in trials}
                for trial in trials:
                    if trial.state == TrialState.FAIL and trial.number not in retried:
                        self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            yield

    def ask(self) -> Job | None:
        """Return the job of the next trial: one abandoned by a killed process, else a new one; None if there are enough.

        Raises:
            UserError: The study is of another space.
        """
        while (job := self._ask()) is None and self._must_wait():
            time.sleep(1)
        return job

    def _ask(self) -> Job | None:
        with lock.hold(self._lock("ask")):
            trials, abandoned = self.study.get_trials(deepcopy=False), None
            for frozen in filter(self._is_abandoned, trials):
                if "run" in frozen.user_attrs:
                    abandoned = frozen
                    break
                self.study.tell(frozen.number, state=TrialState.FAIL)  # its process was killed while it was drawn
            if not abandoned and (self.is_exhausted or self.num_open() < 1):
                return None
            if self.sampler is not None:
                self.study.sampler = sampler_for(self.sampler, abandoned.number if abandoned else len(trials))
            try:
                # An abandoned trial has its values already.
                trial = trial_of(self.study, abandoned) if abandoned else self.study.ask()
                overrides = self.space.suggest(trial)
            except ValueError as error:
                raise UserError(
                    f"{self.directory}: the sampler, or its study, does not accept this space ({error})\n"
                    "a different space needs another sweep_name"
                ) from error
            (job,) = self.sweep.new_jobs([[*self.space.fixed, *overrides]], first=len(self.trials))
            trial.set_user_attr("owner", self.owner)
            trial.set_user_attr("run", job.run.directory.name)
            self.trials.append(trial)
            return job

    def _must_wait(self) -> bool:
        """Return whether a trial may yet be found abandoned, and no running trial of this process will ask again."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(map(self._is_own, running)):
            return False
        return any(self._state(frozen) == "unknown" for frozen in running)

    def ended(self, job: Job, failure: Failure | None) -> None:
        """Record the outcome of a trial, unless another process has taken it over while this one was suspended."""
        trial, result = self.trials[job.number], job.run.result
        outcome: dict[str, Any] = {}
        if failure:
            outcome["state"] = TrialState.FAIL
        elif result and result.status == "pruned":
            outcome["state"] = TrialState.PRUNED
        else:
            outcome["values"] = result.objective.value if result and result.objective else None
        if trial.user_attrs["owner"] != self.owner:
            return
        try:
            self.study.tell(trial, **outcome)
        except RuntimeError as error:  # a sampler with nothing left to try stops the study
            if "Study.stop" not in str(error):
                raise
            self.is_exhausted = True

    def num_open(self) -> int:
        """Return the number of new trials still to be asked for."""
        return self.num_trials - sum(map(self._counts, self.study.get_trials(deepcopy=False)))

    def num_ended(self) -> int:
        """Return the number of trials that have ended, those that failed not counted."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def _is_own(self, frozen: FrozenTrial) -> bool:
        return frozen.user_attrs.get("owner") == self.owner

    def _counts(self, frozen: FrozenTrial) -> bool:
        """Return whether a trial counts towards `num_trials`."""
        ended_well = frozen.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return ended_well or frozen.state == TrialState.RUNNING or self._is_own(frozen)

    def _is_abandoned(self, frozen: FrozenTrial) -> bool:
        """Return whether the process of a running trial is known to be gone."""
        is_running = frozen.state == TrialState.RUNNING and not self._is_own(frozen)
        return is_running and self._state(frozen) == "free"

    def _state(self, frozen: FrozenTrial) -> lock.State:
        """Return the state of the lock of a trial's owner; one that has no file is free."""
        owner = frozen.user_attrs.get("owner")
        if not isinstance(owner, str):  # the process died before it recorded itself
            return "free"
        return self._watches.setdefault(owner, lock.Watch(self._lock(owner))).state()

    def _lock(self, name: str) -> Path:
        return self.directory / "locks" / name


def run_search(sweep: Sweep, space: Space, *, sampler: Any, num_trials: int) -> None:
    """Search until `num_trials` trials have ended, including those of earlier starts.

    Args:
        sweep: The sweep, with its directory and launcher.
        space: The search space.
        sampler: One of Optuna's samplers, or a partial function as in `sampler_for`.
        num_trials: Number of trials.

    Raises:
        UserError: The space, the study or a setting is wrong; or trials have failed.
    """
    example = sampler_for(sampler, 0)
    if isinstance(example, GPSampler) and importlib.util.find_spec("scipy") is None:
        # GPSampler itself would fail only at the eleventh trial.
        raise UserError("hydra/sweeper/sampler=gp: scipy is not installed; pip install 'leyden[gp]' installs it")
    if type(num_trials) is not int or num_trials < 1:
        raise UserError(f"hydra.sweeper.num_trials={num_trials}: must be a positive whole number")
    if not space.free and not space.function:
        raise UserError("a search needs keys to search, such as optimizer.lr=tag(log,interval(0.0001,0.01))")
    # Check each bound and each choice before the first trial, or of a function some trials.
    drawn, log_keys = draw(space) if space.function else ([], space.log_keys)
    extremes = sweep.new_jobs([[*space.fixed, *each] for each in drawn] or space.corners())
    aim = objective_of(extremes[0].config.objective)
    if not aim:
        raise UserError("objective=null: a search needs an objective")
    try_sampler(example, space)
    if not sweep.check(extremes, {"fixed": space.fixed_choices}, log=log_keys):
        return
    study = open_study(sweep.directory, sampler=example, direction="maximize" if aim.mode == "max" else "minimize")
    search = Search(study, sweep, space, num_trials=num_trials, sampler=sampler)
    with search.opened():
        sweep.run(
            search.ask,
            total=num_trials,
            num_before=min(search.num_ended(), num_trials),
            shared=space.fixed,
            at_once=sweep.launcher.num_at_once,
            ended=search.ended,
        )
    sweep.conclude()

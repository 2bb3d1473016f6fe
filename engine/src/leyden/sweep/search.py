"""A search by Optuna, which is asked for a trial when a slot is free; a trial is a job.

The study is a file in the sweep directory, shared with the processes of the jobs and across
restarts.
"""

import contextlib
import copy
import functools
import hashlib
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import BaseSampler, GridSampler, QMCSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.base.errors import UserError, as_line
from leyden.config.checks import objective_of
from leyden.config.hydra import call_target
from leyden.exact.files import opened
from leyden.run import lock
from leyden.run.identity import key_of
from leyden.run.result import Failure
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space
from leyden.sweep.sweep import Sweep

STUDY = "study"  # Hyperband's brackets depend on this name
STUDY_LOCK_TIMEOUT_S = 120.0
# Trials that are checked before a search; GPSampler would miss a package at its eleventh.
NUM_TRIED = 16
NUM_TRIALS = 10  # at once, where any number of jobs can be started


class JournalLock:
    """The lock of an Optuna journal, which repairs the file after a process was killed.

    Optuna's own lock files outlive a killed process, and optuna-dashboard would wait for them, then
    remove them. Readers ignore an incomplete last line; Optuna's writer would append to it and so
    corrupt the file.

    Args:
        path: Path of the journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.held = contextlib.ExitStack()

    def acquire(self) -> bool:
        """Hold the lock, and remove an incomplete last line."""
        place = self.path.parent / "locks" / "study"
        self.held.enter_context(lock.hold(place, timeout_s=STUDY_LOCK_TIMEOUT_S))
        with self.path.open("rb+") as file:
            num_bytes = file.seek(0, os.SEEK_END)
            file.seek(max(0, num_bytes - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        self.held.close()


OF_DAMAGED_JOURNAL = (  # by Optuna, of a journal that is damaged
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
)


def open_study(directory: Path, **kwargs: Any) -> optuna.Study:
    """Open the study in a sweep directory, or create it; `kwargs` go to `optuna.create_study`.

    Raises:
        UserError: The study can't be read, or another process holds its lock for too long.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / "study.journal"
    try:
        with contextlib.suppress(FileNotFoundError):
            opened(path).close()  # no link or pipe, which Optuna would write to
        journal_lock: Any = JournalLock(path)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=journal_lock))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, **kwargs)
    except OF_DAMAGED_JOURNAL as error:
        raise UserError(
            f"{path}: the study can't be read ({type(error).__name__}: {error})"
        ) from error


def find_trial(run_directory: Path, pruner: Any) -> Trial | None:
    """Return the running trial of a run directory, or None."""
    study = open_study(run_directory.parent, pruner=pruner)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("run") == run_directory.name:
            return trial_of(study, frozen)
    return None


def trial_of(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """Return a trial that another process asked for, to continue it.

    Optuna has no public way to do so.
    """
    return Trial(study, frozen._trial_id)


def redrawn(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """Return a trial that was killed while it was drawn, with its sampler where it was then.

    The values that it has are drawn once more, so that the others come from the same random
    numbers.
    """
    study.sampler.before_trial(study, frozen)
    trial = trial_of(study, frozen)
    before = copy.deepcopy(frozen)
    before.params = {}
    before.distributions = {}
    for name, distribution in frozen.distributions.items():
        if name not in trial.relative_params and not distribution.single():
            study.sampler.sample_independent(study, before, name, distribution)
        before.distributions = {**before.distributions, name: distribution}
        before.params = {**before.params, name: frozen.params[name]}
    return trial


def make_sampler(node: Any) -> Any:
    """Return one of Optuna's samplers, or a partial function of the seed that makes one.

    Raises:
        UserError: The configuration is wrong.
    """
    if not node:
        return node
    try:
        return call_target(OmegaConf.to_container(node, resolve=True))
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler={node}: {as_line(error)}") from error


def sampler_for(sampler: Any, number: int) -> Any:
    """Return the sampler of one trial, which draws by its seed and the number of the trial.

    So a search that is restarted draws the same for each trial as an uninterrupted one, and repeats
    no earlier draw. A trial that was killed while it was drawn keeps its number.

    Args:
        sampler: A partial function that makes one of Optuna's samplers; another value is returned
            as it is.
        number: Number of the trial.
    """
    if not isinstance(sampler, functools.partial):
        return sampler
    seed = sampler.keywords.get("seed")
    # GridSampler and QMCSampler draw one order that all trials share, so they keep the seed.
    if type(seed) is int and sampler.func not in (GridSampler, QMCSampler):
        digest = hashlib.sha256(f"{seed} {number}".encode()).digest()
        return sampler(seed=int.from_bytes(digest[:4], "big"))
    return sampler()


def try_sampler(sampler: Any, space: Space) -> list[list[str]]:
    """Let a copy of a sampler draw some trials to be checked, after those of the bounds.

    Returns:
        The overrides of each trial without the fixed ones.

    Raises:
        UserError: The sampler does not support the space, or is not one of Optuna's.
    """
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"hydra.sweeper.sampler={sampler}: must be one of Optuna's samplers")
    study = optuna.create_study(sampler=copy.deepcopy(sampler))
    intervals = {each.name: each.interval for each in space.free if each.interval}
    study.enqueue_trial({name: interval.low for name, interval in intervals.items()})
    study.enqueue_trial({name: interval.high for name, interval in intervals.items()})
    drawn = []
    try:
        for number in range(NUM_TRIED):
            trial = study.ask()
            drawn.append(space.suggest(trial))
            # A sampler with nothing left to try stops the study.
            with contextlib.suppress(RuntimeError):
                study.tell(trial, float(number))
    except UserError:  # of the space
        raise
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler: {as_line(error)}") from error
    return drawn


class Search:
    """A search over a study, of which this process alone asks for trials, one job each.

    Trials that an earlier start has left come first, then the failed ones once more.

    Args:
        study: The study of `open_study`.
        sweep: The sweep, which makes the jobs.
        space: The search space.
        num_trials: Number of trials to complete, including those of earlier starts; failed trials
            don't count.
        sampler: As in `sampler_for`; None for the study's own.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: Sweep,
        space: Space,
        *,
        num_trials: int,
        sampler: Any = None,
    ) -> None:
        self.study = study
        self.sweep = sweep
        self.space = space
        self.num_trials = num_trials
        self.sampler = sampler
        self.trials: list[Trial] = []  # of this start, by the number of the job
        self.is_exhausted = False
        self.left: deque[FrozenTrial] = deque()
        trials = study.get_trials(deepcopy=False)
        # A trial that runs, and has no run, was being drawn when the process was killed.
        alive = (TrialState.WAITING, TrialState.RUNNING)
        begun = [each for each in trials if "run" in each.user_attrs or each.state in alive]
        retried = {trial.user_attrs.get("again") for trial in begun}
        for trial in trials:
            if trial.state == TrialState.RUNNING:
                self.left.append(trial)
            elif trial.state == TrialState.FAIL and trial in begun and trial.number not in retried:
                study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        self.num_ended = sum(trial.state in ended for trial in trials)

    def ask(self) -> Job | None:
        """Return the job of the next trial; None if there are enough.

        Raises:
            UserError: The study is of another space.
        """
        left = None
        if self.left:
            left = self.left.popleft()
        are_enough = self.num_ended + len(self.trials) >= self.num_trials
        if left is None and (self.is_exhausted or are_enough):
            return None
        if self.sampler is not None:
            number = self._next_number() if left is None else left.number
            self.study.sampler = sampler_for(self.sampler, number)
        try:
            if left is None:
                trial = self.study.ask()
            elif "run" in left.user_attrs:
                trial = trial_of(self.study, left)
            else:
                trial = redrawn(self.study, left)
            overrides = self.space.suggest(trial)  # of one that was left, the values that it has
        except ValueError as error:
            raise UserError(
                f"{self.sweep.directory}: the sampler, or its study, does not accept this space "
                f"({error})\n"
                "a different space needs another sweep_name"
            ) from error
        (job,) = self.sweep.new_jobs([[*self.space.fixed, *overrides]], first=len(self.trials))
        trial.set_user_attr("run", job.run.directory.name)
        self.trials.append(trial)
        return job

    def _next_number(self) -> int:
        """Return the number of the trial that the study gives next."""
        trials = self.study.get_trials(deepcopy=False)
        waiting = (trial.number for trial in trials if trial.state == TrialState.WAITING)
        return next(waiting, len(trials))

    def ended(self, job: Job, failure: Failure | None) -> None:
        """Record the outcome of a trial."""
        result = job.run.result
        outcome: dict[str, Any] = {}
        if failure:
            outcome["state"] = TrialState.FAIL
        elif result and result.status == "pruned":
            outcome["state"] = TrialState.PRUNED
        else:
            outcome["values"] = result.objective.value if result and result.objective else None
        try:
            self.study.tell(self.trials[job.number], **outcome)
        except RuntimeError as error:  # a sampler with nothing left to try stops the study
            if "Study.stop" not in str(error):
                raise
            self.is_exhausted = True


def _shared(drawn: Sequence[Sequence[str]]) -> list[str]:
    """Return the overrides that all of several trials have; empty if the trials are all alike."""
    shared = set.intersection(*map(set, drawn))
    every = set.union(*map(set, drawn))
    if shared == every:
        return []
    return sorted(shared)


def run_search(sweep: Sweep, space: Space, sweeper: DictConfig) -> None:
    """Search until `num_trials` trials have ended, including those of earlier starts.

    Args:
        sweep: The sweep, with its directory and launcher.
        space: The search space.
        sweeper: The node `hydra.sweeper`, with `num_trials` and `sampler`.

    Raises:
        UserError: The space, the study or a setting is wrong; or trials have failed.
    """
    sampler = make_sampler(sweeper.sampler)
    num_trials = sweeper.num_trials
    if type(num_trials) is not int or num_trials < 1:
        raise UserError(f"hydra.sweeper.num_trials={num_trials}: must be a positive whole number")
    if not space.free and not space.function:
        raise UserError(
            "a search needs keys to search, such as optimizer.lr=tag(log,interval(0.0001,0.01))"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    example = sampler_for(sampler, 0)
    drawn = try_sampler(example, space)
    if space.function:  # what its trials set is known from now on
        keys = {key_of(each) for trial in drawn for each in trial}
        sweep.name_jobs([*space.fixed, *_shared(drawn)], keys)
    jobs = sweep.new_jobs([[*space.fixed, *each] for each in drawn])
    aim = objective_of(jobs[0].compose().objective)
    if not aim:
        raise UserError("objective=null: a search needs an objective")
    if not sweep.check(jobs, {"fixed": space.fixed_choices}):
        return
    with lock.hold(sweep.directory / "locks" / "search", timeout_s=lock.LOCK_TIMEOUT_S):
        direction = "minimize"
        if aim.mode == "max":
            direction = "maximize"
        study = open_study(sweep.directory, sampler=example, direction=direction)
        search = Search(study, sweep, space, num_trials=num_trials, sampler=sampler)
        sweep.run(
            search.ask,
            total=num_trials,
            num_before=min(search.num_ended, num_trials),
            at_once=sweep.launcher.num_at_once or NUM_TRIALS,
            ended=search.ended,
        )
    sweep.conclude()

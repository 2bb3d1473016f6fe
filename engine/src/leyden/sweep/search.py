"""A search by Optuna: trials are asked for when a slot is free, run as one job per seed, and told to the study."""

import contextlib
import importlib.util
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.checks import MAX_JOBS, objective_of
from leyden.config.errors import UserError
from leyden.config.terminal import warn
from leyden.run import lock
from leyden.run.identity import key_of
from leyden.run.record import is_own, signature
from leyden.run.result import Failure
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space
from leyden.sweep.study import draw, open_study, sampler_for, trial_of, try_sampler
from leyden.sweep.sweep import Sweep, add_seeds, num_seeds

OVERRIDES = (
    "overrides"  # attribute of a trial: its overrides without those that all trials share, and their signature
)
PRUNING = "leyden.sweep.pruning.Pruning"  # not imported, as it imports PyTorch


@dataclass
class OpenTrial:
    """A trial whose jobs have not all ended.

    Args:
        trial: Optuna's trial.
        waiting: Its jobs that have not started.
        has_pruner: True if a pruner may stop it. Only the first seed is pruned; the others wait for its end.
        running: Numbers of the running jobs.
        values: The objective's value, of each job that has finished.
        state: The final state of a failed or pruned trial.
    """

    trial: Trial
    waiting: list[Job]
    has_pruner: bool
    running: set[int] = field(default_factory=set)
    values: list[float | None] = field(default_factory=list)
    state: TrialState | None = None

    def next_job(self) -> Job | None:
        """Return the next job to start; None if there is none, or if it must wait for the first seed."""
        if not self.waiting or (self.has_pruner and self.running and not self.values):
            return None
        job = self.waiting.pop(0)
        self.running.add(job.number)
        return job


class Trials:
    """The trials of this process: asks for them, yields their jobs, and tells the study their results.

    Args:
        ask: Returns a new trial and its jobs, the first seed first; None if there are no more.
        tell: Records the outcome of a trial, as `optuna.Study.tell`.
        at_once: Largest number of open trials.
        dropped: Called with the number of jobs that will not run, when a trial fails or is pruned.
    """

    def __init__(
        self,
        ask: Callable[[], tuple[Trial, list[Job]] | None],
        tell: Callable[..., None],
        *,
        at_once: int,
        dropped: Callable[[int], None],
    ) -> None:
        self._ask, self._tell, self.at_once, self.dropped = ask, tell, at_once, dropped
        self.open: list[OpenTrial] = []
        self.is_exhausted = False

    def ask(self) -> Job | None:
        """Return the next job to start; None if there is none now."""
        for trial in self.open:
            if job := trial.next_job():
                return job
        if self.is_exhausted or len(self.open) >= self.at_once or not (asked := self._ask()):
            return None
        optuna_trial, jobs = asked
        self.open.append(new := OpenTrial(optuna_trial, jobs, has_pruner=_has_pruner(jobs[0])))
        return new.next_job()

    def ended(self, job: Job, failure: Failure | None) -> None:
        """Record the end of a job, with its failure, None on success."""
        trial = next(each for each in self.open if job.number in each.running)
        trial.running.remove(job.number)
        result = job.run.result
        if failure:
            trial.state = TrialState.FAIL
        elif result and result.status == "pruned":
            trial.state = trial.state or TrialState.PRUNED
        else:
            trial.values.append(result.objective.value if result and result.objective else None)
        if trial.state is not None and trial.waiting:
            self.dropped(len(trial.waiting))
            trial.waiting.clear()
        if not trial.waiting and not trial.running:
            self.open.remove(trial)
            self._end(trial)

    def _end(self, trial: OpenTrial) -> None:
        outcome: dict[str, Any] = (
            {"state": trial.state} if trial.state is not None else {"values": mean_over_seeds(trial.values)}
        )
        try:
            self._tell(trial.trial, **outcome)
        except RuntimeError as error:  # a sampler with nothing left to try stops the study
            if "Study.stop" not in str(error):
                raise
            self.is_exhausted = True


def mean_over_seeds(values: Sequence[float | None]) -> float | None:
    """Return the mean of the objective over the seeds; None if a seed has no value."""
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _has_pruner(job: Job) -> bool:
    return any(node and node.get("_target_") == PRUNING for node in job.config.callbacks.values())


class Search:
    """A search over a study that several processes may share; each process asks it for trials.

    A process marks its trials with a unique owner name and holds a lock of that name while it lives. A running
    trial whose owner's lock is free was abandoned, and another process takes it over.

    Args:
        study: The study of `open_study`.
        sweep: The sweep, which makes the jobs.
        space: The search space.
        num_trials: Number of trials to complete, including those of earlier starts; failed trials don't count.
        num_seeds: Number of jobs of a trial. `Pruning` finds the trial by the name of the first one's run directory.
        sampler: As in `sampler_for`; None for the study's own.
    """

    def __init__(
        self,
        study: optuna.Study,
        sweep: Sweep,
        space: Space,
        *,
        num_trials: int,
        num_seeds: int = 1,
        sampler: Any = None,
    ) -> None:
        self.study, self.sweep, self.space = study, sweep, space
        self.directory, self.trust = sweep.directory, sweep.config.trust
        self.num_trials, self.num_seeds, self.sampler = num_trials, num_seeds, sampler
        self.num_jobs = 0
        self.owner = f"owner-{uuid.uuid4().hex}"
        self.owned: set[int] = set()  # numbers of this process's trials
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

    def ask(self) -> tuple[Trial, list[Job]] | None:
        """Return the next trial with its jobs: one abandoned by a killed process, else a new one; None if there are enough.

        Raises:
            UserError: The study is of another space.
        """
        while (asked := self._ask()) is None and self._must_wait():
            time.sleep(1)
        return asked

    def _ask(self) -> tuple[Trial, list[Job]] | None:
        with lock.hold(self._lock("ask")):
            for frozen in self.study.get_trials(deepcopy=False):
                if frozen.state == TrialState.RUNNING and self._is_abandoned(frozen):
                    if (overrides := overrides_of(frozen, self.trust)) is not None:
                        return self._claim(trial_of(self.study, frozen), overrides)
                    if OVERRIDES in frozen.user_attrs:
                        warn(
                            f"{self.directory}: trial {frozen.number} is not yours (docs/security.md); trust=true takes it over"
                        )
                    self.study.tell(frozen.number, state=TrialState.FAIL)  # else it was killed while it was drawn
            if self.num_open() < 1:
                return None
            if self.sampler is not None:
                self.study.sampler = sampler_for(self.sampler, len(self.study.get_trials(deepcopy=False)))
            try:
                trial = self.study.ask()
                overrides = self.space.suggest(trial)
            except ValueError as error:
                raise UserError(
                    f"{self.directory}: the sampler, or its study, does not accept this space ({error})\n"
                    "a different space needs another sweep_name"
                ) from error
            return self._claim(trial, overrides)

    def _must_wait(self) -> bool:
        """Return whether a trial may yet be found abandoned, and no running trial of this process will ask again."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        if any(frozen.number in self.owned for frozen in running):
            return False
        return any(self._state(frozen.user_attrs.get("owner", "")) == "unknown" for frozen in running)

    def tell(self, trial: Trial, **outcome: Any) -> None:
        """Record a trial's outcome, unless another process has taken it over while this one was suspended."""
        if trial.user_attrs["owner"] == self.owner:
            self.study.tell(trial, **outcome)

    def num_open(self) -> int:
        """Return the number of new trials still to be asked for."""
        return self.num_trials - sum(map(self._counts, self.study.get_trials(deepcopy=False)))

    def num_ended(self) -> int:
        """Return the number of trials that have ended, those that failed not counted."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def jobs_of(self, overrides: list[str]) -> list[Job]:
        """Return new jobs of a trial with some overrides, the first seed first."""
        (first,) = self.sweep.new_jobs([[*self.space.fixed, *overrides]], first=self.num_jobs)
        if self.space.function:
            _check_composed(first)
        others = self.sweep.new_jobs(add_seeds(first, self.num_seeds), first=self.num_jobs + 1)
        self.num_jobs += self.num_seeds
        return [first, *others]

    def _claim(self, trial: Trial, overrides: list[str]) -> tuple[Trial, list[Job]]:
        jobs = self.jobs_of(overrides)
        first, *others = (job.run.directory.name for job in jobs)
        trial.set_user_attr("owner", self.owner)
        if others:
            trial.set_user_attr("other_runs", others)
        trial.set_user_attr(OVERRIDES, [overrides, signature(json.dumps(overrides))])
        trial.set_user_attr("run", first)  # after the overrides, with which the run can be taken over
        self.owned.add(trial.number)
        return trial, jobs

    def _counts(self, frozen: FrozenTrial) -> bool:
        """Return whether a trial counts towards `num_trials`."""
        ended_well = frozen.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return ended_well or frozen.state == TrialState.RUNNING or frozen.number in self.owned

    def _is_abandoned(self, frozen: FrozenTrial) -> bool:
        """Return whether the process of a running trial is known to be gone."""
        owner = frozen.user_attrs.get("owner", "")
        return frozen.number not in self.owned and (not isinstance(owner, str) or self._state(owner) == "free")

    def _state(self, owner: str) -> lock.State:
        """Return the state of an owner's lock; one that has no file is free."""
        if not owner:  # the process died before it recorded itself
            return "free"
        watch = self._watches.setdefault(owner, lock.Watch(self._lock(owner)))
        return watch.state()

    def _lock(self, name: str) -> Path:
        return self.directory / "locks" / name


def overrides_of(frozen: FrozenTrial, trust: bool) -> list[str] | None:
    """Return a trial's overrides, which are composed; None if it has none that are the user's own or trusted."""
    match frozen.user_attrs.get(OVERRIDES):
        case [[*overrides], str(signed)] if trust or is_own(json.dumps(overrides), signed):
            return [str(each) for each in overrides]
    return None


def run_search(
    sweep: Sweep,
    space: Space,
    *,
    sampler: Any,
    num_trials: int,
    batch_size: int | None,
) -> None:
    """Search until `num_trials` trials have ended, including those of earlier starts.

    Args:
        sweep: The sweep, with its directory and launcher.
        space: The search space.
        sampler: One of Optuna's samplers, or a partial function as in `sampler_for`.
        num_trials: Number of trials.
        batch_size: Largest number of trials at once; None for as many as the launcher runs at once.

    Raises:
        UserError: The space, the study or a setting is wrong; or trials have failed.
    """
    example = sampler_for(sampler, 0)
    if isinstance(example, GPSampler) and importlib.util.find_spec("scipy") is None:
        # GPSampler itself would fail only at the eleventh trial.
        raise UserError("hydra/sweeper/sampler=gp: scipy is not installed; pip install 'leyden[gp]' installs it")
    if batch_size is None:
        batch_size = sweep.launcher.num_at_once
    for key, value in (("num_trials", num_trials), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise UserError(f"hydra.sweeper.{key}={value}: must be a positive whole number")
    if not space.free and not space.function:
        raise UserError("a search needs keys to search, such as optimizer.lr=tag(log,interval(0.0001,0.01))")
    # Check each bound and each choice before the first trial, or of a function some trials.
    drawn, log_keys = draw(space, example) if space.function else ([], space.log_keys)
    num = num_seeds(sweep.config, space.keys.union(*(map(key_of, each) for each in drawn)))
    extremes = sweep.new_jobs([[*space.fixed, *each] for each in drawn] or space.corners())
    for job in extremes if space.function else ():
        _check_composed(job)
    aim = objective_of(extremes[0].task_config.objective)
    if not aim:
        raise UserError("objective=null: a search needs an objective")
    try_sampler(example, space)
    checked = [*extremes, *sweep.new_jobs(add_seeds(extremes[0], num), first=len(extremes))]
    if not sweep.check(checked, {"sweep.seeds": num, "fixed": space.fixed_choices}, log=log_keys):
        return
    study = open_study(sweep.directory, sampler=example, direction="maximize" if aim.mode == "max" else "minimize")
    search = Search(study, sweep, space, num_trials=num_trials, num_seeds=num, sampler=sampler)
    trials = Trials(search.ask, search.tell, at_once=batch_size, dropped=sweep.reduce_total)
    with search.opened():
        sweep.run(
            trials.ask,
            total=num_trials * num,
            num_before=min(search.num_ended(), num_trials) * num,
            shared=space.fixed,
            at_once=min(batch_size * num, sweep.config.cluster.num_jobs or MAX_JOBS),
            ended=trials.ended,
        )
    sweep.conclude()


def _check_composed(job: Job) -> None:
    """Raise a `UserError` that names the function of `sweep.space` if a job of it can't be composed."""
    try:
        _ = job.identity
    except (HydraException, OmegaConfBaseException, UserError) as error:
        where = f"sweep.space={job.composer.config.sweep.space}: {' '.join(job.overrides)}"
        raise UserError(f"{where}: {str(error).splitlines()[0]}") from error

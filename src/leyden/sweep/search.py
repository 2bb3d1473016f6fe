"""A search by Optuna: its trials, each a job per seed, asked for when there is a place and told to the study when they end."""

import contextlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import filelock
import optuna
from optuna.samplers import GPSampler
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.errors import UserError
from leyden.config.objective import objectives
from leyden.sweep.jobs import Job
from leyden.sweep.space import Dimension, Space, read_when
from leyden.sweep.study import open_study, trial_of, try_sampler
from leyden.sweep.sweep import Sweep, add_seeds, num_seeds

PRUNING = "leyden.sweep.pruning.Pruning"  # by its name: it imports PyTorch


@dataclass
class OpenTrial:
    """A trial under way.

    Args:
        trial: Optuna's.
        waiting: Its jobs that have not started.
        is_pruned: Whether a pruner looks at it. It looks at the first seed, the others wait for what it says.
        running: The numbers of jobs that have started.
        values: Of the objectives, of each job that has ended well.
        state: What it ends as, where it does not end well.
    """

    trial: Trial
    waiting: list[Job]
    is_pruned: bool
    running: set[int] = field(default_factory=set)
    values: list[Sequence[float | None]] = field(default_factory=list)
    state: TrialState | None = None

    def next(self) -> Job | None:
        """The next of its jobs; None if there is none, or none yet."""
        if not self.waiting or (self.is_pruned and self.running and not self.values):
            return None
        job = self.waiting.pop(0)
        self.running.add(job.number)
        return job


class Trials:
    """Asks for trials, gives their jobs, and tells the study what came of them.

    Args:
        study: Optuna's.
        ask: Gives a trial and its jobs, the first seed first; None for none.
        at_once: How many trials are under way at once, at most.
        dropped: Is told of how many jobs there will be less than there were to be.
    """

    def __init__(
        self,
        study: optuna.Study,
        ask: Callable[[], tuple[Trial, list[Job]] | None],
        *,
        at_once: int,
        dropped: Callable[[int], None],
    ) -> None:
        self.study, self._ask, self.at_once, self.dropped = study, ask, at_once, dropped
        self.open: list[OpenTrial] = []
        self.is_exhausted = False

    def ask(self) -> Job | None:
        """The next job; None for none now."""
        for one in self.open:
            if job := one.next():
                return job
        if self.is_exhausted or len(self.open) >= self.at_once or not (asked := self._ask()):
            return None
        trial, jobs = asked
        self.open.append(new := OpenTrial(trial, jobs, is_pruned=_is_pruned(jobs[0])))
        return new.next()

    def ended(self, job: Job, error: str) -> None:
        """Take what came of a job; its error, empty for none."""
        one = next(one for one in self.open if job.number in one.running)
        one.running.remove(job.number)
        result = job.run.result
        if error:
            one.state = TrialState.FAIL
        elif result and result.status == "pruned":
            one.state = one.state or TrialState.PRUNED
        else:
            one.values.append([objective.value for objective in result.objectives] if result else [])
        if one.state is not None and one.waiting:
            self.dropped(len(one.waiting))
            one.waiting.clear()
        if not one.waiting and not one.running:
            self.open.remove(one)
            self._tell(one)

    def _tell(self, one: OpenTrial) -> None:
        told: dict[str, Any] = (
            {"state": one.state} if one.state is not None else {"values": objective_means(one.values)}
        )
        try:
            self.study.tell(one.trial, **told)
        except RuntimeError as error:  # a sampler that has tried all there is wants to stop the study
            if "Study.stop" not in str(error):
                raise
            self.is_exhausted = True


def objective_means(values: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each objective over the seeds; None where one of them has none.

    Example:
        >>> objective_means([[0.5, 10.0], [1.0, 10.0]])
        [0.75, 10.0]
    """
    return [fmean(column) if None not in column else None for column in zip(*values, strict=True)]


def _is_pruned(job: Job) -> bool:
    return any(node and node.get("_target_") == PRUNING for node in job.config.callbacks.values())


class Search:
    """Asks for the trials of a sweep.

    Args:
        study: As `open_study` gives it.
        directory: The sweep directory.
        space: What is searched.
        num_trials: How many are to have ended, those of earlier starts included; what failed then does not count.
        runs: Gives the names of a trial's run directories; by the first one `Pruning` finds the trial.
    """

    def __init__(
        self,
        study: optuna.Study,
        directory: Path,
        space: Space,
        *,
        num_trials: int,
        runs: Callable[[Trial], list[str]],
    ) -> None:
        self.study, self.directory, self.space = study, directory, space
        self.num_trials, self.runs = num_trials, runs
        self.owner = f"owner-{uuid.uuid4().hex}"
        self.mine: set[int] = set()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Let others see that this process is alive, and let what has failed before be tried once more."""
        mine = self._lock(self.owner)
        try:
            with self._lock("ask"):
                mine.acquire()
                self._remove_free_locks()
                self._find_lost()
                trials = self.study.get_trials(deepcopy=False)
                again = {trial.user_attrs.get("again") for trial in trials}
                for trial in trials:
                    if trial.state == TrialState.FAIL and trial.number not in again:
                        # One that was itself to try a setting again can have been killed before it had drawn all of it.
                        setting = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                        self.study.enqueue_trial(setting, user_attrs={"again": trial.number})
            yield
        finally:
            (self.directory / "locks" / self.owner).unlink(missing_ok=True)
            mine.release()

    def ask(self) -> Trial | None:
        """The next trial: one that a killed process has left, else a new one; None if there are enough of them.

        Raises:
            UserError: The study is one of another space.
        """
        with self._lock("ask"):
            for frozen in self.study.get_trials(deepcopy=False):
                if frozen.state == TrialState.RUNNING and self._is_left(frozen):
                    if self.space.has(frozen.params):
                        return self._own(trial_of(self.study, frozen))
                    # It was left before all was drawn, or drawn from another space.
                    self.study.tell(frozen.number, state=TrialState.FAIL)
            if self.num_open() < 1:
                return None
            try:
                trial = self.study.ask()
                self.space.draw(trial)
            except ValueError as error:
                raise UserError(
                    f"{self.directory}: the sampler, or its study, does not take this space ({error})\n"
                    "another space, or another number of objectives, needs another sweep_name"
                ) from error
            return self._own(trial)

    def num_open(self) -> int:
        """How many trials there are still to be asked for."""
        return self.num_trials - sum(map(self._counts, self.study.get_trials(deepcopy=False)))

    def num_to_take_over(self) -> int:
        """How many trials killed processes have left, which this one will run first."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return sum(map(self._is_left, running))

    def num_left(self) -> int:
        """How many trials have not ended, those that are under way included."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return max(0, self.num_trials - len(self.study.get_trials(deepcopy=False, states=states)))

    def _own(self, trial: Trial) -> Trial:
        trial.set_user_attr("owner", self.owner)
        first, *others = self.runs(trial)
        if others:
            trial.set_user_attr("further_runs", others)
        trial.set_user_attr("run", first)
        self.mine.add(trial.number)
        return trial

    def _counts(self, frozen: FrozenTrial) -> bool:
        ended_well = frozen.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return ended_well or frozen.state == TrialState.RUNNING or frozen.number in self.mine

    def _is_left(self, frozen: FrozenTrial) -> bool:
        """Whether the process that runs a trial is gone: its lock is free."""
        if frozen.number in self.mine:
            return False
        # Without an owner it died before it could write down that it is the owner.
        owner = frozen.user_attrs.get("owner")
        return owner is None or not (self.directory / "locks" / owner).exists() or self._is_free(owner)

    def _is_free(self, owner: str) -> bool:
        try:
            with self._lock(owner).acquire(timeout=0):
                return True
        except filelock.Timeout:
            return False

    def _remove_free_locks(self) -> None:
        """Remove what processes that were killed have left; nobody makes a lock meanwhile, as `ask` is held."""
        for path in (self.directory / "locks").glob("owner-*"):
            if path.name != self.owner and self._is_free(path.name):
                path.unlink(missing_ok=True)

    def _find_lost(self) -> None:
        """Make sure that the study knows all runs that there are: else there would be more trials than are wanted.

        Raises:
            UserError: It does not.
        """
        runs = sorted(path.parent.name for path in self.directory.glob("*/config.yaml"))
        known = {name for trial in self.study.get_trials(deepcopy=False) for name in names_of_runs(trial)}
        if unknown := [name for name in runs if name not in known]:
            raise UserError(
                f"{self.directory}/study.journal knows nothing of {len(unknown)} of {len(runs)} runs here, as "
                f"{unknown[0]}: it was lost, in part or whole\n"
                "choose another sweep_name, or move those runs away: the search goes on without them"
            )

    def _lock(self, name: str) -> filelock.FileLock:
        folder = self.directory / "locks"
        folder.mkdir(exist_ok=True)
        return filelock.FileLock(folder / name)


def names_of_runs(frozen: FrozenTrial) -> list[str | None]:
    """The names of a trial's run directories, the first seed's first: None where it was left before it had one."""
    return [frozen.user_attrs.get("run"), *frozen.user_attrs.get("further_runs", ())]


def run_search(
    sweep: Sweep,
    dimensions: Sequence[Dimension],
    when: Any,
    *,
    sampler: Any,
    num_trials: int,
    batch_size: int | None,
) -> None:
    """Search until `num_trials` trials have ended, those of earlier starts included.

    Args:
        sweep: Its directory and launcher.
        dimensions: What is searched, and what is fixed.
        when: The conditions under which a key is there, as `hydra.sweeper.when` has them.
        sampler: One of Optuna's.
        num_trials: How many trials there are to be.
        batch_size: Trials at once, at most; None for as many as the launcher runs at once.

    Raises:
        UserError: Something is wrong with the space, the study or a setting; or trials have failed.
    """
    if isinstance(sampler, GPSampler) and importlib.util.find_spec("scipy") is None:
        # It would not miss it before the eleventh trial.
        raise UserError("hydra/sweeper/sampler=gp: scipy is not installed; pip install -e '.[gp]' installs it")
    if batch_size is None:
        batch_size = sweep.launcher.num_at_once
    for key, value in (("num_trials", num_trials), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise UserError(f"hydra.sweeper.{key}={value}: must be a positive whole number")
    space = Space(dimensions, read_when(when, dimensions))
    if not space.free:
        raise UserError("a search needs keys to search, as optimizer.lr=tag(log,interval(0.0001,0.01))")
    if never := space.never_there():
        raise UserError(f"hydra.sweeper.when.{never[0]}: its conditions never hold together")
    num = num_seeds(sweep.config, [space])
    # Each bound, each choice and each branch is checked before the first trial.
    extremes = sweep.compose([space.overrides(corner) for corner in space.corners()])
    aims = objectives(extremes[0].task_config.objective)
    if not aims:
        raise UserError("objective=null: a search needs an objective")
    directions = ["maximize" if aim.mode == "max" else "minimize" for aim in aims]
    try_sampler(sampler, space, directions)
    checked = [*extremes, *sweep.compose(add_seeds(extremes[0], num), first=len(extremes))]
    if not sweep.check(checked, {"sweep.seeds": num, "fixed": space.fixed_choices}, log=space.log_keys):
        return
    study = open_study(sweep.directory, sampler=sampler, directions=directions)
    jobs: dict[int, list[Job]] = {}  # of each trial
    num_composed = 0

    def composed(params: Mapping[str, Any]) -> list[Job]:
        nonlocal num_composed
        (first,) = sweep.compose([space.overrides(params)], first=num_composed)
        further = sweep.compose(add_seeds(first, num), first=num_composed + 1)
        num_composed += num
        return [first, *further]

    def runs(trial: Trial) -> list[str]:
        """Compose the jobs of a trial; the names of their directories."""
        jobs[trial.number] = composed(trial.params)
        return [job.run.directory.name for job in jobs[trial.number]]

    def find(directory: Path) -> Job | None:
        """The job of a directory, if it is one of this space."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        its = (each for each in trials if directory.name in names_of_runs(each) and space.has(each.params))
        return next((job for each in its for job in composed(each.params) if job.run.directory == directory), None)

    looking = Search(study, sweep.directory, space, num_trials=num_trials, runs=runs)
    if not sweep.launcher.waits and (num_left := looking.num_left()):
        sweep.launcher.leave_search(sweep.config, min(batch_size, num_left))  # type: ignore[attr-defined]
        return

    def ask() -> tuple[Trial, list[Job]] | None:
        trial = looking.ask()
        return (trial, jobs.pop(trial.number)) if trial else None

    trials = Trials(study, ask, at_once=batch_size, dropped=sweep.expect_less)
    with looking.opened():
        num_before = (num_trials - looking.num_left()) * num
        total = num_before + (looking.num_open() + looking.num_to_take_over()) * num
        sweep.run(
            trials.ask,
            total=total,
            num_before=num_before,
            shared=space.fixed,
            at_once=batch_size * num,
            ended=trials.ended,
        )
    sweep.conclude(find)

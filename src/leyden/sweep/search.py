"""A search by Optuna: its space in Hydra's override syntax, its study in the sweep directory.

optimizer.lr=tag(log,interval(0.0001,0.01))   a number, log-uniform
model.dropout=interval(0.0,0.5)               a number
data.batch_size=int(interval(32,256))         a whole number
data.batch_size=choice(64,128,256)            one of these; 64,128,256 says the same
trainer.accumulate_grad_batches=range(1,5)    1, 2, 3 or 4
"""

import contextlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import optuna
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, QuotedString, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config import UserError

STUDY = "leyden"


def space(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The distribution of each key that is searched, and the overrides that are fixed; the last one of a key holds.

    Raises:
        UserError: A range or interval is empty, or not what its tag asks for.
    """
    searched: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        searched.pop(key, None)
        fixed.pop(key, None)
        if not override.is_sweep_override():
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
            continue
        try:
            searched[key] = _distribution(override.value())
        except (ValueError, TypeError) as error:
            raise UserError(f"{override.input_line}: {error}") from error
    return searched, list(fixed.values())


def _distribution(sweep: Any) -> BaseDistribution:
    log = "log" in sweep.tags
    if isinstance(sweep, ChoiceSweep):
        return CategoricalDistribution([_text(value) for value in sweep.list])
    if isinstance(sweep, IntervalSweep):
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(float(sweep.start or 0), float(sweep.end or 0), log=log)
    assert isinstance(sweep, RangeSweep)
    values = list(sweep.range())
    if not values:
        raise ValueError("an empty range")
    return CategoricalDistribution([_text(value) for value in values])


def _text(value: Any) -> str:
    """A value as it stands in an override."""
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def corners(searched: dict[str, BaseDistribution]) -> list[dict[str, str]]:
    """Settings that take each bound and each choice, so that a mistake shows before the first trial."""
    values = {key: list(map(str, _extremes(distribution))) for key, distribution in searched.items()}
    number = max((len(list_) for list_ in values.values()), default=1)
    return [{key: list_[n % len(list_)] for key, list_ in values.items()} for n in range(number)]


def _extremes(distribution: BaseDistribution) -> Sequence[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return distribution.low, distribution.high


def open_study(directory: Path, **kwargs: Any) -> optuna.Study:
    """The study in a sweep directory.

    Raises:
        UserError: It can't be read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / "study.journal"
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path))))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: the study can't be read ({type(error).__name__}: {error})") from error


class Search:
    """Asks for the trials of a sweep, over restarts and beside other processes that work on the same study.

    Args:
        study: As `open_study` gives it.
        directory: The sweep directory.
        searched: The space.
        num_trials: How many are to have ended, those of earlier starts included; what failed then does not count.
        name: Gives a trial's overrides the name of its run directory, by which `Pruning` finds the trial.
    """

    def __init__(
        self,
        study: optuna.Study,
        directory: Path,
        searched: dict[str, BaseDistribution],
        *,
        num_trials: int,
        name: Callable[[list[str]], str],
    ) -> None:
        self.study, self.directory, self.searched = study, directory, searched
        self.num_trials, self.name = num_trials, name
        self.owner = f"owner-{uuid.uuid4().hex}"
        self.mine: set[int] = set()

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """Let others see that this process is alive, and let what has failed before be tried once more."""
        with self._lock(self.owner):
            with self._lock("ask"):
                trials = self.study.get_trials(deepcopy=False)
                again = {trial.user_attrs.get("again") for trial in trials}
                for trial in trials:
                    if trial.state == TrialState.FAIL and trial.number not in again:
                        self.study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
            yield
        (self.directory / "locks" / self.owner).unlink(missing_ok=True)

    def ask(self, num: int) -> list[Trial]:
        """The next trials, at most `num`: first those that a killed process has left, then new ones.

        Raises:
            UserError: The study is one of another space.
        """
        trials: list[Trial] = []
        with self._lock("ask"):
            found = self.study.get_trials(deepcopy=False)
            for frozen in found:
                if len(trials) < num and frozen.state == TrialState.RUNNING and self._is_left(frozen):
                    if set(frozen.params) == set(self.searched):
                        trials.append(self._own(Trial(self.study, frozen._trial_id)))
                    else:  # left before all was drawn, or drawn from another space
                        self.study.tell(frozen.number, state=TrialState.FAIL)
            num_open = self.num_trials - sum(map(self._counts, found))
            try:
                for _ in range(min(num - len(trials), num_open)):
                    trials.append(self._own(self.study.ask(self.searched)))
            except ValueError as error:
                raise UserError(
                    f"{self.directory}: its study does not take this space ({error}); choose another sweep_name"
                ) from error
        return trials

    def _own(self, trial: Trial) -> Trial:
        trial.set_user_attr("owner", self.owner)
        trial.set_user_attr("run", self.name(as_overrides(trial)))
        self.mine.add(trial.number)
        return trial

    def _counts(self, frozen: FrozenTrial) -> bool:
        ended_well = frozen.state in (TrialState.COMPLETE, TrialState.PRUNED)
        return ended_well or frozen.state == TrialState.RUNNING or frozen.number in self.mine

    def _is_left(self, frozen: FrozenTrial) -> bool:
        """Whether the process that runs a trial is gone: its lock is free."""
        owner = frozen.user_attrs.get("owner")
        if frozen.number in self.mine:
            return False
        if owner is None:
            return True  # it died before it could write down that it is the owner
        try:
            with self._lock(owner).acquire(timeout=0):
                return True
        except filelock.Timeout:
            return False

    def _lock(self, name: str) -> filelock.FileLock:
        folder = self.directory / "locks"
        folder.mkdir(exist_ok=True)
        return filelock.FileLock(folder / name)


def as_overrides(trial: Trial | FrozenTrial) -> list[str]:
    """The setting of a trial."""
    return [f"{key}={value}" for key, value in trial.params.items()]


def find_trial(run_directory: Path, pruner: Any) -> Trial | None:
    """The trial that a run in a sweep directory is; None if it is none."""
    study = open_study(run_directory.parent, pruner=pruner)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("run") == run_directory.name:
            return Trial(study, frozen._trial_id)
    return None

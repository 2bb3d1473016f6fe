"""A search by Optuna: its study in the sweep directory, over restarts and beside other processes."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config import UserError
from leyden.sweep.space import as_overrides

STUDY = "leyden"
LOCK_TIMEOUT = 30  # seconds


def open_study(directory: Path, **kwargs: Any) -> optuna.Study:
    """The study in a sweep directory.

    Raises:
        UserError: It can't be read, or a process that is stuck holds its lock.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / "study.journal"
    try:
        # Optuna's own locks outlive a process that was killed.
        lock: Any = filelock.FileLock(f"{path}.lock", timeout=LOCK_TIMEOUT)
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=lock))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: the study can't be read ({type(error).__name__}: {error})") from error


class Search:
    """Asks for the trials of a sweep.

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
            try:
                for _ in range(min(num - len(trials), self.num_open())):
                    trials.append(self._own(self.study.ask(self.searched)))
            except ValueError as error:
                raise UserError(
                    f"{self.directory}: the sampler, or its study, does not take this space ({error})\n"
                    "another space, or another number of objectives, needs another sweep_name"
                ) from error
        return trials

    def num_open(self) -> int:
        """How many trials there are still to be asked for."""
        return self.num_trials - sum(map(self._counts, self.study.get_trials(deepcopy=False)))

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


def find_trial(run_directory: Path, pruner: Any) -> Trial | None:
    """The trial that a run in a sweep directory is; None if it is none."""
    study = open_study(run_directory.parent, pruner=pruner)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("run") == run_directory.name:
            return Trial(study, frozen._trial_id)
    return None

"""A search by Optuna: which trials are to be run, over restarts and beside other processes."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.mistakes import UserError
from leyden.sweep.space import Space
from leyden.sweep.study import trial_of


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

"""The Optuna study of a search: a file in the sweep directory, shared by several processes and across restarts."""

import contextlib
import copy
import functools
import hashlib
import os
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GridSampler, QMCSampler, RandomSampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.errors import UserError
from leyden.run import lock
from leyden.sweep.space import Space

STUDY = "study"  # Hyperband's brackets depend on this name
LOCK_TIMEOUT_S = 120.0


class _NoLock:
    """A lock that locks nothing."""

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass


class Journal(JournalFileBackend):
    """Optuna's journal file, repaired after a process was killed while it wrote a line.

    Readers ignore an incomplete last line. Optuna's writer would append to it and so corrupt the file; this
    class removes the line first.

    Args:
        path: Path of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Optuna's own lock files outlive a killed process, and optuna-dashboard would wait for them, then remove
        # them; `append_logs` holds a lock of Leyden's instead.
        super().__init__(str(path), lock_obj=_NoLock())  # type: ignore[arg-type]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append records after the last complete one."""
        locked = lock.hold(self.path.parent / "locks" / "study", timeout_s=LOCK_TIMEOUT_S)
        with locked as held, self.path.open("rb+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            held.check()
            super().append_logs(logs)


def open_study(directory: Path, **kwargs: Any) -> optuna.Study:
    """Open the study in a sweep directory, or create it; `kwargs` go to `optuna.create_study`.

    Raises:
        UserError: The study can't be read, or another process holds its lock for too long.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / "study.journal"
    if path.is_symlink():
        raise UserError(f"{path}: is a link; writes to a study must not change other files")
    try:
        storage = JournalStorage(Journal(path))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, **kwargs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        raise UserError(f"{path}: the study can't be read ({type(error).__name__}: {error})") from error


def sampler_for(sampler: Any, number: int) -> Any:
    """Return the sampler of one trial, whose random numbers follow from its seed and the trial's number alone.

    So a search that is restarted, or run by several processes, draws the same for each trial as an uninterrupted
    search in one process, and repeats no earlier draw.

    Args:
        sampler: A partial function that makes one of Optuna's samplers; another value is returned as it is.
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


def try_sampler(sampler: Any, space: Space) -> None:
    """Check a sampler by letting a copy of it sample a few trials.

    Raises:
        UserError: The sampler does not support the space, or is not one of Optuna's.
    """
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"hydra.sweeper.sampler={sampler}: must be one of Optuna's samplers")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=copy.deepcopy(sampler))
    try:
        for number in range(3):
            trial = study.ask()
            space.suggest(trial)
            with contextlib.suppress(RuntimeError):  # a sampler with nothing left to try stops the study
                study.tell(trial, float(number))
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler: {' '.join(str(error).split())}") from error


NUM_DRAWN = 20


def draw(space: Space) -> tuple[list[list[str]], list[str]]:
    """Draw trials at random from a space with a function, to be checked before the search.

    Returns:
        The overrides of each trial without the fixed ones, and the parameters that are numbers on a logarithmic scale.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    trials = [study.ask() for _ in range(NUM_DRAWN)]
    drawn = [space.suggest(trial) for trial in trials]
    known = {name: each for trial in trials for name, each in trial.distributions.items()}
    return drawn, [name for name, each in known.items() if getattr(each, "log", False)]


def find_trial(run_directory: Path, pruner: Any) -> Trial | None:
    """Return the running trial of a run directory, or None."""
    study = open_study(run_directory.parent, pruner=pruner)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("run") == run_directory.name:
            return trial_of(study, frozen)
    return None


def trial_of(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """Return a trial that another process asked for, to continue it; Optuna has no public way to do so."""
    return Trial(study, frozen._trial_id)

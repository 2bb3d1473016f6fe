"""The study of a search: Optuna's, in the sweep directory, over restarts and beside other processes."""

import contextlib
import copy
import os
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    GridSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    TPESampler,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from leyden.config.errors import UserError
from leyden.sweep.space import Space

STUDY = "study"  # brackets of Hyperband follow from it
LOCK = "study.lock"
LOCK_TIMEOUT = 30  # seconds


class Journal(JournalFileBackend):
    """Optuna's file, one record per line, to which a process that is killed can have written half a line.

    Readers leave that out; here the next writer cuts it off, where Optuna's would append to it and spoil the file.

    Args:
        path: Of the file.
    """

    def __init__(self, path: Path) -> None:
        # Optuna's own locks outlive a process that was killed; where one lies, optuna-dashboard would wait, and remove it.
        self.path, self.lock = path, filelock.FileLock(path.with_name(LOCK), timeout=LOCK_TIMEOUT)
        super().__init__(str(path), lock_obj=self.lock)  # type: ignore[arg-type]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write records behind the last one that is whole."""
        with self.lock, self.path.open("rb+") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            if file.read() not in (b"", b"\n"):
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
            super().append_logs(logs)


def open_study(directory: Path, **kwargs: Any) -> optuna.Study:
    """The study in a sweep directory.

    Raises:
        UserError: It can't be read, or a process that is stuck holds its lock.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = directory / "study.journal"
    if path.is_symlink():
        raise UserError(f"{path}: is a link; what is written to a study must not change other files")
    try:
        storage = JournalStorage(Journal(path))
        return optuna.create_study(storage=storage, study_name=STUDY, load_if_exists=True, **kwargs)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path}: the study can't be read ({type(error).__name__}: {error})") from error


def try_sampler(sampler: Any, space: Space, directions: list[Any]) -> None:
    """Let a copy of the sampler draw some trials, of each branch: what it can't do shows now, not after the first trials.

    Raises:
        UserError: It can't, or is none.
    """
    if not isinstance(sampler, BaseSampler):
        raise UserError(f"hydra.sweeper.sampler={sampler}: must be one of Optuna's samplers")
    if space.is_conditional and (draws := _draws_at_random(sampler)):
        raise UserError(
            f"hydra.sweeper.sampler: {draws} learns nothing of keys that some trials lack, as hydra.sweeper.when has it; "
            "tpe, random and grid do"
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=copy.deepcopy(sampler), directions=directions)
    branches = space.branches() if space.is_conditional else []
    for branch in branches:
        study.enqueue_trial(branch)
    try:
        for number in range(3 + len(branches)):
            trial = study.ask()
            space.draw(trial)
            with contextlib.suppress(RuntimeError):  # it has tried all there is
                study.tell(trial, [float(number)] * len(directions))
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler: {' '.join(str(error).split())}") from error


def _draws_at_random(sampler: BaseSampler) -> str:
    """Which sampler this is, if it draws at random what not all trials have; empty if it does not."""
    together = (CmaEsSampler, GPSampler, GridSampler, NSGAIISampler, NSGAIIISampler, QMCSampler)
    if isinstance(sampler, together):
        return type(sampler).__name__
    # Optuna has no public way to ask for these.
    if isinstance(sampler, TPESampler) and sampler._multivariate and not sampler._group:
        return "TPESampler(multivariate=true) without group=true"
    return ""


def find_trial(run_directory: Path, pruner: Any) -> Trial | None:
    """The trial that a run in a sweep directory is; None if it is none."""
    study = open_study(run_directory.parent, pruner=pruner)
    for frozen in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if frozen.user_attrs.get("run") == run_directory.name:
            return trial_of(study, frozen)
    return None


def trial_of(study: optuna.Study, frozen: FrozenTrial) -> Trial:
    """A trial that another process has asked for, to be gone on with; Optuna has no public way to take one up again."""
    return Trial(study, frozen._trial_id)

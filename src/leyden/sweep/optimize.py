"""Optuna's loop: a trial is asked for when there is a place for it, and told what came of it when it ends."""

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.samplers import GPSampler
from optuna.trial import Trial, TrialState

from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.sweep.conditions import read_when
from leyden.sweep.dimension import Dimension
from leyden.sweep.jobs import Job
from leyden.sweep.search import Search, names_of_runs
from leyden.sweep.seeds import further_seeds, num_seeds
from leyden.sweep.space import Space
from leyden.sweep.study import open_study, try_sampler
from leyden.sweep.sweep import Sweep
from leyden.sweep.trials import Trials


def search(
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
    checked = [*extremes, *sweep.compose(further_seeds(extremes[0], num), first=len(extremes))]
    if not sweep.check(checked, {"sweep.seeds": num, "fixed": space.fixed_choices}, log=space.log_keys):
        return
    study = open_study(sweep.directory, sampler=sampler, directions=directions)
    jobs: dict[int, list[Job]] = {}  # of each trial
    num_composed = 0

    def composed(params: Mapping[str, Any]) -> list[Job]:
        nonlocal num_composed
        (first,) = sweep.compose([space.overrides(params)], first=num_composed)
        further = sweep.compose(further_seeds(first, num), first=num_composed + 1)
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

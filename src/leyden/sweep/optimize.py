"""Optuna's loop: a trial is asked for when there is a place for it, and told what came of it when it ends."""

import importlib.util
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from optuna.samplers import GPSampler
from optuna.trial import Trial, TrialState

from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.sweep.jobs import Job
from leyden.sweep.search import Search
from leyden.sweep.slug import slug
from leyden.sweep.space import as_overrides, corners, log_keys, space
from leyden.sweep.study import open_study, try_sampler
from leyden.sweep.sweep import Sweep


def search(
    sweep: Sweep, overrides: Sequence[Override], *, sampler: Any, num_trials: int, batch_size: int | None
) -> None:
    """Search until `num_trials` trials have ended, those of earlier starts included.

    Raises:
        UserError: Something is wrong with the space, the study or a setting; or trials have failed.
    """
    if isinstance(sampler, GPSampler) and importlib.util.find_spec("scipy") is None:
        # It would not miss it before the eleventh trial.
        raise UserError("hydra/sweeper/sampler=gp: scipy is not installed; pip install -e '.[gp]' installs it")
    if batch_size is None:
        batch_size = getattr(sweep.launcher, "num_at_once", 1)
    for key, value in (("num_trials", num_trials), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise UserError(f"hydra.sweeper.{key}={value}: must be a positive whole number")
    searched, fixed = space(overrides)
    if not searched:
        raise UserError("a search needs keys to search, as optimizer.lr=tag(log,interval(0.0001,0.01))")
    # Each bound and each choice is checked before the first trial.
    extremes = sweep.compose([[*fixed, *(f"{k}={v}" for k, v in corner.items())] for corner in corners(searched)])
    aims = objectives(extremes[0].task_config.objective)
    if not aims:
        raise UserError("objective=null: a search needs an objective")
    directions = ["maximize" if aim.mode == "max" else "minimize" for aim in aims]
    try_sampler(sampler, searched, directions)
    if not sweep.check(extremes, log=log_keys(searched)):
        return
    study = open_study(sweep.directory, sampler=sampler, directions=directions)

    def name(overrides: list[str]) -> str:
        return slug([*fixed, *overrides], sweep.directory)

    looking = Search(study, sweep.directory, searched, num_trials=num_trials, name=name)
    if not getattr(sweep.launcher, "wait", True) and (num_left := looking.num_left()):
        sweep.launcher.leave_search(sweep.config, min(batch_size, num_left))  # type: ignore[attr-defined]
        return
    asked: dict[int, Trial] = {}  # by the number of its job; two can have the same directory
    exhausted = False

    def ask() -> Job | None:
        if exhausted or not (trial := looking.ask()):
            return None
        (job,) = sweep.compose([[*fixed, *as_overrides(trial)]], first=len(asked))
        asked[job.number] = trial
        return job

    def ended(job: Job, returned: JobReturn) -> None:
        nonlocal exhausted
        result = job.run.result
        if returned.status == JobStatus.FAILED:
            told: dict[str, Any] = {"state": TrialState.FAIL}
        elif result and result.status == "pruned":
            told = {"state": TrialState.PRUNED}
        else:
            told = {"values": returned.return_value}
        try:
            study.tell(asked[job.number], **told)
        except RuntimeError as error:  # a sampler that has tried all there is wants to stop the study
            if "Study.stop" not in str(error):
                raise
            exhausted = True

    with looking.opened():
        total = looking.num_open() + looking.num_to_take_over()
        sweep.run(ask, total=total, shared=fixed, at_once=batch_size, ended=ended)
    sweep.conclude()

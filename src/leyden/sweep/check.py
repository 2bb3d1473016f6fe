"""Mistakes in jobs, found before the first one starts."""

import sys
from collections.abc import Sequence

from omegaconf import OmegaConf

from leyden.config.mistakes import UserError
from leyden.run.choices import typed_choices
from leyden.sweep import worker
from leyden.sweep.jobs import Job
from leyden.sweep.processes import call

ALL = 30  # jobs, up to which each is built; of more, a part that has each value
MANY = 20  # numbers of a key, of which the smallest and the largest stand for all


def check(jobs: Sequence[Job]) -> None:
    """Find what is wrong with jobs: of all, the values and the directory; of those that are to run, what is made of them.

    Raises:
        UserError: Names the job and the mistake.
    """
    names = [f"job {number} of {len(jobs)}, {job.run.directory.name}" for number, job in enumerate(jobs)]
    to_run = {}
    for name, job in zip(names, jobs, strict=True):
        try:
            job.run.accept(job.choices, job.choices.config["resume"])
            if not job.run.is_finished(job.choices):
                to_run[name] = job
        except UserError as error:
            raise UserError(f"{name}: {error}") from error
    chosen = covering([typed_choices(job.overrides) for job in to_run.values()])
    pairs = list(to_run.items())
    configs = [(pairs[n][0], OmegaConf.create(pairs[n][1].choices.config)) for n in chosen]
    if not configs:
        return
    if "torch" in sys.modules:
        worker.check(configs)  # as `call` would, but here an error can be raised as it is
    elif mistake := call(worker.check_elsewhere, configs):
        raise mistake


def covering(settings: Sequence[dict[str, str]]) -> list[int]:
    """Which of several settings are checked for all: up to `ALL` of them, or so many that each value is in one.

    Of more than `MANY` numbers of a key the smallest and the largest one count.

    Example:
        >>> covering([{"seed": str(seed)} for seed in range(200)])
        [0, 199]
    """
    if len(settings) <= ALL:
        return list(range(len(settings)))
    wanted = {
        (key, value) for key in {key for each in settings for key in each} for value in _values(settings, key)
    }
    chosen = []
    for number, setting in enumerate(settings):
        if found := wanted & {*setting.items()}:
            chosen.append(number)
            wanted -= found
    return chosen


def _values(settings: Sequence[dict[str, str]], key: str) -> list[str]:
    values = list(dict.fromkeys(each[key] for each in settings if key in each))
    try:
        return values if len(values) <= MANY else [min(values, key=float), max(values, key=float)]
    except ValueError:
        return values

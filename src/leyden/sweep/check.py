"""Mistakes in jobs, found before the first one starts."""

import sys
from collections.abc import Sequence
from itertools import chain, combinations

from omegaconf import OmegaConf

from leyden.config.mistakes import UserError
from leyden.run.choices import typed_choices
from leyden.sweep import worker
from leyden.sweep.dimension import ends
from leyden.sweep.jobs import Job
from leyden.sweep.processes import call

ALL = 30  # jobs, up to which each is built; of more, a part that has each value


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
    """Which of several settings are checked for all: up to `ALL` of them, else so many that each value is in one.

    Of many numbers of a key their ends count; of what is no number, as networks and data sets, each pair that occurs, too.

    Example:
        >>> covering([{"seed": str(seed)} for seed in range(200)])
        [0, 199]
    """
    if len(settings) <= ALL:
        return list(range(len(settings)))
    values = {
        key: list(dict.fromkeys(e[key] for e in settings if key in e)) for key in dict.fromkeys(chain(*settings))
    }
    counted = {(key, value) for key, texts in values.items() for value in ends(texts)}
    words = {key for key, texts in values.items() if not all(map(_is_number, texts))}
    chosen: list[int] = []
    seen: set[object] = set()
    for number, setting in enumerate(settings):
        named = [pair for pair in setting.items() if pair[0] in words]
        new = ({*setting.items()} & counted | {*combinations(sorted(named), 2)}) - seen
        if new:
            chosen.append(number)
            seen |= new
    return chosen


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

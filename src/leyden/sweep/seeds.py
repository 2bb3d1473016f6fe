"""Several seeds of one setting: `sweep.seeds`."""

from collections.abc import Iterable

from omegaconf import DictConfig

from leyden.config.mistakes import UserError
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space


def num_seeds(config: DictConfig, spaces: Iterable[Space]) -> int:
    """With how many seeds each setting of a sweep runs.

    Raises:
        UserError: It is no number of seeds, or the seed is tried itself.
    """
    num = config.sweep.get("seeds")
    if type(num) is not int or num < 1:
        raise UserError(f"sweep.seeds={num}: must be a positive whole number")
    if num > 1 and any("seed" in each.keys for space in spaces for each in space.free):
        raise UserError(f"sweep.seeds={num}: seed is tried itself; give one of the two")
    return num


def further_seeds(job: Job, num: int) -> list[list[str]]:
    """The overrides of a job's setting with each of the seeds that follow its own, so that there are `num`.

    The first one keeps the directory that it has without `sweep.seeds`.
    """
    setting = [override for override in job.overrides if override.lstrip("+").partition("=")[0] != "seed"]
    first = job.config.seed
    return [[*setting, f"seed={first + number}"] for number in range(1, num)]

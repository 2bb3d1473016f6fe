"""What is no setting: several seeds of one (`sweep.seeds`), and what else a mean is over (`sweep.average_over`)."""

from collections.abc import Iterable

from omegaconf import DictConfig, ListConfig

from leyden.config.mistakes import UserError
from leyden.config.values import flatten
from leyden.sweep.dimension import check_few
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space


def num_seeds(config: DictConfig, spaces: Iterable[Space]) -> int:
    """With how many seeds each setting of a sweep runs.

    Raises:
        UserError: It is no number of seeds, too many, or the seed is tried itself.
    """
    num = config.sweep.get("seeds")
    if type(num) is not int or num < 1:
        raise UserError(f"sweep.seeds={num}: must be a positive whole number")
    check_few(f"sweep.seeds={num}", num)
    keys = config.sweep.get("average_over")
    if num > 1 and isinstance(keys, ListConfig) and "seed" not in keys:
        raise UserError(f"sweep.seeds={num}: sweep.average_over={list(keys)} lacks seed, over which the mean is")
    if num > 1 and any("seed" in each.keys for space in spaces for each in space.free):
        raise UserError(f"sweep.seeds={num}: seed is tried itself; give one of the two")
    return num


def averaged(config: DictConfig, job: Job) -> list[str]:
    """The keys that a mean is over.

    Args:
        config: Of the sweep.
        job: One of its jobs, which has the keys if somebody has typed them; of the default some data have no folds.

    Raises:
        UserError: They are no keys.
    """
    keys = config.sweep.average_over
    if not isinstance(keys, ListConfig) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"sweep.average_over={keys}: must be a list of keys, as [seed]")
    if any(override.startswith("sweep.average_over") for override in job.overrides):
        known = dict(flatten(job.choices.config))
        if unknown := [key for key in keys if key not in known]:
            raise UserError(f"sweep.average_over={list(keys)}: there is no {unknown[0]}")
    return list(keys)


def further_seeds(job: Job, num: int) -> list[list[str]]:
    """The overrides of a job's setting with each of the seeds that follow its own, so that there are `num`.

    The first one keeps the directory that it has without `sweep.seeds`.
    """
    setting = [override for override in job.overrides if override.lstrip("+").partition("=")[0] != "seed"]
    first = job.config.seed
    return [[*setting, f"seed={first + number}"] for number in range(1, num)]

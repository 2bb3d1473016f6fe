"""A sweep that is population-based training: all generations, then the schedule of the best member as one run."""

import shlex
from collections.abc import Sequence
from typing import Any

from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.run.choices import steers
from leyden.run.files import write_whole
from leyden.run.fork import SPLIT, key_of
from leyden.sweep.dimension import Dimension
from leyden.sweep.population import Population
from leyden.sweep.space import Space
from leyden.sweep.sweep import Sweep

OF_OPTIMIZER = "optimizer."  # the values that can change within a run
OF_MEMBER = ("seed", "trainer.max_epochs", SPLIT)
CURVES = "leyden.loggers.metrics_csv.MetricsCSV"
DIVERGED = "FloatingPointError"  # what a run fails by whose weights are no longer finite: a bad member, no mishap


def train(
    sweep: Sweep, dimensions: Sequence[Dimension], *, size: Any, interval: Any, share: Any, factors: Any
) -> None:
    """Train a population, once it is clear that it can be done.

    Args:
        sweep: Its directory and launcher.
        dimensions: What is searched, and what is fixed.
        size: As in `Population`, and so are the others.
        interval: Epochs.
        share: A part.
        factors: Numbers.

    Raises:
        UserError: It can't be done, or jobs have failed.
    """
    for key, value, least in (("size", size, 2), ("interval", interval, 1)):
        if type(value) is not int or value < least:
            raise UserError(f"hydra.sweeper.{key}={value}: must be a whole number, {least} or larger")
    if not isinstance(share, float) or not 0 < share <= 0.5:
        raise UserError(f"hydra.sweeper.share={share}: must be a part of the members, more than 0, at most 0.5")
    factors = list(factors) if isinstance(factors, Sequence) and not isinstance(factors, str) else []
    if not factors or not all(isinstance(each, int | float) and each > 0 for each in factors):
        raise UserError("hydra.sweeper.factors: must be positive numbers, as [0.8,1.25]")
    space = Space(dimensions, {})
    odd = [each.name for each in space.free if not each.name.startswith(OF_OPTIMIZER) or len(each.keys) > 1]
    if odd or not space.free:
        raise UserError(
            f"hydra.sweeper.params: {odd[0] if odd else 'nothing'} is searched; a population searches values of the optimizer, "
            "as optimizer.lr, which can change within a run"
        )
    corners = sweep.compose([space.overrides(corner) for corner in space.corners()])
    config = corners[0].task_config
    if len(objectives(config.objective)) != 1:
        raise UserError("objective: a population is compared by one metric")
    if config.fork is not None:
        raise UserError(f"fork={config.fork}: a population starts from new weights; take it away")
    grouped = {option for group in (config.optimizer.get("groups") or {}).values() for option in group}
    if twice := [each.name for each in space.free if each.name.removeprefix(OF_OPTIMIZER) in grouped]:
        raise UserError(
            f"optimizer.groups: {twice[0]} is searched, and a group has a value of its own for it; the schedule that is found "
            "would set it for all parameters"
        )
    if not any(node and node.get("_target_") == CURVES for node in config.logger.values()):
        raise UserError(
            "logger: the members are compared by metrics.csv, which nothing writes here; choose logger=csv"
        )
    if config.scheduler:
        raise UserError("scheduler: a population finds the schedule; choose scheduler=none")
    if config.trainer.max_epochs == -1:
        raise UserError("trainer.max_epochs=-1: a population needs an end")
    if sweep.config.sweep.seeds != 1:
        raise UserError(
            f"sweep.seeds={sweep.config.sweep.seeds}: each member of a population has a seed of its own"
        )
    if not getattr(sweep.launcher, "wait", True):
        raise UserError("cluster.wait=false: the members wait for each other, and somebody must compare them")
    # All members are validated on the same samples, by which they are compared.
    split = config.data.get("split_seed")
    common = [] if split is None else [f"{SPLIT}={split}"]
    population = Population(
        sweep,
        space,
        size,
        interval,
        share,
        factors,
        max_epochs=config.trainer.max_epochs,
        seed=config.seed,
        common=common,
    )
    described = {
        f"hydra.sweeper.{key}": value
        for key, value in (("size", size), ("interval", interval), ("share", share), ("factors", factors))
    }
    if sweep.check(corners, {**described, "fixed": space.fixed_choices}, log=space.log_keys):
        _run(sweep, population)


def _run(sweep: Sweep, population: Population) -> None:
    """Train all generations; one with a job that has failed is the last one, as nothing can be said of its member."""
    for epochs in population.generations:
        jobs = population.jobs(epochs)
        source = iter(jobs)
        print(f"population: to epoch {epochs} of {population.max_epochs}")
        sweep.run(
            lambda: next(source, None),  # noqa: B023 - used within this turn only
            total=len(jobs),
            shared=population.space.fixed,
        )
        for job in jobs:
            if (result := job.run.result) and result.error and result.error.type == DIVERGED:
                sweep.failures.pop(job.run.directory.name, None)
        if sweep.failures:
            break
        population.ended(epochs, jobs)
    else:
        command = replay(population)
        write_whole(sweep.directory / "replay.sh", command + "\n")
        print(
            f"{jobs[population.members.index(population.best)].run.directory.name} is the best member at the end; as one run, bit for bit:\n    {command}"
        )
    sweep.conclude()


def replay(population: Population) -> str:
    """The command by which the best member is trained as one run.

    Its values change where those of the member did: `ValuesByEpoch` sets them.
    """
    first, *later = population.best.settings
    changes = [
        f"{epochs}:{{{','.join(f'{name.removeprefix(OF_OPTIMIZER)}:{value}' for name, value in setting.items())}}}"
        for epochs, setting, before in zip(population.generations, later, population.best.settings, strict=False)
        if setting != before
    ]
    given = [
        each
        for each in population.space.overrides(first)
        if not steers(key := key_of(each)) and key not in OF_MEMBER
    ]
    given += [*population.common, f"seed={population.best.seed}", f"trainer.max_epochs={population.max_epochs}"]
    if changes:
        target = "leyden.callbacks.values.ValuesByEpoch"
        given.append(f"+callbacks.values={{_target_:{target},by_epoch:{{{','.join(changes)}}}}}")
    return shlex.join(["python", "-m", "leyden.train", *given])

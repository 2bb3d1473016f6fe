"""Population-based training on forks: the worst go on from the state of the best, with other values.

Jaderberg et al. 2017, https://arxiv.org/abs/1711.09846. A generation are the runs of all members over one interval of epochs; each
is a fork of a run of the generation before. What becomes of a member follows from the results on the disk and the seed alone,
so that the same command goes on after any kill, and decides as it did before.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from leyden.config.mistakes import UserError
from leyden.config.objective import objectives
from leyden.run.directory import Run
from leyden.run.points import points
from leyden.sweep.dimension import Dimension
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space
from leyden.sweep.sweep import Sweep


@dataclass(frozen=True)
class Member:
    """A line of runs, each the fork of the one before it.

    Args:
        seed: Of all of them.
        settings: What each of them was given, the first one's first.
        run: The last one.
        gain: What that had reached at its end, more is better; None where it has diverged, or not ended.
    """

    seed: int
    settings: tuple[Mapping[str, Any], ...]
    run: Run | None = None
    gain: float | None = None


@dataclass
class Population:
    """Members that are trained, compared and forked.

    Args:
        sweep: Its directory and launcher.
        space: What is searched.
        size: Number of members.
        interval: Epochs of a generation.
        share: Of the members that are replaced by forks of as many best ones.
        factors: A number is multiplied by one of them; of a list its neighbour is taken.
        max_epochs: Of the whole training.
        seed: Of the first member; the others count on.
        common: What all members are given besides.
    """

    sweep: Sweep
    space: Space
    size: int
    interval: int
    share: float
    factors: Sequence[float]
    max_epochs: int
    seed: int
    common: Sequence[str]
    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        for number in range(self.size):
            self.space.draw(trial := study.ask())
            self.members.append(Member(self.seed + number, (trial.params,)))

    @property
    def generations(self) -> list[int]:
        """The epochs after which they end."""
        return [*range(self.interval, self.max_epochs, self.interval), self.max_epochs]

    @property
    def best(self) -> Member:
        """The member that has come furthest.

        Raises:
            UserError: All have diverged.
        """
        return self.members[self._order()[0]]

    def jobs(self, epochs: int) -> list[Job]:
        """Those of a generation, which ends after so many epochs."""
        batch = []
        for member in self.members:
            further = [*self.common, f"seed={member.seed}", f"trainer.max_epochs={epochs}"]
            further += [f"fork='{member.run.directory}@last'"] if member.run else []
            batch.append([*self.space.overrides(member.settings[-1]), *further])
        directory = self.sweep.directory
        return [
            replace(job, run=Run(directory / name), log=directory / "logs" / f"{name}.log")
            for n, job in enumerate(self.sweep.compose(batch, first=self.size * self.generations.index(epochs)))
            for name in [f"epoch-{epochs}_member-{n}"]
        ]

    def ended(self, epochs: int, jobs: Sequence[Job]) -> None:
        """Compare the members; if others follow, the worst are forks of the best, all of them as they are now."""
        (aim,) = objectives(jobs[0].task_config.objective)
        self.members = [
            replace(member, run=job.run, gain=replace(aim, value=_last(job.run, aim.metric)).gain)
            for member, job in zip(self.members, jobs, strict=True)
        ]
        if epochs == self.max_epochs:
            return
        order, num = self._order(), max(1, min(round(self.share * self.size), self.size // 2))
        diverged = {n for n, member in enumerate(self.members) if member.gain is None}
        best, worst = [n for n in order[:num] if n not in diverged], {*order[-num:], *diverged}
        chance = random.Random(f"{self.seed} {epochs}")
        following = []
        for n, member in enumerate(self.members):
            source = self.members[chance.choice(best)] if n in worst else member
            setting = source.settings[-1]
            if n in worst:
                setting = {
                    key: perturbed(self.space.of[key], value, self.factors, chance)
                    for key, value in setting.items()
                }
            following.append(replace(source, settings=(*source.settings, setting)))
        self.members = following

    def _order(self) -> list[int]:
        """The numbers of the members, the best one first."""
        gains = [member.gain for member in self.members]
        if all(gain is None for gain in gains):
            raise UserError(
                f"{self.sweep.directory}: all members of the population have diverged; try smaller values"
            )
        return sorted(range(self.size), key=lambda n: (gains[n] is not None, gains[n] or 0.0), reverse=True)


def perturbed(dimension: Dimension, value: Any, factors: Sequence[float], chance: random.Random) -> Any:
    """A value near another one: a multiple within the bounds, or a neighbour among the choices.

    Example:
        >>> from leyden.sweep.dimension import Interval
        >>> rate = Dimension("optimizer.lr", ("optimizer.lr",), interval=Interval(0.001, 0.1, True))
        >>> perturbed(rate, 0.09, [1.25], random.Random(0))
        0.1
    """
    if dimension.interval is None:
        choices = list(dimension.choices)
        place = choices.index(value) + chance.choice((-1, 1))
        return choices[min(max(place, 0), len(choices) - 1)]
    low, high, _ = dimension.interval
    found = min(max(value * chance.choice(factors), low), high)
    return round(found) if dimension.interval.is_whole else found


def _last(run: Run, metric: str) -> float | None:
    """What a run had reached at its end, which need not be its best epoch; None for one that has diverged.

    Raises:
        UserError: Its curves are not there.
    """
    if run.result is None or run.result.error:
        return None
    found = [value for _, name, value in points(run.directory / "metrics.csv") if name == metric]
    if not found:
        raise UserError(
            f"{run.directory}: metrics.csv has no {metric}, by which members are compared; add logger=csv"
        )
    return found[-1] if math.isfinite(found[-1]) else None

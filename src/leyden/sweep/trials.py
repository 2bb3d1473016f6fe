"""The trials of a search as jobs: one per seed, told to the study as one when the last of them has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from leyden.sweep.jobs import Job

PRUNING = "leyden.sweep.pruning.Pruning"  # by its name: it imports PyTorch


@dataclass
class Open:
    """A trial under way.

    Args:
        trial: Optuna's.
        waiting: Its jobs that have not started.
        is_pruned: Whether a pruner looks at it. It looks at the first seed, the others wait for what it says.
        running: The numbers of jobs that have started.
        values: Of the objectives, of each job that has ended well.
        state: What it ends as, where it does not end well.
    """

    trial: Trial
    waiting: list[Job]
    is_pruned: bool
    running: set[int] = field(default_factory=set)
    values: list[Sequence[float | None]] = field(default_factory=list)
    state: TrialState | None = None

    def next(self) -> Job | None:
        """The next of its jobs; None if there is none, or none yet."""
        if not self.waiting or (self.is_pruned and self.running and not self.values):
            return None
        job = self.waiting.pop(0)
        self.running.add(job.number)
        return job


class Trials:
    """Asks for trials, gives their jobs, and tells the study what came of them.

    Args:
        study: Optuna's.
        ask: Gives a trial and its jobs, the first seed first; None for none.
        at_once: How many trials are under way at once, at most.
        dropped: Is told of how many jobs there will be less than there were to be.
    """

    def __init__(
        self,
        study: optuna.Study,
        ask: Callable[[], tuple[Trial, list[Job]] | None],
        *,
        at_once: int,
        dropped: Callable[[int], None],
    ) -> None:
        self.study, self._ask, self.at_once, self.dropped = study, ask, at_once, dropped
        self.open: list[Open] = []
        self.is_exhausted = False

    def ask(self) -> Job | None:
        """The next job; None for none now."""
        for one in self.open:
            if job := one.next():
                return job
        if self.is_exhausted or len(self.open) >= self.at_once or not (asked := self._ask()):
            return None
        trial, jobs = asked
        self.open.append(new := Open(trial, jobs, is_pruned=_is_pruned(jobs[0])))
        return new.next()

    def ended(self, job: Job, error: str) -> None:
        """Take what came of a job; its error, empty for none."""
        one = next(one for one in self.open if job.number in one.running)
        one.running.remove(job.number)
        result = job.run.result
        if error:
            one.state = TrialState.FAIL
        elif result and result.status == "pruned":
            one.state = one.state or TrialState.PRUNED
        else:
            one.values.append([objective.value for objective in result.objectives] if result else [])
        if one.state is not None and one.waiting:
            self.dropped(len(one.waiting))
            one.waiting.clear()
        if not one.waiting and not one.running:
            self.open.remove(one)
            self._tell(one)

    def _tell(self, one: Open) -> None:
        told: dict[str, Any] = {"state": one.state} if one.state is not None else {"values": means(one.values)}
        try:
            self.study.tell(one.trial, **told)
        except RuntimeError as error:  # a sampler that has tried all there is wants to stop the study
            if "Study.stop" not in str(error):
                raise
            self.is_exhausted = True


def means(values: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean of each objective over the seeds; None where one of them has none.

    Example:
        >>> means([[0.5, 10.0], [1.0, 10.0]])
        [0.75, 10.0]
    """
    return [fmean(column) if None not in column else None for column in zip(*values, strict=True)]


def _is_pruned(job: Job) -> bool:
    return any(node and node.get("_target_") == PRUNING for node in job.config.callbacks.values())

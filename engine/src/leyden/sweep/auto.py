"""A grid that spends its seeds where they matter: on settings that can't yet be told from the best (`sweep.seeds=auto`)."""

import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from leyden.config.checks import objective_of
from leyden.config.errors import UserError
from leyden.report.ranking import by_data, look_at, merge_rows, read_sweep
from leyden.report.records import read_records
from leyden.run.files import read_json, write_whole
from leyden.run.result import Failure
from leyden.sweep.jobs import Job, shared_overrides
from leyden.sweep.sweep import Sweep, add_seeds
from leyden.verdict.groups import MIN_VALUES

GROWTH = 2  # factor by which the seeds of the open settings grow from look to look


def run_auto(sweep: Sweep, settings: Sequence[Sequence[str]]) -> None:
    """Run a grid with three seeds per setting, then more for those that may be the best, until one is left.

    Each round is a look at the table, counted like any other. Settings that a look excludes get no further seeds, and
    stay excluded: over all looks, the best setting is lost in at most 5 % of sweeps. A restarted sweep takes the same
    way again, through runs that have finished.

    Args:
        sweep: The sweep.
        settings: Overrides of each setting, without a seed.

    Raises:
        UserError: `sweep.max_runs` is missing or too small, or there is no objective.
    """
    budget = sweep.config.sweep.get("max_runs")
    if type(budget) is not int or budget < MIN_VALUES * len(settings):
        raise UserError(
            f"sweep.max_runs={'null' if budget is None else budget}: sweep.seeds=auto needs the largest number of runs, "
            f"{MIN_VALUES} for each of {len(settings)} settings or more"
        )
    if not sweep.launcher.waits:
        raise UserError("sweep.seeds=auto: with cluster.wait=false nothing could choose the next runs")
    rounds = _Rounds(sweep, settings, budget)
    if objective_of(rounds.first[0].config.objective) is None:
        raise UserError("objective=null: sweep.seeds=auto needs an objective")
    if not sweep.check(rounds.first, seeds="auto"):
        return
    sweep.run(rounds.ask, total=len(rounds.first), shared=shared_overrides(rounds.first), ended=rounds.ended)
    sweep.conclude()


class _Rounds:
    """The rounds of such a sweep: the jobs of one, the look at the table, and the jobs of the next one.

    Args:
        sweep: The sweep.
        settings: Overrides of each setting.
        budget: Largest number of runs.
    """

    def __init__(self, sweep: Sweep, settings: Sequence[Sequence[str]], budget: int) -> None:
        self.sweep, self.num_left, self.num_seeds = sweep, budget, MIN_VALUES
        self.models = sweep.new_jobs(settings)  # one per setting, with the first seed
        self.setting_of: dict[Path, int] = {}  # by run directory
        self.excluded: list[str] = []
        self.first = self._jobs(range(len(settings)), 0, MIN_VALUES)
        self.queue = deque(self.first)
        self.num_open = len(self.first)

    def _jobs(self, settings: Sequence[int], start: int, stop: int) -> list[Job]:
        """Return the jobs of some settings with the seeds from one number to another, and subtract them from the budget."""
        jobs = []
        for number in settings:
            model = self.models[number]
            overrides = add_seeds(model, stop)[max(start - 1, 0) :]
            of_setting = [
                *([model] if not start else []),
                *self.sweep.new_jobs(overrides, first=len(self.setting_of)),
            ]
            self.setting_of |= {job.run.directory: number for job in of_setting}
            jobs += of_setting
            model.release()
        self.num_left -= len(jobs)
        return jobs

    def ask(self) -> Job | None:
        """Return the next job; None if there is none now."""
        if not self.queue and not self.num_open:
            jobs = self._next_round()
            self.queue.extend(jobs)
            self.num_open = len(jobs)
            self.sweep.status.total += len(jobs)
        return self.queue.popleft() if self.queue else None

    def ended(self, job: Job, failure: Failure | None) -> None:
        """Count a job that has ended."""
        self.num_open -= 1

    def _next_round(self) -> list[Job]:
        """Look at the table, and return the further jobs of the settings that may be the best."""
        open_settings = self._look()
        if len(open_settings) < 2:
            return []
        seeds = min(GROWTH * self.num_seeds, self.num_seeds + self.num_left // len(open_settings))
        jobs = self._jobs(open_settings, self.num_seeds, seeds)
        self.num_seeds = seeds
        return jobs

    def _look(self) -> list[int]:
        """Return the settings that may be the best, and record those that are excluded from now on."""
        directory = self.sweep.directory
        found = [each for each in read_records(directory) if each.run.directory in self.setting_of]
        rows = merge_rows(found, read_sweep(directory)["average_over"])
        mode = next((each.objective.mode for each in found if each.objective), "max")  # none if all have failed
        likely = look_at(directory, rows, mode, self.excluded).like_best
        self.excluded = [row.setting.name for row, like in zip(rows, likely, strict=True) if like is False]
        path = directory / "sweep.json"
        write_whole(path, json.dumps({**read_json(path, {}), "excluded": self.excluded}) + "\n")
        kept: list[int] = []
        for part in by_data(rows):
            of_part = [row for number, row in part.items() if likely[number] is not False and row.finished]
            if len(of_part) > 1:
                kept += [
                    self.setting_of[each.run.directory] for row in of_part for each in row.records
                ]  # also of folds
        return sorted(dict.fromkeys(kept))

"""The run of a sweep: a search, or a grid of all combinations of values with each seed.

With `sweep.seeds=auto` a grid spends its seeds where they matter: on settings that can't yet be
told from the best.
"""

import itertools
import shlex
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from omegaconf import DictConfig, ListConfig

from leyden.base.errors import UserError
from leyden.base.terminal import leyden_command, quoted_override
from leyden.config.checks import objective_of
from leyden.config.hydra import task_overrides
from leyden.queue.loop import Launcher
from leyden.report.ranking import by_data, look_at, merge_rows, read_sweep
from leyden.report.records import read_records
from leyden.run.files import read_json, write_json
from leyden.run.identity import key_of
from leyden.sweep.jobs import Job
from leyden.sweep.space import Space, check_sweep_size, read_space
from leyden.sweep.sweep import Sweep
from leyden.sweep.work import warm_up
from leyden.verdict.groups import MIN_VALUES

GROWTH = 2  # factor by which the seeds of the open settings grow from look to look


def run_sweep(config: DictConfig, launcher: Launcher) -> None:
    """Run the sweep of a configuration.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        launcher: Runs the jobs.

    Raises:
        UserError: A setting is wrong, or jobs have failed.
    """
    if not launcher.outlives and not config.dry_run:
        warm_up(config)
    sweeper = config.hydra.sweeper
    if "_target_" in sweeper:  # Hydra's own, or a plugin's
        choice = config.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(
            f"hydra/sweeper={choice}: must be grid or optuna, whose runs can be checked and resumed"
        )
    is_search = "num_trials" in sweeper
    if not launcher.waits and (is_search or config.sweep.seeds == "auto"):
        raise UserError(
            "cluster.wait=false: is for grids; a search asks for its next trial when one has "
            "ended, and sweep.seeds=auto for its next runs, so its command must keep running: "
            "in tmux, or in a job of its own (docs/cluster.md)"
        )
    sweep = Sweep(config, launcher)
    arguments = task_overrides(config.hydra)
    space = read_space(
        sweep.composer.loader, config, sweeper.params, arguments, is_search=is_search
    )
    sweep.name_jobs(space.fixed, space.keys)
    if is_search and config.sweep.seeds != 1:
        raise UserError(
            f"sweep.seeds={config.sweep.seeds}: is for a grid, such as one of the best settings "
            "that a search has found"
        )
    try:
        if is_search:
            from leyden.sweep.search import run_search  # late, as it imports Optuna

            run_search(sweep, space, sweeper)
        else:
            _run_grid(sweep, space)
    except KeyboardInterrupt:
        name = quoted_override("sweep_name", sweep.directory.name)
        print(
            f"{sweep.num_jobs} jobs have ended; the same command with {name} resumes the sweep",
            file=sys.stderr,
        )
        raise
    finally:
        launcher.stop()


def _run_grid(sweep: Sweep, space: Space) -> None:
    """Run all combinations of values, with each seed."""
    num = num_seeds(sweep.config, space.keys)
    found = space.settings()
    check_sweep_size(f"sweep.seeds={num} of {len(found):,} settings", len(found) * num)
    seeds = Seeds(sweep, found)
    jobs = seeds.jobs(range(len(found)), 0, num)
    if sweep.config.sweep.seeds == "auto":
        _run_auto(sweep, seeds, jobs)
    elif sweep.check(jobs):
        sweep.run_all(jobs)
        if sweep.launcher.waits:
            sweep.conclude()
        else:
            sweep.conclude_later()
            print(
                f"their status: {leyden_command('summarize')} {shlex.quote(str(sweep.directory))}"
            )


def num_seeds(config: DictConfig, keys: Collection[str]) -> int:
    """Return the number of seeds that each setting of a sweep runs with.

    `keys` are those that the sweep is over.

    For `sweep.seeds=auto` it is the number at the start.

    Raises:
        UserError: `sweep.seeds` is not a valid number, or conflicts with a sweep over `seed`.
    """
    num = config.sweep.get("seeds")
    if num == "auto":
        num = MIN_VALUES
    elif config.sweep.get("max_runs") is not None:
        raise UserError(f"sweep.max_runs={config.sweep.max_runs}: is for sweep.seeds=auto")
    if type(num) is not int or num < 1:
        raise UserError(f"sweep.seeds={num}: must be a positive whole number, or auto")
    averaged = config.sweep.get("average_over")
    if num > 1 and isinstance(averaged, ListConfig) and "seed" not in averaged:
        raise UserError(
            f"sweep.seeds={config.sweep.seeds}: sweep.average_over={list(averaged)} must contain "
            "seed"
        )
    if num > 1 and "seed" in keys:
        raise UserError(
            f"sweep.seeds={config.sweep.seeds}: the sweep is over seed itself; remove one of the "
            "two"
        )
    return num


class Seeds:
    """The settings of a grid, each with its seeds.

    Args:
        sweep: The sweep.
        settings: Overrides of each setting, without a seed.
    """

    def __init__(self, sweep: Sweep, settings: Sequence[Sequence[str]]) -> None:
        self.sweep = sweep
        self.models = sweep.new_jobs(settings)  # one per setting, with the first seed
        self.setting_of: dict[Path, int] = {}  # by run directory

    def jobs(self, settings: Sequence[int], start: int, stop: int) -> list[Job]:
        """Return the jobs of some settings with the seeds from one number to another.

        The first one keeps its overrides, so that its directory is the same as without
        `sweep.seeds`.
        """
        found: list[Job] = []
        for number in settings:
            model = self.models[number]
            setting = [each for each in model.overrides if key_of(each) != "seed"]
            first = 0
            if stop > 1:
                first = model.compose().seed
            further = [[*setting, f"seed={first + seed}"] for seed in range(max(start, 1), stop)]
            jobs = self.sweep.new_jobs(further)
            if start == 0:
                jobs.insert(0, model)
            for job in jobs:
                job.number = len(self.setting_of)
                self.setting_of[job.run.directory] = number
            found += jobs
        return found


def _run_auto(sweep: Sweep, seeds: Seeds, jobs: list[Job]) -> None:
    """Run a grid with three seeds per setting, then more for those that may be the best.

    Each round is a look at the table, counted like any other. Settings that a look excludes get no
    further seeds, and stay excluded: over all looks, the best setting is lost in at most 5 % of
    sweeps. A restarted sweep takes the same way again, through runs that have finished.

    Args:
        sweep: The sweep.
        seeds: The settings.
        jobs: Those of the first round.

    Raises:
        UserError: `sweep.max_runs` is missing or too small, or there is no objective.
    """
    budget = sweep.config.sweep.get("max_runs")
    num = MIN_VALUES
    if type(budget) is not int or budget < len(jobs):
        given = budget
        if budget is None:
            given = "null"
        raise UserError(
            f"sweep.max_runs={given}: sweep.seeds=auto needs the largest number of runs, "
            f"{num} for each of {len(seeds.models)} settings or more"
        )
    if objective_of(jobs[0].compose().objective) is None:
        raise UserError("objective=null: sweep.seeds=auto needs an objective")
    if not sweep.check(jobs, seeds="auto"):
        return
    excluded: list[str] = []
    while jobs:
        sweep.run_all(jobs)
        likely, excluded = _look(sweep, seeds, excluded)
        if len(likely) < 2:
            break
        num_left = budget - len(seeds.setting_of)
        more = min(GROWTH * num, num + num_left // len(likely))
        jobs = seeds.jobs(likely, num, more)
        num = more
    sweep.conclude()


def _look(sweep: Sweep, seeds: Seeds, excluded: list[str]) -> tuple[list[int], list[str]]:
    """Look at the table.

    Return the settings that may be the best, and the names of those that are excluded from now on.
    """
    directory = sweep.directory
    found = [each for each in read_records(directory) if each.run.directory in seeds.setting_of]
    rows = merge_rows(found, read_sweep(directory)["average_over"])
    modes = (each.objective.mode for each in found if each.objective)
    mode = next(modes, "max")  # none if all have failed
    likely = look_at(directory, rows, mode, excluded).like_best
    excluded = [row.setting.name for row, like in zip(rows, likely, strict=True) if like is False]
    path = directory / "sweep.json"
    write_json(path, {**read_json(path, {}), "excluded": excluded})
    kept: set[int] = set()
    for part in by_data(rows):
        is_open = [likely[number] is not False and bool(part[number].finished) for number in part]
        rows_open = [*itertools.compress(part.values(), is_open)]
        if len(rows_open) < 2:
            continue
        for row in rows_open:
            kept |= {seeds.setting_of[each.run.directory] for each in row.records}  # also of folds
    return sorted(kept), excluded

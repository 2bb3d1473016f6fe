"""The run of a sweep as it is configured: a grid, whose jobs are all combinations of values, or a search."""

import shlex
from typing import Any

from omegaconf import DictConfig, OmegaConf

from leyden.config.errors import UserError, as_line
from leyden.config.hydra import call_target, task_overrides
from leyden.config.terminal import leyden_command
from leyden.sweep.auto import run_auto
from leyden.sweep.jobs import shared_overrides
from leyden.sweep.launcher import Launcher
from leyden.sweep.space import Space, check_sweep_size, read_space
from leyden.sweep.sweep import Sweep, add_seeds, num_seeds


def run_sweep(config: DictConfig, launcher: Launcher) -> None:
    """Run the sweep of a configuration.

    Args:
        config: The sweep's configuration, including the node `hydra`.
        launcher: Runs the jobs.

    Raises:
        UserError: A setting is wrong, or jobs have failed.
    """
    sweeper = config.hydra.sweeper
    if "_target_" in sweeper:  # Hydra's own, or a plugin's
        choice = config.hydra.runtime.choices["hydra/sweeper"]
        raise UserError(f"hydra/sweeper={choice}: must be grid or optuna, whose runs can be checked and resumed")
    is_search = "num_trials" in sweeper
    if is_search and not launcher.waits:
        raise UserError(
            "cluster.wait=false: is for grids; a search asks for its next trial when one has ended, so its command must keep "
            "running: in tmux, or in a job of its own (docs/cluster.md)"
        )
    with Sweep(config, launcher) as sweep:
        loader = sweep.composer.loader
        space = read_space(loader, config, sweeper.params, task_overrides(config.hydra), is_search=is_search)
        sweep.name_jobs(space.fixed, space.keys)
        if not is_search:
            _run_grid(sweep, space)
            return
        if config.sweep.seeds != 1:
            raise UserError(
                f"sweep.seeds={config.sweep.seeds}: is for a grid, such as one of the best settings that a search has found"
            )
        from leyden.sweep.search import run_search  # late, as it imports Optuna

        run_search(sweep, space, sampler=_sampler(sweeper.sampler), num_trials=sweeper.num_trials)


def _run_grid(sweep: Sweep, space: Space) -> None:
    """Run all combinations of values, with each seed."""
    num = num_seeds(sweep.config, space.keys)
    found = space.settings()
    check_sweep_size(f"sweep.seeds={num} of {len(found):,} settings", len(found) * num)
    if sweep.config.sweep.seeds == "auto":
        run_auto(sweep, found)
        return
    jobs, other_seeds = sweep.new_jobs(found), []
    for job in jobs:
        other_seeds += add_seeds(job, num)
        job.release()
    jobs += sweep.new_jobs(other_seeds, first=len(jobs))
    if sweep.check(jobs):
        source = iter(jobs)
        sweep.run(lambda: next(source, None), total=len(jobs), shared=shared_overrides(jobs))
        if sweep.launcher.waits:
            sweep.conclude()
        else:
            print(f"their status: {leyden_command('summarize')} {shlex.quote(str(sweep.directory))}")


def _sampler(node: Any) -> Any:
    """Return one of Optuna's samplers, or a partial function whose argument is the seed; another value as it is."""
    if not isinstance(node, DictConfig):
        return node
    try:
        return call_target(OmegaConf.to_container(node, resolve=True))
    except Exception as error:
        raise UserError(f"hydra.sweeper.sampler: {as_line(error)}") from error

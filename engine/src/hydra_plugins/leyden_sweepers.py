"""Hydra's sweeper plugins; they delegate to `leyden.sweep`."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # Hydra's own sweeper has no public name


class GridSweeper(BasicSweeper):
    """Sweeper over all combinations of values, like Hydra's basic sweeper.

    But all jobs are checked first, a failed job does not stop the others, and a summary is written at the end.

    Args:
        params: Values to try, by key, in Hydra's override syntax.
    """

    def __init__(self, params: dict[str, Any] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid of `params` and the command-line arguments."""
        from leyden.sweep.jobs import shared_overrides
        from leyden.sweep.space import check_sweep_size, read_space
        from leyden.sweep.sweep import Sweep, add_seeds, num_seeds

        loader: Any = self.hydra_context.config_loader  # type: ignore[union-attr]
        with Sweep(loader, self.config, self.launcher) as sweep:  # type: ignore[arg-type]
            space = read_space(loader, sweep.config, self.params, arguments, is_search=False)
            num = num_seeds(sweep.config, space.keys)
            found = space.settings()
            check_sweep_size(f"sweep.seeds={num} of {len(found):,} settings", len(found) * num)
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


class OptunaSweeper(BasicSweeper):
    """Sweeper that searches with Optuna 5; a search can be resumed, and run by several processes at once.

    Args:
        sampler: One of Optuna's samplers as a partial function, whose argument is the seed; or a sampler.
        num_trials: Number of trials, including those of earlier starts.
        batch_size: Largest number of trials at once; None for as many as the launcher runs at once.
        params: Search space, by key, in Hydra's override syntax.
    """

    def __init__(
        self, sampler: Any, num_trials: int, batch_size: int | None, params: dict[str, Any] | None = None
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.sampler, self.num_trials, self.batch_size = sampler, num_trials, batch_size

    def sweep(self, arguments: list[str]) -> Any:
        """Search the space of `params` and the command-line arguments."""
        from leyden.sweep.search import run_search
        from leyden.sweep.space import read_space
        from leyden.sweep.sweep import Sweep

        loader: Any = self.hydra_context.config_loader  # type: ignore[union-attr]
        with Sweep(loader, self.config, self.launcher) as sweep:  # type: ignore[arg-type]
            run_search(
                sweep,
                read_space(loader, sweep.config, self.params, arguments, is_search=True),
                sampler=self.sampler,
                num_trials=self.num_trials,
                batch_size=self.batch_size,
            )

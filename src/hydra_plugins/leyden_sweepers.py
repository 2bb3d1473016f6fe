"""Where Hydra looks for sweepers. The work is done in `leyden.sweep`."""

from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # Hydra's own sweeper has no public name

from leyden.config.errors import UserError


class GridSweeper(BasicSweeper):
    """All combinations, as Hydra's own, but all are checked first, all are run, and a summary ends it.

    Args:
        params: What is tried by key, in Hydra's override syntax, as on the command line; rows by name, as zip(...).
        union: Several grids, each as `params`, which is crossed with each of them.
        exclude: Jobs that are left out, by the values of their keys.
        when: Conditions under which a job has a key.
    """

    def __init__(
        self, params: dict[str, Any] | None = None, union: Any = None, exclude: Any = None, when: Any = None
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.union, self.exclude, self.when = union, exclude, when

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that the arguments span."""
        from leyden.sweep.grid import SearchSpaceParser, settings, spaces
        from leyden.sweep.jobs import shared_overrides
        from leyden.sweep.space import check_few
        from leyden.sweep.sweep import Sweep, add_seeds, num_seeds

        loader: Any = self.hydra_context.config_loader  # type: ignore[union-attr]
        with Sweep(loader, self.config, self.launcher) as sweep:  # type: ignore[arg-type]
            typed = SearchSpaceParser(loader, sweep.config, is_search=False)
            grids = spaces(typed, self.params, self.union, self.when, arguments)
            num = num_seeds(sweep.config, grids)
            found = settings(grids, self.exclude)
            check_few(f"sweep.seeds={num} of {len(found):,} settings", len(found) * num)
            jobs = sweep.compose(found)
            further = [overrides for job in jobs for overrides in add_seeds(job, num)]
            jobs += sweep.compose(further, first=len(jobs))
            if sweep.check(jobs):
                source = iter(jobs)
                sweep.run(lambda: next(source, None), total=len(jobs), shared=shared_overrides(jobs))
                if sweep.launcher.waits:
                    sweep.conclude()


class OptunaSweeper(BasicSweeper):
    """A search by Optuna 5: ask for a trial when there is a place for it, tell when it ends; over restarts and beside others.

    Args:
        sampler: One of Optuna's.
        num_trials: How many trials there are to be in the end.
        batch_size: Trials at once, at most; None for as many as the launcher runs at once.
        params: Search space by key, in Hydra's override syntax, as on the command line; rows by name, as zip(...).
        when: Conditions under which a trial has a key.
        union: Of a grid; a search has none.
        exclude: Of a grid; a search has none.
    """

    def __init__(
        self,
        sampler: Any,
        num_trials: int,
        batch_size: int | None,
        params: dict[str, Any] | None = None,
        when: Any = None,
        union: Any = None,
        exclude: Any = None,
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.sampler, self.num_trials, self.batch_size, self.when = sampler, num_trials, batch_size, when
        self.of_grids = {"union": union, "exclude": exclude}

    def sweep(self, arguments: list[str]) -> Any:
        """Search the space that the arguments span."""
        from leyden.sweep.grid import SearchSpaceParser
        from leyden.sweep.search import run_search
        from leyden.sweep.sweep import Sweep

        for key, value in self.of_grids.items():
            if value is not None:
                raise UserError(
                    f"hydra.sweeper.{key}: is for grids; a search takes hydra.sweeper.when, and zip(...)"
                )
        loader: Any = self.hydra_context.config_loader  # type: ignore[union-attr]
        with Sweep(loader, self.config, self.launcher) as sweep:  # type: ignore[arg-type]
            run_search(
                sweep,
                SearchSpaceParser(loader, sweep.config, is_search=True).dimensions(self.params, arguments),
                self.when,
                sampler=self.sampler,
                num_trials=self.num_trials,
                batch_size=self.batch_size,
            )

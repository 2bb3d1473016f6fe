"""Where Hydra looks for sweepers. The work is done in `leyden.sweep`."""

from collections.abc import Mapping
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # Hydra's own sweeper has no public name
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from leyden.config.mistakes import UserError


class GridSweeper(BasicSweeper):
    """All combinations, as Hydra's own, but all are checked first, all are run, and a summary ends it."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs that the arguments span."""
        from leyden.cluster import slurm
        from leyden.sweep.jobs import shared
        from leyden.sweep.sweep import Sweep

        for override in (overrides := _parse(self, arguments)):
            if override.is_sweep_override() and not override.is_discrete_sweep():
                raise UserError(
                    f"{override.input_line}: a grid takes lists, as 0.1,0.01; use sweep=tpe for intervals"
                )
        (batch,) = self.split_arguments(overrides, None)
        with Sweep(self.hydra_context.config_loader, self.config, self.launcher, slurm.statuses) as sweep:  # type: ignore[union-attr, arg-type]
            if sweep.check(jobs := sweep.compose(batch)):
                source = iter(jobs)
                sweep.run(lambda: next(source, None), total=len(jobs), shared=shared(jobs))
                if getattr(self.launcher, "wait", True):
                    sweep.conclude()


class OptunaSweeper(BasicSweeper):
    """A search by Optuna 5: ask for a trial when there is a place for it, tell when it ends; over restarts and beside others.

    Args:
        sampler: One of Optuna's.
        num_trials: How many trials there are to be in the end.
        batch_size: Trials at once, at most; None for as many as the launcher runs at once.
        params: Search space by key, in Hydra's override syntax, as on the command line.
    """

    def __init__(
        self, sampler: Any, num_trials: int, batch_size: int | None, params: dict[str, str] | None = None
    ) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.sampler, self.num_trials, self.batch_size = sampler, num_trials, batch_size

    def sweep(self, arguments: list[str]) -> Any:
        """Search the space that the arguments span."""
        from leyden.cluster import slurm
        from leyden.sweep import optimize
        from leyden.sweep.sweep import Sweep

        with Sweep(self.hydra_context.config_loader, self.config, self.launcher, slurm.statuses) as sweep:  # type: ignore[union-attr, arg-type]
            optimize.search(
                sweep,
                _parse(self, arguments),
                sampler=self.sampler,
                num_trials=self.num_trials,
                batch_size=self.batch_size,
            )


def _parse(sweeper: BasicSweeper, arguments: list[str]) -> list[Override]:
    """The overrides of a sweep, each of which spans something, and something that tells jobs apart."""
    from leyden.run.choices import steers

    if not isinstance(sweeper.params, Mapping | None):
        raise UserError(
            f"hydra.sweeper.params={sweeper.params}: must be what to try by key, as +hydra.sweeper.params.seed='0,1'"
        )
    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)  # type: ignore[union-attr]
    # What stands in `params` of the YAML; only its own `sweep` calls this.
    overrides = parser.parse_overrides(sweeper._parse_config() + arguments)
    for override in (override for override in overrides if override.is_sweep_override()):
        if steers(override.key_or_group):
            raise UserError(f"{override.input_line}: is one thing for all jobs of a sweep, give one value")
        if override.is_discrete_sweep() and not any(True for _ in override.sweep_iterator()):
            raise UserError(f"{override.input_line}: there is nothing to try in it")
    return overrides

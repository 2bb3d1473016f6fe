"""What a sweep tries, as it stands in `hydra.sweeper.params` and was typed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, IntervalSweep, Override, Transformer
from omegaconf import DictConfig

from leyden.config.mistakes import UserError
from leyden.run.choices import steers
from leyden.sweep.dimension import Dimension, check_range, check_tags, of_interval, of_values
from leyden.sweep.override_text import as_typed
from leyden.sweep.zipped import is_zip, zipped


class Typed:
    """Reads the dimensions of a sweep.

    Args:
        loader: Hydra's, which knows the groups and their choices.
        config: Of the sweep; a zip has another name than its keys and groups.
        is_search: Whether they are for a search, which draws from intervals. A grid has lists, and runs those that are
            shuffled in another order.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig, *, is_search: bool) -> None:
        self.loader, self.config, self.is_search = loader, config, is_search
        self.parser = OverridesParser.create(config_loader=loader)
        # As the two have always written values into the names of directories and into a study.
        self.text = as_typed if is_search else Transformer.str

    def dimensions(
        self, params: Any, arguments: Sequence[str], where: str = "hydra.sweeper.params"
    ) -> list[Dimension]:
        """The dimensions of what stands in `params`, and of arguments, which go before.

        Raises:
            UserError: Something can't be tried, or is tried twice.
        """
        if not isinstance(params, Mapping | None):
            raise UserError(f"{where}={params}: must be what to try by key, as +hydra.sweeper.params.seed='0,1'")
        found: dict[str, Dimension] = {}
        lines = {str(key): value for key, value in (params or {}).items()}
        zips = {name: self._zip(name, value) for name, value in lines.items() if is_zip(value)}
        plain_lines = [f"{key}={value}" for key, value in lines.items() if key not in zips]
        for override in self.parser.parse_overrides([*plain_lines, *arguments]):
            found.pop(name := override.get_key_element(), None)
            found[name] = self._dimension(override)
        for name, dimension in zips.items():
            _check_keys(name, dimension, found.values())
            found[name] = dimension
        return list(found.values())

    def _zip(self, name: str, value: str) -> Dimension:
        if not name.isidentifier():
            raise UserError(
                f"{name}=zip(...): the name must be one word, as model_optimizer; it sets nothing itself"
            )
        if name in self.config or self.loader.get_group_options(name):
            raise UserError(
                f"{name}=zip(...): {name} is a key of the configuration; give the zip a name of its own"
            )
        return zipped(name, value, self.parser)

    def _dimension(self, override: Override) -> Dimension:
        """The dimension of an override; one that is fixed has one choice."""
        line = override.input_line
        if not override.is_sweep_override():
            text = override.get_value_element_as_str()
            return of_values(override, [override.value()], lambda _: text, is_fixed=True)
        if steers(override.key_or_group):
            raise UserError(f"{line}: is one thing for all jobs of a sweep, give one value")
        sweep = override.value()
        if isinstance(sweep, IntervalSweep) and not self.is_search:
            raise UserError(f"{line}: a grid takes lists, as 0.1,0.01; use sweep=tpe for intervals")
        check_range(line or "", sweep)
        try:
            if isinstance(sweep, IntervalSweep):
                return of_interval(override, sweep)
            if self.is_search and not isinstance(sweep, Glob):
                check_tags(sweep.tags, "log")  # type: ignore[union-attr]
                sweep.shuffle = False  # type: ignore[union-attr]  # a study wants the same choices in each start
            dimension = of_values(override, override.sweep_iterator(), self.text)
        except (ValueError, TypeError) as error:
            raise UserError(f"{line}: {error}") from error
        if not dimension.choices:
            raise UserError(f"{line}: there is nothing to try in it")
        return dimension


def _check_keys(name: str, dimension: Dimension, others: Iterable[Dimension]) -> None:
    """Raise a `UserError` if a member of a zip is set elsewhere, too: only one of the two would count."""
    elsewhere = {key for other in others for key in other.keys}
    if twice := [key for key in dimension.keys if key in elsewhere]:
        raise UserError(f"{name}=zip(...): {twice[0]} is set outside of it, too; give one of the two")

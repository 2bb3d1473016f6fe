"""What sweeps span, made of what is typed."""

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from leyden.config.hydra import composing
from leyden.sweep.grid import SearchSpaceParser, settings, spaces
from leyden.sweep.space import Space, read_when


def typed(*, is_search):
    with composing():
        loader = GlobalHydra.instance().config_loader()
    return SearchSpaceParser(loader, OmegaConf.create({"seed": 0}), is_search=is_search)


def space(*arguments, when=None, params=None):
    """That of a search."""
    dimensions = typed(is_search=True).dimensions(params, arguments)
    return Space(dimensions, read_when(when, dimensions))


def grid(*arguments, params=None, union=None, exclude=None, when=None):
    """The jobs of a grid, as texts."""
    found = spaces(typed(is_search=False), params, union, when, arguments)
    return [" ".join(overrides) for overrides in settings(found, exclude)]

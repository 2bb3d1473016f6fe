"""What sweeps span, made of what is typed."""

from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from leyden.config.hydra import composing
from leyden.sweep.space import read_space


def space(*arguments, params=None, settings=None, function=None, is_search=True):
    """That of a search, or of a grid."""
    with composing():
        loader = GlobalHydra.instance().config_loader()
    config = OmegaConf.create({"sweep": {"settings": settings, "space": function}})
    return read_space(loader, config, params, arguments, is_search=is_search)


def grid(*arguments, **parts):
    """The jobs of a grid, as texts."""
    settings = space(*arguments, **parts, is_search=False).settings()
    return [" ".join(overrides) for overrides in settings]


def optimizers(trial):
    """A space with a key that some trials lack; `tests.sweep.spaces.optimizers`."""
    optimizer = trial.suggest_categorical("which", ["sgd", "adamw"])
    if optimizer == "adamw":
        return {"optimizer": optimizer}
    return {
        "optimizer": optimizer,
        "optimizer.momentum": trial.suggest_float("momentum", 0.01, 0.9, log=True),
    }


def wrong(trial):
    return {"optimizer.lrr": 0.1}


def returning(trial):
    """Returns `value`, which a test sets."""
    return value


value = None
